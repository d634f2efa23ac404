"""All responses to a prompt in lists: with a score or a rank of each, or some chosen and the rest rejected.

in parallel  prompt, responses [text, ...], rewards [number, ...] (or scores, ratings, ranks)
as objects   prompt, answers [{answer, model, rank}, ...]: Nectar and its like
one better   prompt, responses [text, ...], best: the response, its letter or its model
best, rest   prompt, chosen [text, ...], rejected [text, ...]: RewardBench 2, rejected answers by the dozen
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from palate.corpus.formats.sides import LABELERS, VERDICTS, by_model, column_of, name_of, prompt_column, prompt_in
from palate.corpus.rows.fields import label, peek
from palate.corpus.rows.rejections import Malformed, Unusable
from palate.corpus.rows.turns import answer, messages_of, response_of
from palate.corpus.rows.values import Fields, list_of, number_of, ranks_by, value_of
from palate.corpus.rows.verdicts import Told, Unclear, plain, shown, verdict
from palate.records import Prompt, Ranking, Response

_MODELS = ("models", "model_names")
_LISTS = (
    "responses",
    "answers",
    "completions",
    "generations",
    "candidates",
    "outputs",
    "replies",
    "all_generated_responses",
    "samples",
)
_TEXTS = ("answer", "response", "text", "content", "completion", "output", "generation")
_AUTHORS = ("model", "generator", "policy", "model_name")
_RANKS = ("ranks", "rank", "ranking")
_LEARNED = ("rewards", "reward", "all_rm_scores", "rm_scores")  # numbers that a model gave
_SCORES = ("scores", "score", "ratings", "rating", "overall_score", "votes", *_LEARNED)


def in_lists(row: Fields) -> frozenset[str]:
    """The columns read here of a row whose responses are in a list, each with its score or rank."""
    prompt, answers = prompt_column(row), column_of(row, _LISTS)
    if prompt is None or answers is None or not isinstance(row[answers], list) or len(row[answers]) < 1:
        return frozenset()
    judged = _judged_by(row, row[answers])
    if judged is None:
        return frozenset()
    more = (column_of(row, names) for names in (LABELERS, _MODELS, ("system",)))
    return frozenset(filter(None, (prompt, answers, judged if judged in row else None, *more)))


def _judged_by(row: Fields, answers: Sequence[Any]) -> str | None:
    """What holds the scores or ranks: a column of as many numbers, or a key of the objects."""
    first = answers[0]
    if isinstance(first, Mapping):
        return column_of(first, (*_RANKS, *_SCORES))
    column = column_of(row, (*_RANKS, *_SCORES))
    if column is not None and isinstance(peek(row, column), list):
        return None if any(isinstance(number, bool) for number in peek(row, column)) else column
    verdict_column = column_of(row, VERDICTS)
    return None if verdict_column is None or isinstance(peek(row, verdict_column), list) else verdict_column


def ranked_list(row: Fields) -> Iterator[Ranking]:
    """One ranking of all responses of the list."""
    column = column_of(row, _LISTS)
    answers = list_of(row, column or "responses")
    judged = _judged_by(row, answers) if answers else None
    if judged is None:
        raise Malformed("no scores and no ranks of the responses")
    if isinstance(answers[0], Mapping):
        responses = [_response_of(answer) for answer in answers]
        numbers = [number_of(value_of(answer, judged), judged) for answer in answers]
    else:
        models = _names(row, column_of(row, _MODELS) or "", len(answers))
        responses = [
            response_of(answer, "response", model=model) for answer, model in zip(answers, models, strict=True)
        ]
        numbers = _numbers(row, judged, responses)
    if len(numbers) != len(responses):
        raise Malformed(f"field {judged!r} has {len(numbers)} entries for {len(responses)} responses")
    if len(responses) < 2:
        raise Unusable("a single response: nothing to compare")
    labeler = column_of(row, LABELERS)
    by_rank = judged in (*_RANKS, column_of(row, VERDICTS))
    yield Ranking(
        prompt=prompt_in(row),
        responses=tuple(responses),
        ranks=ranks_by(numbers, lowest_first=by_rank),
        strength=abs(numbers[0] - numbers[1]) if len(numbers) == 2 and not by_rank else None,
        labeler=name_of(row[labeler]) if labeler else "",
        source="ai" if judged in _LEARNED else "human",
    )


def _numbers(row: Fields, column: str, responses: Sequence[Response]) -> list[float]:
    """A number for each response, or the ranks of a verdict; numbers that may count from 0 or from 1 say nothing."""
    value = row[column]
    if isinstance(value, list):
        return [number_of(number, label(row, column)) for number in value]
    sides = [(response.text, "", _model(response)) for response in responses]
    if plain(value).isdigit() and not isinstance(value, Told):
        raise Unclear(value, label(row, column), [(shown(response.text),) for response in responses])
    return [float(rank) for rank in verdict(value, label(row, column), sides).ranks]


def _model(response: Response) -> str:
    return response.provenance.model if response.provenance else ""


def _response_of(answer: Any) -> Response:
    text = column_of(answer, _TEXTS) if isinstance(answer, Mapping) else None
    if text is None:
        raise Malformed(f"a response that is no object with one of {', '.join(_TEXTS)}")
    author = column_of(answer, _AUTHORS)
    return response_of(answer[text], text, model=name_of(answer[author]) if author else "")


def in_chosen_and_rejected(row: Fields) -> frozenset[str]:
    """The columns read here of a row with several chosen or several rejected answers."""
    prompt = prompt_column(row)
    if prompt is None or not {"chosen", "rejected"} <= row.keys():
        return frozenset()
    if not (_are_several(peek(row, "chosen")) or _are_several(peek(row, "rejected"))):
        return frozenset()
    models = ("chosen_model", "rejected_model", "chosen_models", "rejected_models", "models")
    return frozenset({prompt, "chosen", "rejected", *(name for name in models if name in row)})


def _are_several(value: Any) -> bool:
    """Whether these are answers, and not the turns of one."""
    return isinstance(value, list) and bool(value) and not any(isinstance(each, Mapping) for each in value)


def best_and_rest(row: Fields) -> Iterator[Ranking]:
    """One ranking: what was chosen is best, what was rejected is equal."""
    prompt = prompt_in(row)
    chosen, rejected = (_answers(row, name, prompt) for name in ("chosen", "rejected"))
    if not chosen or not rejected:
        raise Unusable("nothing chosen, or nothing rejected: nothing to compare")
    models = _names(row, "models", len(chosen) + len(rejected))
    own = [*_beside(row, "chosen", len(chosen)), *_beside(row, "rejected", len(rejected))]
    responses = tuple(
        by_model(response, beside or model)
        for response, beside, model in zip([*chosen, *rejected], own, models, strict=True)
    )
    ranks = (1,) * len(chosen) + (2,) * len(rejected)
    yield Ranking(prompt=prompt, responses=responses, ranks=ranks)


def _answers(row: Fields, name: str, prompt: Prompt) -> list[Response]:
    value = value_of(row, name)
    several = value if _are_several(value) or value == [] else [value]
    return [_answer(each, label(row, name), prompt) for each in several]


def _answer(value: Any, name: str, prompt: Prompt) -> Response:
    """A text, a turn, or a dialogue that ends with the answer to the prompt."""
    if not isinstance(value, list) or len(value) < 2:
        return response_of(value, name)
    turns = messages_of(value, name)
    if turns[:-1] != prompt.messages or turns[-1].role != "assistant":
        raise Unusable("a dialogue that is not the prompt and an answer to it: no shared prompt")
    return answer(turns[-1])


def _beside(row: Fields, side: str, count: int) -> list[str]:
    return _names(row, column_of(row, (f"{side}_model", f"{side}_models")) or "", count)


def _names(row: Fields, column: str, count: int) -> list[str]:
    """[count], one name for each, or the same for all."""
    value = row.get(column)
    names = [name_of(each) for each in value] if isinstance(value, list) else [name_of(value)] * count
    if len(names) != count:
        raise Malformed(f"field {column!r} has {len(names)} entries for {count} responses")
    return names
