"""One small function per format in which somebody preferred something.

Where two whole dialogues are compared they must share every turn but the last: what was preferred is that last answer.
Dialogues that part earlier compare two conversations, not two answers to one prompt, and are counted as unusable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from palate.corpus.files import Row
from palate.corpus.rejections import Malformed, Unusable
from palate.corpus.thumbs import thumbs
from palate.corpus.values import (
    Fields,
    instruction_prompt,
    list_of,
    messages_of,
    number_of,
    optional_number,
    optional_text,
    prompt_of_messages,
    prompt_of_value,
    ranks_by,
    response_of_value,
    said,
    text_of,
    truth_of,
    value_of,
    with_system,
)
from palate.records import Demonstration, Message, Prompt, Ranking, Response, Source

Rankings: TypeAlias = Iterator[Ranking | Unusable]

_SIDES = ("chosen", "rejected")
_TURN = re.compile(r"\n\n(Human|Assistant):")


def pair(prompt: Prompt, better: Response, worse: Response, strength: float | None = None) -> Ranking:
    """Two responses, the first of which was preferred."""
    return Ranking(prompt=prompt, responses=(better, worse), ranks=(1, 2), strength=strength)


def hh(row: Fields) -> Rankings:
    """chosen, rejected: whole transcripts with Human: and Assistant: before every turn."""
    yield last_turns(turns_of_transcript(text_of(row, "chosen")), turns_of_transcript(text_of(row, "rejected")))


def turns_of_transcript(text: str) -> tuple[Message, ...]:
    """The turns of a text with Human: and Assistant: before each, blanks at their ends left away."""
    head, *parts = _TURN.split(text)
    if head.strip():
        raise Unusable("a transcript that does not begin with Human: or Assistant:")
    roles, contents = parts[::2], [part.strip() for part in parts[1::2]]
    names = [("user" if role == "Human" else "assistant") for role in roles]
    return messages_of([{"role": name, "content": text} for name, text in zip(names, contents, strict=True)], "chosen")


def last_turns(chosen: Sequence[Message], rejected: Sequence[Message], strength: float | None = None) -> Ranking:
    """Two dialogues as a prompt, all their turns but the last, and two responses, the first of which is better."""
    if not (chosen and rejected and chosen[-1].role == rejected[-1].role == "assistant"):
        raise Unusable("a dialogue that does not end with the assistant's turn")
    if tuple(chosen[:-1]) != tuple(rejected[:-1]):
        raise Unusable("the two dialogues part before their last turn: no shared prompt")
    return pair(prompt_of_messages(chosen[:-1]), _response(chosen[-1]), _response(rejected[-1]), strength)


def _response(turn: Message) -> Response:
    return Response(text=turn.content)


def trl_explicit(row: Fields) -> Rankings:
    """prompt, chosen, rejected: texts or turns; the latter may repeat the prompt, and what stands before it.

    `margin` is the strength; else it is the difference of their scores, where both have one.
    """
    prompt = prompt_of_value(value_of(row, "prompt"))
    heads, answers = zip(*(_head_and_answer(value_of(row, key), key) for key in _SIDES), strict=True)
    if "messages" in row and messages_of(list_of(row, "messages"), "messages")[:-1] != heads[0]:
        raise Malformed("field 'messages' holds another dialogue than 'chosen'")
    if heads[0] != heads[1]:
        raise Unusable("the two dialogues part before their last turn: no shared prompt")
    if heads[0] and heads[0][-len(prompt.messages) :] != prompt.messages:
        raise Unusable("the dialogues do not end with the prompt: no shared prompt")
    chosen, rejected = (
        response_of_value(answer, key, model=_beside(row, key, "model") or "")
        for answer, key in zip(answers, _SIDES, strict=True)
    )
    yield pair(prompt_of_messages(heads[0] or prompt.messages), chosen, rejected, strength_of(row))


def _head_and_answer(value: Any, name: str) -> tuple[tuple[Message, ...], Any]:
    """The turns before an answer, if they are there, and the answer."""
    if isinstance(value, list) and len(value) > 1:
        turns = messages_of(value, name)
        return turns[:-1], [{"role": turns[-1].role, "content": turns[-1].content}]
    return (), value


def strength_of(row: Fields) -> float | None:
    """The margin of a pair, or how far apart its scores are."""
    margin = optional_number(row, "margin")
    scores = [_beside(row, key, "score", "rating") for key in _SIDES]
    if margin is not None or None in scores or "" in scores:
        return margin
    better, worse = (number_of(score, f"score of {key}") for score, key in zip(scores, _SIDES, strict=True))
    if better < worse:
        raise Unusable("the chosen response has the lower score")
    return better - worse


def _beside(row: Fields, side: str, *names: str) -> Any:
    """What else is said of the chosen or of the rejected response: score_chosen, chosen-rating, chosen_model, ..."""
    columns = (form for name in names for form in (f"{side}_{name}", f"{name}_{side}", f"{side}-{name}"))
    return next((row[column] for column in columns if row.get(column) is not None), None)


def trl_implicit(row: Fields) -> Rankings:
    """chosen, rejected: turns, or texts whose common beginning, up to a blank, is the prompt (margin: strength)."""
    strength = strength_of(row)
    chosen, rejected = value_of(row, "chosen"), value_of(row, "rejected")
    if not (isinstance(chosen, str) and isinstance(rejected, str)):
        yield last_turns(messages_of(chosen, "chosen"), messages_of(rejected, "rejected"), strength)
        return
    if chosen == rejected:
        raise Malformed("the two responses of a pair are identical")
    differ = (place for place, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b)
    length = next(differ, min(len(chosen), len(rejected)))
    shared = re.sub(r"\S+\Z", "", chosen[:length])
    if not shared.strip():
        raise Unusable("the two texts begin differently: no shared prompt")
    better, worse = (said(text[len(shared) :], "response") for text in (chosen, rejected))
    yield pair(Prompt.from_text(shared.rstrip()), Response(text=better), Response(text=worse), strength)


def llama_factory(row: Fields) -> Rankings:
    """conversations, or messages, with a chosen and a rejected turn, or a thumb for the last one."""
    if "chosen" not in row:
        yield from thumbs(row)
        return
    key = "conversations" if "conversations" in row else "messages"
    turns = with_system(optional_text(row, "system"), messages_of(list_of(row, key), key))
    chosen, rejected = (response_of_value(value_of(row, name), name) for name in _SIDES)
    yield pair(prompt_of_messages(turns, key), chosen, rejected)


def alpaca_preference(row: Fields) -> Rankings:
    """instruction, input, chosen, rejected."""
    chosen, rejected = (response_of_value(value_of(row, key), key) for key in ("chosen", "rejected"))
    yield pair(instruction_prompt(row), chosen, rejected)


def alpaca_preference_demonstration(row: Fields) -> Iterator[Demonstration]:
    """The `output` that stands beside chosen and rejected, where there is one."""
    if row.get("output"):
        yield Demonstration(prompt=instruction_prompt(row), response=Response(text=text_of(row, "output")))


def rankings(row: Fields) -> Rankings:
    """prompt, responses, ranks (1 best, equal = tie); ratings, strength, labeler, source where given."""
    responses = [response_of_value(value, "responses") for value in list_of(row, "responses")]
    given = {key: row[key] for key in ("ratings", "strength", "labeler", "source") if row.get(key) is not None}
    ranks = ranks_by([number_of(rank, "ranks") for rank in list_of(row, "ranks")], lowest_first=True)
    prompt = prompt_of_value(value_of(row, "prompt"))
    yield Ranking.model_validate({"prompt": prompt, "responses": responses, "ranks": ranks, **given})


def ultrafeedback(row: Fields) -> Rankings:
    """instruction, completions of {response, model, overall_score}: one ranking of all; judged by a model."""
    completions = list_of(row, "completions")
    if not all(isinstance(completion, Mapping) for completion in completions):
        raise Malformed("a completion is not an object with response and overall_score")
    responses = [
        response_of_value(value_of(c, "response"), "response", model=optional_text(c, "model")) for c in completions
    ]
    scores = [number_of(value_of(completion, "overall_score"), "overall_score") for completion in completions]
    yield _scored(Prompt.from_text(text_of(row, "instruction")), responses, scores, source="ai")


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
    prompt = prompt_of_value(value_of(row, "prompt"))
    if "rated" in row:
        responses = [Response(text=text_of(rated, "response")) for rated in row["rated"]]
        yield _scored(prompt, responses, [number_of(value_of(r, "helpfulness"), "helpfulness") for r in row["rated"]])
        return
    first, second = (Response(text=text_of(row, key)) for key in ("response_1", "response_2"))
    lean = number_of(value_of(row, "preference_strength"), "preference_strength")
    ranking = _scored(prompt, (first, second), (-lean, lean))
    yield ranking.model_copy(update={"strength": abs(lean)})


def helpsteer2_groups(rows: Iterator[Row]) -> Iterator[Row]:
    """Rated responses to one prompt stand one below the other: make one row of them, until one comes again."""
    open_row: Row | None = None
    for row in rows:
        if row.problem or "helpfulness" not in row.fields:
            yield row
        elif open_row is not None and _belongs(row.fields, open_row.fields):
            open_row.fields["rated"].append(row.fields)
        else:
            if open_row is not None:
                yield open_row
            open_row = Row(row.line, {**row.fields, "prompt": row.fields.get("prompt"), "rated": [row.fields]})
    if open_row is not None:
        yield open_row


def _belongs(rated: Fields, group: Fields) -> bool:
    same_prompt = group["prompt"] == rated.get("prompt")
    return same_prompt and all(rated.get("response") != other.get("response") for other in group["rated"])


def shp(row: Fields) -> Rankings:
    """history, human_ref_A, human_ref_B, labels (1: A was voted higher)."""
    responses = [Response(text=text_of(row, f"human_ref_{name}")) for name in "AB"]
    first = truth_of(value_of(row, "labels"), "labels")
    yield _scored(Prompt.from_text(text_of(row, "history")), responses, (first, not first), source="forum")


def webgpt(row: Fields) -> Rankings:
    """question (a text, or full_text in an object), answer_0, answer_1, score_0, score_1."""
    question = value_of(row, "question")
    prompt = Prompt.from_text(
        text_of(question if isinstance(question, Mapping) else {"full_text": question}, "full_text")
    )
    first, second = (Response(text=text_of(row, f"answer_{place}")) for place in (0, 1))
    scores = [number_of(value_of(row, f"score_{place}"), f"score_{place}") for place in (0, 1)]
    ranking = _scored(prompt, (first, second), scores)
    yield ranking.model_copy(update={"strength": abs(scores[0] - scores[1])})


def stiennon(row: Fields) -> Rankings:
    """info {subreddit, title, post} or {article}, summaries of {text, policy}, choice (0 or 1), worker.

    A post without subreddit and title is no request for a summary: it is the prompt itself.
    """
    info, summaries = value_of(row, "info"), list_of(row, "summaries")
    if not isinstance(info, Mapping) or len(summaries) != 2 or not all(isinstance(s, Mapping) for s in summaries):
        raise Malformed("not an info object with two summaries")
    responses = [response_of_value(value_of(s, "text"), "text", model=optional_text(s, "policy")) for s in summaries]
    second = truth_of(value_of(row, "choice"), "choice")
    prompt = Prompt.from_text(text_of(info, "post") if info.keys() == {"post"} else summary_request(info))
    yield _scored(prompt, responses, (not second, second), labeler=optional_text(row, "worker"))


def summary_request(info: Fields) -> str:
    """The post as the paper showed it to its models (Stiennon et al. 2020, appendix B)."""
    body = text_of(info, "article" if info.get("post") is None and "article" in info else "post")
    named = (("SUBREDDIT: r/", "subreddit"), ("TITLE: ", "title"))
    head = [name + optional_text(info, key) for name, key in named if optional_text(info, key)]
    return "\n\n".join([*head, f"POST: {body}", "TL;DR:"])
