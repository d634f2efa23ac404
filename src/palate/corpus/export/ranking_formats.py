"""One small function per format that holds all K responses of a ranking at once: a ranking in, its rows out.

`ultrafeedback` and `helpsteer2` have a score for every response and no ranks, so they can say a ranking only if it has
ratings and these give the same order. What they score beside that (honesty, coherence, ...) nobody was asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from palate.corpus.catalogue.format import Item
from palate.corpus.export.pair_formats import overall_score
from palate.corpus.export.parts import (
    Exported,
    Row,
    answered,
    demonstration_of,
    model_of,
    ranking_of,
    single_turn,
    turns,
    whole_ranking,
)
from palate.corpus.formats.trees import label_of_rating
from palate.corpus.rows.rejections import Unusable
from palate.corpus.rows.values import ranks_by
from palate.records import Demonstration, Prompt, Ranking, Response, content_id


def rankings(item: Item) -> Exported:
    """prompt, responses, ranks; ratings, flags, strength, labeler, source."""
    ranking = answered(ranking_of(item))
    row = {
        "prompt": turns(ranking.prompt),
        "responses": [response.text for response in ranking.responses],
        "ranks": list(ranking.ranks),
        "ratings": list(ranking.ratings) if ranking.ratings else None,
        "flags": [list(flags) for flags in ranking.flags] if ranking.flags is not None else None,
        "flags_offered": list(ranking.flags_offered) if ranking.flags_offered is not None else None,
        "strength": ranking.strength,
        "labeler": ranking.labeler or None,
        "source": ranking.source,
    }
    yield {name: value for name, value in row.items() if value is not None}


def ultrafeedback(item: Item) -> Exported:
    """instruction, completions of {response, model, annotations, overall_score}."""
    ranking, ranks = whole_ranking(item)
    prompt, ratings = single_turn(ranking.prompt), _ratings(ranking, ranks)
    aspects = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    yield {
        "instruction": prompt,
        "completions": [
            {
                "response": response.text,
                "model": model_of(response),
                "annotations": {aspect: {"Rating": "N/A"} for aspect in aspects},
                "overall_score": overall_score(rating),
            }
            for response, rating in zip(ranking.responses, ratings, strict=True)
        ],
    }


def _ratings(ranking: Ranking, ranks: tuple[int, ...]) -> tuple[float, ...]:
    if ranking.ratings is None:
        raise Unusable("no ratings: the format has scores and no ranks")
    if ranks_by(ranking.ratings) != ranks:
        raise Unusable("ratings that do not give its ranks: the format has scores and no ranks")
    return ranking.ratings


class HelpSteer2:
    """prompt, response, helpfulness: a row for every response.

    Rows of one prompt that stand together are one judgement, until a response comes again. So the next judgement of a
    prompt begins with a response of the last one; where they have none in common it cannot be told from it.
    """

    def __init__(self) -> None:
        self.prompt = ""
        self.texts: set[str] = set()

    def __call__(self, item: Item) -> Exported:
        """The rows of one ranking."""
        ranking, ranks = whole_ranking(item)
        prompt, ratings = single_turn(ranking.prompt), _ratings(ranking, ranks)
        texts = [response.text for response in ranking.responses]
        if len(set(texts)) < len(texts):
            raise Unusable("two identical responses")
        if prompt != self.prompt:
            self.texts = set()
        order = sorted(range(len(texts)), key=lambda place: texts[place] not in self.texts)
        if self.texts and texts[order[0]] not in self.texts:
            raise Unusable("other responses to the prompt of the ranking before: the format would take both for one")
        self.prompt, self.texts = prompt, set(texts)
        yield from ({"prompt": prompt, "response": texts[i], **_attributes(ratings[i])} for i in order)


def _attributes(rating: float) -> Row:
    """1 to 7 -> 0 to 4."""
    others = ("correctness", "coherence", "complexity", "verbosity")
    return {"helpfulness": (rating - 1) * 2 / 3, **dict.fromkeys(others)}


def oasst(item: Item) -> Exported:
    """The messages of a tree, a row each: the dialogue, below it the answers, rank 0 for the best."""
    if isinstance(item, Demonstration):
        shown = demonstration_of(item)
        if any(turn.role == "assistant" for turn in shown.prompt.messages):
            raise Unusable("an earlier turn of the assistant's: the format would take it for a demonstration")
        yield from _tree(item.id, shown.prompt, [_message(shown.response, user_id=shown.author or None)])
        return
    ranking, ranks = whole_ranking(item)
    ratings, flags = ranking.ratings or [None] * len(ranks), ranking.flags or [()] * len(ranks)
    parts = zip(ranking.responses, ranks, ratings, flags, strict=True)
    answers = [_message(said, rank=rank - 1, labels=_labels(rating, flags)) for said, rank, rating, flags in parts]
    yield from _tree(ranking.id, ranking.prompt, answers)


def _tree(name: str, prompt: Prompt, answers: Sequence[Row]) -> Exported:
    asked = prompt.messages
    if any(turn.role != ("user", "assistant")[place % 2] for place, turn in enumerate(asked)):
        raise Unusable("turns that do not alternate between user and assistant")
    ids = [content_id("message", name, str(place)) for place in range(len(asked) + len(answers))]
    dialogue = [
        _message(Response(text=turn.content), role=("prompter", "assistant")[i % 2]) for i, turn in enumerate(asked)
    ]
    parents = [None, *ids[: len(asked) - 1], *[ids[len(asked) - 1]] * len(answers)]
    for message, own, parent in zip([*dialogue, *answers], ids, parents, strict=True):
        yield message | {"message_id": own, "parent_id": parent, "message_tree_id": ids[0]}


def _message(response: Response, **given: Any) -> Row:
    """A message without its place in the tree."""
    return {
        "message_id": "",
        "parent_id": None,
        "user_id": None,
        "text": response.text,
        "role": "assistant",
        "lang": None,
        "rank": None,
        "synthetic": response.provenance is not None,
        "model_name": model_of(response) or None,
        "labels": _labels(None, ()),
        "message_tree_id": "",
        "tree_state": "ready_for_export",
        **given,
    }


def _labels(rating: float | None, flags: Sequence[str]) -> Row:
    """Flags, and the rating as `quality` from 0 to 1."""
    quality = [] if rating is None else [("quality", label_of_rating(rating))]
    labels = quality + [(flag, 1.0) for flag in flags]
    return {"name": [name for name, _ in labels], "value": [value for _, value in labels], "count": [1] * len(labels)}


def argilla(item: Item) -> Exported:
    """fields; responses with a ranking question whose value is a list of {value, rank}."""
    ranking, ranks = whole_ranking(item)
    names = _names(ranking)
    given = [{"value": name, "rank": rank} for name, rank in zip(names, ranks, strict=True)]
    texts = (response.text for response in ranking.responses)
    yield {
        "external_id": ranking.id,
        "fields": {"prompt": turns(ranking.prompt), **dict(zip(names, texts, strict=True))},
        "metadata": {},
        "responses": [
            {"user_id": ranking.labeler or None, "status": "submitted", "values": {"ranking": {"value": given}}}
        ],
    }


def label_studio(item: Item) -> Exported:
    """data {prompt, items}, annotations with a ranker whose buckets are the ranks: rank-1 is the best."""
    ranking, ranks = whole_ranking(item)
    names = _names(ranking)
    items = [
        {"id": name, "title": f"Response {place}", "body": response.text}
        for place, (name, response) in enumerate(zip(names, ranking.responses, strict=True), 1)
    ]
    buckets = {
        f"rank-{rank}": [name for name, given in zip(names, ranks, strict=True) if given == rank]
        for rank in sorted(set(ranks))
    }
    ranker = {"from_name": "rank", "to_name": "responses", "type": "ranker", "value": {"ranker": {"_": [], **buckets}}}
    labeler = {"email": ranking.labeler} if ranking.labeler else None
    annotation = {"completed_by": labeler, "lead_time": ranking.seconds, "was_cancelled": False, "result": [ranker]}
    yield {"data": {"prompt": turns(ranking.prompt), "items": items}, "annotations": [annotation]}


def _names(ranking: Ranking) -> list[str]:
    return [f"response-{place}" for place in range(1, len(ranking.responses) + 1)]
