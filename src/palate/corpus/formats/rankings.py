"""One small function per format in which somebody preferred something.

Where two whole dialogues are compared they must share every turn but the last: what was preferred is that last answer.
Dialogues that part earlier compare two conversations, not two answers to one prompt, and are counted as unusable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any, TypeAlias

from palate.corpus.formats.demonstrations import answers_transcript
from palate.corpus.formats.sides import LABELERS, column_of, name_of
from palate.corpus.formats.thumbs import thumbs
from palate.corpus.rows.fields import label
from palate.corpus.rows.rejections import Malformed, Unusable
from palate.corpus.rows.row import Row
from palate.corpus.rows.turns import (
    answer,
    asked,
    conversation_of,
    dialogue_in,
    history_of,
    instruction_prompt,
    prompt_of,
    response_of,
    transcript,
)
from palate.corpus.rows.values import (
    Fields,
    list_of,
    number_of,
    object_of,
    objects_of,
    optional_number,
    optional_text,
    ranks_by,
    said,
    strength_of,
    text_of,
    truth_of,
    value_of,
)
from palate.records import Demonstration, Message, Prompt, Provenance, Ranking, Response, Source

Rankings: TypeAlias = Iterator[Ranking | Unusable]

_SIDES = ("chosen", "rejected")
PROMPT_KEYS = ("prompt", "question", "query", "input")
_JUDGED_BY = tuple(name for name in LABELERS if name != "user")  # which may be what the user said
_GIVEN = ("ratings", "flags", "flags_offered", "strength", "labeler", "source")
_SHARED = ("prompt", "system", "system_prompt", "history", "tools")  # of rated responses that stand together


def pair(prompt: Prompt, better: Response, worse: Response, strength: float | None = None) -> Ranking:
    """Two responses, the first of which was preferred."""
    return Ranking(prompt=prompt, responses=(better, worse), ranks=(1, 2), strength=strength)


def by_labeler(read: Callable[[Fields], Rankings]) -> Callable[[Fields], Rankings]:
    """A parser of pairs whose rankings keep who judged, where a column names them."""

    @wraps(read)
    def parse(row: Fields) -> Rankings:
        column = column_of(row, _JUDGED_BY)
        for item in read(row):
            if column is not None and isinstance(item, Ranking):
                item = item.model_copy(update={"labeler": name_of(row[column])})
            yield item

    return parse


@by_labeler
def hh(row: Fields) -> Rankings:
    """chosen, rejected: whole transcripts with Human: and Assistant: before every turn."""
    chosen, rejected = (turns_of_transcript(text_of(row, key), label(row, key)) for key in ("chosen", "rejected"))
    yield last_turns(row, chosen, rejected)


def turns_of_transcript(text: str, name: str = "chosen") -> tuple[Message, ...]:
    """The turns of a text with Human: and Assistant: before each, blanks at their ends left away."""
    turns = transcript(text, name) if text.lstrip().startswith("Human:") else None
    if turns is None:
        raise Unusable(f"a transcript in {name!r} that does not begin with Human:")
    return turns


def last_turns(
    row: Fields, chosen: Sequence[Message], rejected: Sequence[Message], *beside: Fields, strength: float | None = None
) -> Ranking:
    """Two dialogues as a prompt, all their turns but the last, and two responses, the first of which is better."""
    if not (chosen and rejected and chosen[-1].role == rejected[-1].role == "assistant"):
        raise Unusable("a dialogue that does not end with the assistant's turn")
    if tuple(chosen[:-1]) != tuple(rejected[:-1]):
        raise Unusable("the two dialogues part before their last turn: no shared prompt")
    prompt = asked(row, (*history_of(row), *chosen[:-1]), "chosen", *beside)
    return pair(prompt, answer(chosen[-1]), answer(rejected[-1]), strength)


@by_labeler
def trl_explicit(row: Fields) -> Rankings:
    """prompt (or question, query, input), chosen, rejected: texts or turns, which may repeat the prompt.

    `margin` is the strength; else it is the difference of their scores, where both have one.
    """
    strength = _strength(row)
    key = next((key for key in PROMPT_KEYS if key in row), "prompt")
    yield pair(*_answered(row, prompt_of(row, key), strip=answers_transcript(row, key)), strength)


def _strength(row: Fields) -> float | None:
    """The margin of a pair, or how far apart its scores are."""
    margin = strength_of(row, "margin")
    columns = [_column(row, key, "score", "rating", "avg_rating") for key in _SIDES]
    if margin is not None or not all(columns):
        return margin
    better, worse = (optional_number(row, column) for column in columns)
    return None if better is None or worse is None else apart(better, worse)


def apart(better: float, worse: float) -> float:
    """How far apart two scores are."""
    if better < worse:
        raise Unusable("the better response has the lower score")
    return better - worse


def _column(row: Fields, side: str, *names: str) -> str:
    """What else is said of the chosen or of the rejected response: score_chosen, chosen-rating, chosen_model, ..."""
    forms = (form for name in names for form in (f"{side}_{name}", f"{name}_{side}", f"{side}-{name}"))
    return next((form for form in forms if form in row), "")


def _answered(row: Fields, prompt: Prompt, *, strip: bool = False) -> tuple[Prompt, Response, Response]:
    """The chosen and the rejected answer, and the prompt, of which a dialogue may say more than its own column."""
    heads: list[tuple[Message, ...]] = []
    answers: list[Response] = []
    for key in _SIDES:
        value = value_of(row, key)
        model = optional_text(row, _column(row, key, "model"))
        turns = () if isinstance(value, str) else dialogue_in(value, label(row, key))[0]
        if len(turns) > 1 and turns[-1].role == "assistant":
            heads.append(turns[:-1])
            answers.append(answer(turns[-1], Provenance(model=model) if model else None))
        else:
            answers.append(response_of(value, label(row, key), model=model, strip=strip))
    for head in heads:
        if head != heads[0] or not (_within(prompt.messages, head) or _within(head, prompt.messages)):
            raise Unusable("the two dialogues part before their last turn: no shared prompt")
    if heads and len(heads[0]) > len(prompt.messages):
        prompt = prompt.model_copy(update={"messages": heads[0]})
    return prompt, answers[0], answers[1]


def _within(part: Sequence[Message], whole: Sequence[Message]) -> bool:
    size = len(part)
    return any(tuple(whole[start : start + size]) == tuple(part) for start in range(len(whole) - size + 1))


@by_labeler
def trl_implicit(row: Fields) -> Rankings:
    """chosen, rejected: turns, or texts whose common beginning, up to a blank, is the prompt (margin: strength)."""
    strength = _strength(row)
    chosen, rejected = value_of(row, "chosen"), value_of(row, "rejected")
    if not (isinstance(chosen, str) and isinstance(rejected, str)):
        (better, first), (worse, second) = (
            dialogue_in(value_of(row, key), label(row, key)) for key in ("chosen", "rejected")
        )
        yield last_turns(row, better, worse, first, second, strength=strength)
        return
    if chosen == rejected:
        raise Unusable("identical responses: whatever was said of them, there is nothing to tell them apart by")
    differ = (place for place, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b)
    length = next(differ, min(len(chosen), len(rejected)))
    shared = re.sub(r"\S+\Z", "", chosen[:length])
    if not shared.strip():
        raise Unusable("the two texts begin differently: no shared prompt")
    texts = [said(value[len(shared) :], label(row, key)) for key, value in (("chosen", chosen), ("rejected", rejected))]
    prompt = asked(row, (*history_of(row), Message(role="user", content=shared.rstrip())), label(row, "chosen"))
    yield pair(prompt, Response(text=texts[0]), Response(text=texts[1]), strength)


def llama_factory(row: Fields) -> Rankings:
    """conversations, or messages, with a chosen and a rejected turn, or a thumb for the last one."""
    if "chosen" not in row:
        yield from thumbs(row)
        return
    key = "conversations" if "conversations" in row else "messages"
    prompt = asked(row, (*history_of(row), *conversation_of(row, key)), label(row, key))
    yield pair(*_answered(row, prompt))


@by_labeler
def ms_swift(row: Fields) -> Rankings:
    """messages that end with the preferred answer, and rejected_response (a text) or rejected_messages (turns)."""
    turns = conversation_of(row, "messages")
    if "rejected_messages" in row:
        rejected, beside = dialogue_in(value_of(row, "rejected_messages"), label(row, "rejected_messages"))
        yield last_turns(row, turns, rejected, beside)
        return
    if not turns or turns[-1].role != "assistant":
        raise Unusable("a dialogue that does not end with the assistant's turn")
    worse = response_of(value_of(row, "rejected_response"), label(row, "rejected_response"))
    prompt = asked(row, (*history_of(row), *turns[:-1]), label(row, "messages"))
    yield pair(prompt, answer(turns[-1]), worse)


@by_labeler
def alpaca_preference(row: Fields) -> Rankings:
    """instruction, input, chosen, rejected."""
    yield pair(*_answered(row, instruction_prompt(row)))


def alpaca_preference_demonstration(row: Fields) -> Iterator[Demonstration]:
    """The `output` that stands beside chosen and rejected, where there is one."""
    if row.get("output"):
        yield Demonstration(prompt=instruction_prompt(row), response=response_of(row["output"], label(row, "output")))


def rankings(row: Fields) -> Rankings:
    """prompt, responses, ranks (1 best, equal = tie); ratings, flags, strength, labeler, source where given."""
    name = label(row, "responses")
    responses = [response_of(value, name) for value in list_of(row, "responses")]
    given = {key: row[key] for key in _GIVEN if row.get(key) is not None}
    ranks = ranks_by([number_of(rank, label(row, "ranks")) for rank in list_of(row, "ranks")], lowest_first=True)
    yield Ranking.model_validate({"prompt": prompt_of(row), "responses": responses, "ranks": ranks, **given})


def ultrafeedback(row: Fields) -> Rankings:
    """instruction, completions of {response, model, overall_score}: one ranking of all; judged by a model."""
    completions = objects_of(row, "completions")
    responses = [
        response_of(value_of(each, "response"), label(each, "response"), model=optional_text(each, "model"))
        for each in completions
    ]
    scores = [number_of(value_of(each, "overall_score"), label(each, "overall_score")) for each in completions]
    yield _scored(instruction_prompt(row), responses, scores, source="ai")


def _scored(
    prompt: Prompt,
    responses: Sequence[Response],
    scores: Sequence[float],
    *,
    source: Source = "human",
    labeler: str = "",
) -> Ranking:
    if len(responses) < 2:
        raise Unusable("a single response: nothing to compare")
    return Ranking(prompt=prompt, responses=tuple(responses), ranks=ranks_by(scores), source=source, labeler=labeler)


def helpsteer2(row: Fields) -> Rankings:
    """prompt, response_1, response_2, preference_strength (-3: the first is much better, to 3), or grouped ratings."""
    prompt = prompt_of(row)
    if "rated" in row:
        rated = objects_of(row, "rated")
        responses = [Response(text=text_of(each, "response")) for each in rated]
        yield _scored(prompt, responses, [number_of(value_of(each, "helpfulness"), "helpfulness") for each in rated])
        return
    first, second = (Response(text=text_of(row, key)) for key in ("response_1", "response_2"))
    lean = number_of(value_of(row, "preference_strength"), label(row, "preference_strength"))
    ranking = _scored(prompt, (first, second), (-lean, lean))
    yield ranking.model_copy(update={"strength": abs(lean)})


def helpsteer2_groups(rows: Iterator[Row]) -> Iterator[Row]:
    """Rated responses to one prompt stand one below the other: make one row of them, until one comes again."""
    open_row: Row | None = None
    for row in rows:
        if row.problem or "helpfulness" not in row.fields:
            yield row
        elif open_row is not None and _belongs(row.fields, open_row.fields):
            open_row.fields["rated"].append(_own(row.fields))
        else:
            if open_row is not None:
                yield open_row
            open_row = _group(row)
    if open_row is not None:
        yield open_row


def _group(row: Row) -> Row:
    shared = {key: value for key, value in row.fields.items() if key in _SHARED}
    return Row(row.line, {**shared, "rated": [_own(row.fields)]}, members="rated.")


def _own(rated: Fields) -> dict[str, Any]:
    return {key: value for key, value in rated.items() if key not in _SHARED}


def _belongs(rated: Fields, group: Fields) -> bool:
    same_prompt = all(group.get(key) == rated.get(key) for key in _SHARED)
    return same_prompt and all(rated.get("response") != other.get("response") for other in group["rated"])


def shp(row: Fields) -> Rankings:
    """history (the post: a text), human_ref_A, human_ref_B, labels (1: A was voted higher)."""
    responses = [Response(text=text_of(row, f"human_ref_{name}")) for name in "AB"]
    first = truth_of(value_of(row, "labels"), label(row, "labels"))
    yield _scored(prompt_of(row, "history", history=False), responses, (first, not first), source="forum")


def webgpt(row: Fields) -> Rankings:
    """question (a text, or full_text in an object), answer_0, answer_1, score_0, score_1."""
    question = value_of(row, "question")
    told, key = (question, "full_text") if isinstance(question, Mapping) else (row, "question")
    prompt = asked(row, (*history_of(row), Message(role="user", content=text_of(told, key))), label(told, key))
    first, second = (Response(text=text_of(row, f"answer_{place}")) for place in (0, 1))
    scores = [number_of(value_of(row, f"score_{place}"), label(row, f"score_{place}")) for place in (0, 1)]
    ranking = _scored(prompt, (first, second), scores)
    yield ranking.model_copy(update={"strength": abs(scores[0] - scores[1])})


def stiennon(row: Fields) -> Rankings:
    """info {subreddit, title, post} or {article}, summaries of {text, policy}, choice (0 or 1), worker.

    A post without subreddit and title is no request for a summary: it is the prompt itself.
    """
    info, summaries = object_of(value_of(row, "info"), label(row, "info")), objects_of(row, "summaries")
    if len(summaries) != 2:
        raise Malformed(f"field {label(row, 'summaries')!r} holds {len(summaries)} summaries, not two")
    responses = [
        response_of(value_of(each, "text"), label(each, "text"), model=optional_text(each, "policy"))
        for each in summaries
    ]
    second = truth_of(value_of(row, "choice"), label(row, "choice"))
    text = text_of(info, "post") if info.keys() == {"post"} else summary_request(info)
    prompt = asked(row, (*history_of(row), Message(role="user", content=text)), label(row, "info"))
    yield _scored(prompt, responses, (not second, second), labeler=optional_text(row, "worker"))


def summary_request(info: Fields) -> str:
    """The post as the paper showed it to its models (Stiennon et al. 2020, appendix B)."""
    body = text_of(info, "article" if info.get("post") is None and "article" in info else "post")
    named = (("SUBREDDIT: r/", "subreddit"), ("TITLE: ", "title"))
    head = [name + optional_text(info, key) for name, key in named if optional_text(info, key)]
    return "\n\n".join([*head, f"POST: {body}", "TL;DR:"])
