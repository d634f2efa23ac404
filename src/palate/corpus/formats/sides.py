"""Responses side by side in a row, under names that people give them, and one column that says which is better.

    responses  response_a, response_b | answer_1, answer_2 | result_x, result_y | left_output, right_output | ...
    judged     winner, preferred, better_response_id, ... (see `verdicts`), a list of votes among them,
               winner_model_a, winner_model_b, winner_tie, or a score or a rank of each side
    beside     the models (model_a, model_b), labeler, worker, judge, ..., seconds, strength

Capitals do not matter; `_`, `-` and blanks are one. Two or more sides, lettered or numbered alike, are read alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from string import ascii_lowercase
from typing import Any

from palate.corpus.rows.fields import label, peek
from palate.corpus.rows.rejections import Malformed, Unusable
from palate.corpus.rows.turns import prompt_of, response_of
from palate.corpus.rows.values import Fields, number_of, optional_number, ranks_by, strength_of, truth_of, value_of
from palate.corpus.rows.verdicts import Verdict, best_of, understood, verdict
from palate.records import Prompt, Provenance, Ranking, Response, Source

_FORMS = ("{0}_{1}", "{0}{1}", "{1}_{0}", "model_{1}_{0}")
_DIGITS = tuple("0123456789")
_ENDINGS = (tuple(ascii_lowercase[:12]), _DIGITS, _DIGITS[1:], ("x", "y"), ("left", "right"), ("first", "second"))
_BARE = (("left", "right"), ("a", "b"), ("first", "second"))
_RESPONSES = (
    "response",
    "answer",
    "output",
    "completion",
    "result",
    "generation",
    "candidate",
    "reply",
    "summary",
    "argument",
    "model_output",
    "output_model",
    "response_model",
    "orig_response",
    "option",
    "assistant",
    "message",
    "story",
    "translation",
    "text",
)
_MODELS = ("model", "model_name", "system", "policy", "source", "generator", "name")
_SCORES = ("score", "rating", "reward", "orig_score")
_PROMPTS = (
    "orig_instruction",
    "prompt",
    "question",
    "instruction",
    "query",
    "input",
    "text",
    "post",
    "history",
    "context",
    "article",
    "document",
    "user_prompt",
    "user_input",
    "user_query",
    "dialogue",
    "conversation",
    "conversations",
    "messages",
)
VERDICTS = (
    "winner",
    "preferred",
    "preferred_response",
    "preference",
    "human_preference",
    "orig_preference",
    "better",
    "better_response",
    "better_response_id",
    "better_id",
    "choice",
    "chosen_response",
    "selected",
    "selection",
    "picked",
    "pref",
    "pick",
    "decision",
    "outcome",
    "comparison",
    "verdict",
    "judgement",
    "judgment",
    "best",
    "best_response",
    "preferred_model",
    "winning_model",
    "vote",
    "votes",
    "label",
    "labels",
    "chosen",
)
LABELERS = (
    "labeler",
    "labeler_id",
    "labeller",
    "worker",
    "worker_id",
    "workerid",
    "annotator",
    "annotator_id",
    "rater",
    "rater_id",
    "judge",
    "evaluator",
    "user_id",
    "user",
    "evaluation_session_id",
)
_SECONDS = ("seconds", "lead_time", "time_spent", "duration", "duration_seconds", "time_seconds")
STRENGTHS = ("strength", "margin", "preference_strength")
_NUMERAL = re.compile(r"\s*\d+\s*")


@dataclass(frozen=True, slots=True)
class Sides:
    """Where the responses of a row stand.

    Attributes:
        names: the row's columns by their plain names.
        stem: what the columns share.
        endings: [K], what tells them apart.
        columns: [K], as they are called in the row.
    """

    names: Mapping[str, str]
    stem: str
    endings: tuple[str, ...]
    columns: tuple[str, ...]

    def beside(self, *stems: str) -> tuple[str, ...] | None:
        """[K] other columns with the same endings, such as the models'."""
        for stem in stems:
            for form in (*_FORMS, "{2}_{1}_{0}", "{0}_{2}_{1}"):
                found = [self.names.get(form.format(stem, ending, self.stem)) for ending in self.endings]
                if None not in found:
                    return tuple(filter(None, found))
        return None


def plain_names(row: Fields) -> Mapping[str, str]:
    """The columns of a row by their plain names."""
    return _plain_names(tuple(row))


@lru_cache(maxsize=1 << 8)  # the rows of a file have the same columns, but for those that are null
def _plain_names(columns: tuple[str, ...]) -> Mapping[str, str]:
    return {re.sub(r"[\W_]+", "_", name.strip().lower()): name for name in columns}


def sides_of(row: Fields, stems: tuple[str, ...] = _RESPONSES) -> Sides | None:
    """The responses of a row, if two or more stand side by side."""
    return _sides_among(tuple(row), stems)


@lru_cache(maxsize=1 << 8)
def _sides_among(columns: tuple[str, ...], stems: tuple[str, ...]) -> Sides | None:
    names = _plain_names(columns)
    for stem in stems:
        for endings in _ENDINGS:
            for form in _FORMS:
                found: list[str] = []
                for ending in endings:
                    if (name := form.format(stem, ending)) not in names:
                        break
                    found.append(names[name])
                if len(found) > 1:
                    return Sides(names, stem, endings[: len(found)], tuple(found))
    named_apart = stems is not _RESPONSES or _sides_among(columns, _MODELS) is not None
    return None if named_apart else _bare_sides(names)


def _bare_sides(names: Mapping[str, str]) -> Sides | None:
    """Two responses in columns called `left` and `right`, `a` and `b`, and nothing more.

    Where models have columns of their own, such bare ones hold names as well.
    """
    for endings in _BARE:
        if all(ending in names for ending in endings):
            return Sides(names, "", endings, tuple(names[ending] for ending in endings))
    return None


def column_of(row: Fields, candidates: Sequence[str]) -> str | None:
    """The row's column of the first of these names that it has."""
    names = plain_names(row)
    return next((names[name] for name in candidates if name in names), None)


def prompt_column(row: Fields) -> str | None:
    """The column of the prompt; a number is a prompt's number as long as there is a text."""
    names = plain_names(row)
    present = [names[name] for name in _PROMPTS if name in names]
    numerals = _numerals(row)
    return next(iter([column for column in present if column not in numerals] or present), None)


def _numerals(row: Fields) -> list[str]:
    names = plain_names(row)
    present = (names[name] for name in _PROMPTS if name in names)
    return [column for column in present if _NUMERAL.fullmatch(str(peek(row, column)))]


def columns(row: Fields) -> frozenset[str]:
    """The columns of a row that are read here; none if it does not show two sides, their prompt and a judgement."""
    sides, prompt = sides_of(row) or sides_of(row, _MODELS), prompt_column(row)
    if sides is None or prompt is None:
        return frozenset()
    judged = _judged_by(row, sides)
    if not judged:
        return frozenset()
    more = (column_of(row, names) for names in (LABELERS, _SECONDS, STRENGTHS, ("system",)))
    models = sides.beside(*_MODELS) or ()
    return frozenset(filter(None, (prompt, *sides.columns, *judged, *models, *_bare(row, sides), *more)))


def _judged_by(row: Fields, sides: Sides) -> tuple[str, ...]:
    one = column_of(row, VERDICTS)
    tie = sides.names.get("winner_tie")
    won = sides.beside("winner", "winner_model")
    scores = sides.beside(*_SCORES, "rank")
    return (one,) if one else (*won, *filter(None, [tie])) if won else scores or ()


def side_by_side(row: Fields) -> Iterator[Ranking | Unusable]:
    """A ranking of the row's responses for every judgement of it."""
    sides = sides_of(row)
    if sides is None:
        raise Malformed(_no_answers(row))
    responses = tuple(
        response_of(value_of(row, column), label(row, column), model=model)
        for column, model in zip(sides.columns, models_of(row, sides), strict=True)
    )
    yield from judged(row, prompt_in(row), responses, sides)


def judged(
    row: Fields, prompt: Prompt, responses: Sequence[Response], sides: Sides, *, source: Source = "human"
) -> Iterator[Ranking | Unusable]:
    """A ranking of these responses for every judgement that the row holds."""
    column = column_of(row, LABELERS)
    labeler = name_of(row[column]) if column else ""
    strength = strength_of(row, column_of(row, STRENGTHS) or "")
    seconds = optional_number(row, column_of(row, _SECONDS) or "")
    for name, found in _verdicts(row, sides, models_of(row, sides)):
        if isinstance(found, Unusable):
            yield found
            continue
        yield Ranking(
            prompt=prompt,
            responses=tuple(responses),
            ranks=found.ranks,
            flags=found.flags,
            strength=found.strength if strength is None else strength,
            labeler="-".join(filter(None, (labeler, name))),
            seconds=seconds,
            source=source,
        )


def prompt_in(row: Fields) -> Prompt:
    """The prompt of a row whose columns may have any of the usual names."""
    column = prompt_column(row)
    if column is None:
        raise Malformed(f"no column that could be the prompt: call it one of {', '.join(_PROMPTS)}")
    for number in _numerals(row):
        value_of(row, number)  # says no more than the prompt's text
    return prompt_of(row, column, history=column != "history")


def models_of(row: Fields, sides: Sides) -> tuple[str, ...]:
    """[K], who wrote the responses; a name rather than a number, where the row has both."""
    found = sides.beside(*_MODELS)
    models = [name_of(row[column]) for column in found] if found else [""] * len(sides.columns)
    if bare := _bare(row, sides):
        shown = [name_of(row[column]) for column in bare]
        models = [
            name if not model or _NUMERAL.fullmatch(model) else model for model, name in zip(models, shown, strict=True)
        ]
    return tuple(models)


def by_model(response: Response, model: str) -> Response:
    """The response, written by a model if one is named."""
    return response.model_copy(update={"provenance": Provenance(model=model)}) if model else response


def _bare(row: Fields, sides: Sides) -> tuple[str, ...]:
    """`left` and `right` beside other sides are the names of what stood there."""
    bare = tuple(filter(None, (sides.names.get(name) for name in ("left", "right"))))
    return bare if len(bare) == len(sides.columns) == 2 and not set(bare) & set(sides.columns) else ()


def name_of(value: Any) -> str:
    """A person or a model, called by a text or a number, or by the email or id of an object."""
    if isinstance(value, Mapping):
        value = value.get("email", value.get("id"))
    if isinstance(value, list):
        value = "-".join(map(str, value))
    return "" if value is None else str(value).strip()


def _verdicts(row: Fields, sides: Sides, models: Sequence[str]) -> Iterator[tuple[str, Verdict | Unusable]]:
    column = column_of(row, VERDICTS)
    if column is None:
        yield "", _by_columns(row, sides)
        return
    named = sides.beside(*_MODELS)
    numbers = [name_of(row[name]) for name in named] if named else [""] * len(models)
    known = [*zip(sides.columns, sides.endings, models, numbers, strict=True)]
    loser = sides.names.get("rejected") if column == sides.names.get("chosen") else None
    if loser and verdict(row[loser], loser, known).ranks == verdict(row[column], column, known).ranks:
        raise Malformed(f"{column!r} and {loser!r} name the same response")
    scores = _scores(row, sides)
    judged = row[column]
    if isinstance(judged, str) and not understood(judged, known):  # perhaps the better text itself
        judged = next((side for side in sides.columns if peek(row, side) == judged), judged)
    for name, found in votes(judged, column, known):
        yield name, found if isinstance(found, Unusable) else _by_scores(found, scores)


def votes(value: Any, column: str, sides: Sequence[Sequence[str]]) -> Iterator[tuple[str, Verdict | Unusable]]:
    """One judgement, or a list of votes, which are called vote-1, vote-2, ...; those not given are counted."""
    several = isinstance(value, list) and not any(isinstance(vote, Mapping) for vote in value)
    for place, vote in enumerate(value if isinstance(value, list) else [value], 1):
        try:
            found: Verdict | Unusable = verdict(_selected(vote), column, sides)
        except Unusable as problem:
            found = problem
        yield f"vote-{place}" if several else "", found


def _selected(vote: Any) -> Any:
    """What was selected, where a tool writes {selected: left}."""
    return vote["selected"] if isinstance(vote, Mapping) and "selected" in vote else vote


def _by_columns(row: Fields, sides: Sides) -> Verdict:
    """A judgement that is spread over columns: one that is set, or a score or a rank of each side."""
    if won := sides.beside("winner", "winner_model"):
        tie = sides.names.get("winner_tie")
        *set_, tied = (column is not None and truth_of(value_of(row, column), column) for column in (*won, tie))
        if set_.count(True) + tied != 1:
            raise Malformed(f"not one of {', '.join((*won, *filter(None, [tie])))} is set")
        return Verdict((1,) * len(won)) if tied else best_of(set_.index(True), len(won))
    if ranked := sides.beside("rank"):
        return Verdict(ranks_by([number_of(value_of(row, column), column) for column in ranked], lowest_first=True))
    scores = _scores(row, sides)
    if not scores:
        raise Malformed("no column that says which response is better")
    return Verdict(ranks_by(scores), strength=_distance(scores))


def _scores(row: Fields, sides: Sides) -> list[float]:
    """[K], or none."""
    columns = sides.beside(*_SCORES) or ()
    return [number_of(value_of(row, column), column) for column in columns]


def _distance(scores: Sequence[float]) -> float | None:
    return abs(scores[0] - scores[1]) if len(scores) == 2 else None


def _by_scores(found: Verdict, scores: Sequence[float]) -> Verdict | Unusable:
    """A verdict between two with scores beside it: how far these are apart is the strength."""
    if len(scores) != 2 or found.strength is not None or found.ranks.count(1) != 1:
        return found
    if ranks_by(scores) == found.ranks[::-1]:
        return Unusable("the scores say the opposite of the verdict")
    return replace(found, strength=_distance(scores))


def _no_answers(row: Fields) -> str:
    sides = sides_of(row, _MODELS)
    if sides is None:
        return "no two responses side by side, such as response_a and response_b"
    which, judged = " and ".join(map(repr, sides.columns)), column_of(row, VERDICTS)
    return (
        f"{judged!r} says which of {which} is better, but what they answered is not in this file: add the file that "
        "has it with --join COLUMN=FILE, by the column that both share"
    )
