"""One small function per format of pairs and thumbs: a pair in, a row out.

A ranking of K responses gives a row for each of its pairs. Formats that name the better response leave ties out; those
that name a winner keep the order of the record, so that the first is not always the better one.

Left out: the scores of `shp`, which are a forum's votes, and the confidence of `stiennon`. They are null.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from palate.corpus.catalogue.format import Item
from palate.corpus.export.parts import (
    Comparison,
    Exported,
    Exporter,
    Note,
    Row,
    answer,
    demonstration_of,
    in_pairs,
    model_of,
    ranking_of,
    single_turn,
    trl_turns,
    turns,
)
from palate.corpus.formats import rankings
from palate.corpus.rows.rejections import Rejected, Unusable
from palate.records import Demonstration, Message, Prompt, Ranking, Response

_NEUTRAL = 4.0  # the middle of the rating scale: a thumb is what lies on either side of it
_THUMBS = (1.0, 7.0)
_POST = re.compile(
    r"(SUBREDDIT: r/(?P<subreddit>.*?)\n\n)?(TITLE: (?P<title>.*?)\n\n)?POST: (?P<post>.*)\n\nTL;DR:", re.DOTALL
)


def trl_explicit(pair: Comparison) -> Exported:
    """prompt, chosen, rejected as texts."""
    row = {"prompt": single_turn(pair.prompt), "chosen": pair.first.text, "rejected": pair.second.text}
    yield row | _margin(pair)


def trl_conversational(pair: Comparison) -> Exported:
    """prompt, chosen, rejected as turns."""
    row = {"prompt": trl_turns(pair.prompt), "chosen": [answer(pair.first)], "rejected": [answer(pair.second)]}
    yield row | _margin(pair)


def trl_implicit(pair: Comparison) -> Exported:
    """chosen, rejected as turns, both with their prompt."""
    head = turns(pair.prompt)
    yield {"chosen": [*head, answer(pair.first)], "rejected": [*head, answer(pair.second)]} | _margin(pair)


def trl_implicit_text(pair: Comparison) -> Exported:
    """chosen, rejected as texts, both with their prompt: they have to part at the first word after it."""
    prompt = single_turn(pair.prompt)
    row = {"chosen": f"{prompt}\n\n{pair.first.text}", "rejected": f"{prompt}\n\n{pair.second.text}"}
    if not _reads_as(row, pair):
        raise Unusable("texts that do not show where the prompt ends, such as responses that begin alike")
    yield row | _margin(pair)


def _reads_as(row: Row, pair: Comparison) -> bool:
    try:
        (found,) = rankings.trl_implicit(row)
    except Rejected:
        return False
    texts = (pair.first.text, pair.second.text)
    return isinstance(found, Ranking) and found.prompt.text == pair.prompt.text and _texts(found) == texts


def _texts(ranking: Ranking) -> tuple[str, ...]:
    return tuple(response.text for response in ranking.responses)


def _margin(pair: Comparison) -> Row:
    return {} if pair.strength is None else {"margin": pair.strength}


class EvenMargins:
    """A margin in every row or in none, as the first row has it: TRL's reward trainer takes no other file."""

    def __init__(self, write: Callable[[Comparison], Exported]) -> None:
        self.exporter = in_pairs(write)
        self.present: bool | None = None

    def __call__(self, item: Item) -> Exported:
        """The rows of one ranking."""
        for row in self.exporter(item):
            yield from self._even(row) if isinstance(row, dict) else (row,)

    def _even(self, row: Row) -> Exported:
        if self.present is None:
            self.present = "margin" in row
        if self.present and "margin" not in row:
            yield Note("no strength given: margin 0, since the file's first pair has one")
            row["margin"] = 0.0
        elif not self.present and "margin" in row:
            yield Note("strength left out, since the file's first pair has none")
            del row["margin"]
        yield row


def in_thumbs(write: Callable[[Prompt, Response, bool], Row]) -> Exporter:
    """An exporter of thumbs: one for every rated response; without ratings the best are thumbs up, the worst down.

    A response that was cut off is left out: read back it would be one that ends there.
    """

    def export(item: Item) -> Exported:
        ranking = ranking_of(item)
        for place, (response, up) in enumerate(zip(ranking.responses, _ups(ranking), strict=True)):
            if up is None:
                yield Unusable(_no_thumb(ranking))
            elif response.provenance is not None and not response.provenance.ended:
                yield Unusable("a response that was cut off, which the format cannot say")
            elif not response.text.strip():
                yield Unusable("an empty response")
            else:
                yield write(ranking.prompt, response, up)
                if ranking.ratings is None:
                    yield Note("no ratings: the best of a ranking is a thumb up, the worst a thumb down")
                elif ranking.ratings[place] not in _THUMBS:
                    yield Note("a rating other than 1 and 7: written as a thumb")

    return export


def _ups(ranking: Ranking) -> list[bool | None]:
    if ranking.ratings is not None:
        return [None if rating == _NEUTRAL else rating > _NEUTRAL for rating in ranking.ratings]
    if not ranking.pairs:
        return [None] * len(ranking.responses)
    thumbs = {max(ranking.ranks): False, 1: True}
    return [thumbs.get(rank) for rank in ranking.ranks]


def _no_thumb(ranking: Ranking) -> str:
    if ranking.ratings is None and ranking.pairs:
        return "between the best and the worst of a ranking: no thumb"
    return "neither good nor bad: no thumb"


def trl_kto(prompt: Prompt, response: Response, up: bool) -> Row:
    """prompt, completion as turns, label."""
    return {"prompt": trl_turns(prompt), "completion": [answer(response)], "label": up}


def trl_kto_text(prompt: Prompt, response: Response, up: bool) -> Row:
    """prompt, completion as texts, label."""
    return {"prompt": single_turn(prompt), "completion": response.text, "label": up}


def hh(pair: Comparison) -> Exported:
    """chosen, rejected: whole transcripts."""
    yield {"chosen": _transcript(pair.prompt, pair.first), "rejected": _transcript(pair.prompt, pair.second)}


def _transcript(prompt: Prompt, response: Response) -> str:
    said = [*prompt.messages, Message(role="assistant", content=response.text)]
    if any(turn.role == "system" for turn in said):
        raise Unusable("a system turn, which a transcript does not have")
    names = {"user": "Human", "assistant": "Assistant"}
    text = "".join(f"\n\n{names[turn.role]}: {turn.content.strip()}" for turn in said)
    if [turn.content for turn in rankings.turns_of_transcript(text)] != [turn.content.strip() for turn in said]:
        raise Unusable("a text with Human: or Assistant: in it, which a transcript would take for a turn")
    return text


def ultrafeedback_binarized(pair: Comparison) -> Exported:
    """prompt, chosen and rejected as turns with the prompt, score_chosen, score_rejected (null without ratings)."""
    prompt = single_turn(pair.prompt)
    asked = {"role": "user", "content": prompt}
    scores: list[float | None] = [None, None]
    if pair.ratings is not None and pair.ratings[0] >= pair.ratings[1]:
        scores = [overall_score(rating) for rating in pair.ratings]
    elif pair.ratings is not None:
        yield Note("ratings left out, since they contradict the ranks")
    yield {
        "prompt": prompt,
        "chosen": [asked, answer(pair.first)],
        "rejected": [asked, answer(pair.second)],
        "score_chosen": scores[0],
        "score_rejected": scores[1],
    }


def overall_score(rating: float) -> float:
    """1 to 7 -> 1 to 10, the scale of UltraFeedback."""
    return 1.5 * rating - 0.5


def helpsteer2_preference(pair: Comparison) -> Exported:
    """prompt, response_1, response_2, preference_strength from -3 (the first is much better) to 3."""
    row = {"prompt": single_turn(pair.prompt), "response_1": pair.first.text, "response_2": pair.second.text}
    size = 0
    if pair.lead and not pair.strength:
        yield Note("no strength given: written as 2, better")
        size = 2
    elif pair.lead and pair.strength:
        size = min(max(round(pair.strength), 1), 3)
        if size != pair.strength:
            yield Note("a strength other than 1, 2, 3: written as the nearest of them")
    yield {**row, "preference_strength": -pair.lead * size}


def webgpt(pair: Comparison) -> Exported:
    """question, answer_0, answer_1, and scores of opposite sign whose difference is the strength."""
    question = {"dataset": "palate", "id": pair.prompt.id, "full_text": single_turn(pair.prompt)}
    strength = (pair.strength or 0.0) if pair.lead else 0.0
    if pair.lead and not strength:
        yield Note("no strength given: written as a difference of 1")
        strength = 1.0
    elif strength > 2:
        yield Note("a strength of more than 2: written as a difference of 2, the most there is")
        strength = 2.0
    score = pair.lead * strength / 2
    row = {"question": question, "answer_0": pair.first.text, "answer_1": pair.second.text}
    yield {**row, "score_0": score, "score_1": 0.0 - score}


def shp(pair: Comparison) -> Exported:
    """history, human_ref_A, human_ref_B, labels (1: A is better)."""
    _no_tie(pair)
    row = {"history": single_turn(pair.prompt), "human_ref_A": pair.first.text, "human_ref_B": pair.second.text}
    yield {**row, "labels": int(pair.lead > 0), "score_A": None, "score_B": None}


def stiennon(pair: Comparison) -> Exported:
    """info, summaries of {text, policy, note}, choice, worker, extra {confidence}."""
    _no_tie(pair)
    yield {
        "info": _post(single_turn(pair.prompt)),
        "summaries": [{"text": each.text, "policy": model_of(each), "note": ""} for each in (pair.first, pair.second)],
        "choice": int(pair.lead < 0),
        "worker": pair.labeler,
        "extra": {"confidence": None},
    }


def _post(prompt: str) -> Mapping[str, str]:
    """The post that a prompt was made of; any other prompt stands for a post without title and subreddit."""
    found = _POST.fullmatch(prompt)
    info = {name: text for name, text in found.groupdict().items() if text is not None} if found else {}
    return info if len(info) > 1 and rankings.summary_request(info) == prompt else {"post": prompt}


def arena(pair: Comparison) -> Exported:
    """model_a, model_b, winner, judge, conversation_a, conversation_b."""
    head = turns(pair.prompt)
    yield {
        "model_a": model_of(pair.first),
        "model_b": model_of(pair.second),
        "winner": {1: "model_a", 0: "tie", -1: "model_b"}[pair.lead],
        "judge": pair.labeler,
        "conversation_a": [*head, answer(pair.first)],
        "conversation_b": [*head, answer(pair.second)],
    }


def _no_tie(pair: Comparison) -> None:
    if not pair.lead:
        raise Unusable("a tie: the format has none")


def csv(item: Item) -> Exported:
    """prompt | prompt, response | prompt, chosen, rejected, margin, whatever the record is."""
    if isinstance(item, Prompt):
        yield {"prompt": single_turn(item)}
    elif isinstance(item, Demonstration):
        shown = demonstration_of(item)
        yield {"prompt": single_turn(shown.prompt), "response": shown.response.text}
    else:
        for row in in_pairs(trl_explicit)(item):
            yield {**row, "margin": row.get("margin")} if isinstance(row, dict) else row
