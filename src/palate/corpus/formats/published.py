"""Published sets of preferences whose shape is their own: one small function for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from palate.corpus.formats.rankings import last_turns, pair
from palate.corpus.formats.sides import Sides, by_model, judged, models_of, plain_names, side_by_side
from palate.corpus.rows.fields import label
from palate.corpus.rows.rejections import Unusable
from palate.corpus.rows.row import Row
from palate.corpus.rows.turns import conversation_of, dialogue_in, prompt_of, response_of
from palate.corpus.rows.values import (
    Fields,
    list_of,
    number_of,
    object_of,
    objects_of,
    optional_number,
    ranks_by,
    said,
    structure_in,
    truth_of,
    value_of,
)
from palate.records import Message, Prompt, Ranking, Response

Rankings: TypeAlias = Iterator[Ranking | Unusable]


def arena(row: Fields) -> Rankings:
    """model_a, model_b, winner, conversation_a, conversation_b, judge; `turn` says how far the judge had read."""
    sides = Sides(plain_names(row), "conversation", ("a", "b"), ("conversation_a", "conversation_b"))
    read = optional_number(row, "turn")
    first, second = (conversation_of(row, column)[: 2 * int(read) if read else None] for column in sides.columns)
    shared = last_turns(row, first, second)
    yield from judged(row, shared.prompt, _by(shared.responses, models_of(row, sides)), sides)


def arena_turns(row: Fields) -> Rankings:
    """model_a, model_b, winner_model_a, winner_model_b, winner_tie; prompt, response_a, response_b: texts by turn."""
    questions, first, second = (_texts_by_turn(row, name) for name in ("prompt", "response_a", "response_b"))
    if not len(questions) == len(first) == len(second):
        raise Unusable("not as many answers as prompts")
    shared = last_turns(row, _dialogue(questions, first), _dialogue(questions, second))
    sides = Sides(plain_names(row), "response", ("a", "b"), ("response_a", "response_b"))
    yield from judged(row, shared.prompt, _by(shared.responses, models_of(row, sides)), sides)


def has_texts_by_turn(row: Fields) -> bool:
    """Whether prompt and answers are lists, one text a turn, also written as JSON."""
    return all(isinstance(_parsed(row.get(name)), list) for name in ("prompt", "response_a", "response_b"))


def _parsed(value: Any) -> Any:
    found = structure_in(value) if isinstance(value, str) else value
    return value if found is None else found


def _texts_by_turn(row: Fields, name: str) -> list[str]:
    texts = list_of({name: _parsed(value_of(row, name))}, name)
    if None in texts:
        raise Unusable(f"a null among the turns of {name!r}")
    return [said(text, name) for text in texts]


def _dialogue(questions: Sequence[str], answered: Sequence[str]) -> tuple[Message, ...]:
    return tuple(
        turn
        for question, answer in zip(questions, answered, strict=True)
        for turn in (Message(role="user", content=question), Message(role="assistant", content=answer))
    )


def _by(responses: Sequence[Response], models: Sequence[str]) -> list[Response]:
    return [by_model(response, model) for response, model in zip(responses, models, strict=True)]


def helpsteer3(row: Fields) -> Rankings:
    """context (turns), response1, response2, overall_preference (-3: the first is much better, to 3).

    Or good_edited_response and bad_edited_response, without a measure.
    """
    if "good_edited_response" in row:
        better, worse = (
            response_of(value_of(row, name), label(row, name))
            for name in ("good_edited_response", "bad_edited_response")
        )
        yield pair(prompt_of(row, "context"), better, worse)
        return
    lean = number_of(value_of(row, "overall_preference"), "overall_preference")
    first, second = (response_of(value_of(row, name), label(row, name)) for name in ("response1", "response2"))
    yield Ranking(
        prompt=prompt_of(row, "context"),
        responses=(first, second),
        ranks=ranks_by((-lean, lean)),
        strength=abs(lean),
    )


def pku(row: Fields) -> Rankings:
    """prompt, response_0, response_1, better_response_id; which are safe, and which is safer, become flags."""
    safer = optional_number(row, "safer_response_id")
    flags = tuple(_safety(row, place, safer) for place in (0, 1))
    for ranking in side_by_side(row):
        yield ranking.model_copy(update={"flags": flags}) if isinstance(ranking, Ranking) else ranking


def _safety(row: Fields, place: int, safer: float | None) -> tuple[str, ...]:
    column = f"is_response_{place}_safe"
    found = [] if row.get(column) is None else ["safe" if truth_of(row[column], column) else "unsafe"]
    return (*found, *(["safer"] if safer == place else []))


def openai_preference(row: Fields) -> Rankings:
    """input {messages}, preferred_output, non_preferred_output: a turn of the assistant's in a list each."""
    given = object_of(value_of(row, "input"), "input")
    better, worse = (
        response_of(value_of(row, name), label(row, name)) for name in ("preferred_output", "non_preferred_output")
    )
    yield pair(prompt_of(given, "messages"), better, worse)


def message_pairs(row: Fields) -> Rankings:
    """chosen_messages, rejected_messages: whole dialogues that part at the last turn."""
    (chosen, first), (rejected, second) = (
        dialogue_in(value_of(row, name), label(row, name)) for name in ("chosen_messages", "rejected_messages")
    )
    yield last_turns(row, chosen, rejected, first, second)


def prometheus(row: Fields) -> Rankings:
    """orig_instruction, orig_response_A, orig_response_B, orig_preference; judged by a model."""
    for ranking in side_by_side(row):
        yield ranking.model_copy(update={"source": "ai"}) if isinstance(ranking, Ranking) else ranking


def squality_rows(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows with questions and answers as lists, since the names of objects are numbers and systems there."""
    for row in rows:
        questions = row.fields.get("questions")
        if not isinstance(questions, dict) or not all(isinstance(answers, dict) for answers in questions.values()):
            yield row
            continue
        listed = [
            {"number": number, "answers": [{"system": name, "given": answer} for name, answer in answers.items()]}
            for number, answers in questions.items()
        ]
        yield replace(row, fields={**row.fields, "questions": listed})


def squality(row: Fields) -> Rankings:
    """questions {number: {system: {response, reviews [{worker_id, overall-rank}]}}}, passage-id.

    A ranking of a question's answers by each of its reviewers. The questions' words are not in such a file: the
    prompt names the passage and the number. Answers of the system `human` are a person's.
    """
    for question in objects_of(row, "questions"):
        name = f"Passage {value_of(row, 'passage-id')}, question {value_of(question, 'number')}"
        answers = [(str(answer["system"]), answer.get("given")) for answer in objects_of(question, "answers")]
        answered = {system: given for system, given in answers if isinstance(given, Mapping)}
        responses = {
            system: response_of(value_of(given, "response"), label(given, "response"), model=_author(system))
            for system, given in answered.items()
        }
        for worker, ranks in _ranks_by_worker(answered).items():
            systems = [system for system in answered if system in ranks]
            if len(systems) < 2:
                yield Unusable("a single response: nothing to compare")
                continue
            yield Ranking(
                prompt=Prompt.from_text(name),
                responses=tuple(responses[system] for system in systems),
                ranks=ranks_by([ranks[system] for system in systems], lowest_first=True),
                labeler=worker,
            )


def _ranks_by_worker(answered: Mapping[str, Fields]) -> dict[str, dict[str, float]]:
    """Worker -> system -> rank."""
    found: dict[str, dict[str, float]] = {}
    for system, given in answered.items():
        for review in objects_of(given, "reviews"):
            worker = str(value_of(review, "worker_id"))
            found.setdefault(worker, {})[system] = number_of(value_of(review, "overall-rank"), "overall-rank")
    return found


def _author(system: str) -> str:
    return "" if system == "human" else system


def steps(row: Fields) -> Rankings:
    """prompt, completions, labels of the steps of one answer: no two answers to compare."""
    yield Unusable("labels of the steps of one answer: they compare no answers")


def axes(row: Fields) -> Rankings:
    """info, summary {text, axes}: points of one summary."""
    yield Unusable(
        "points on several axes for one summary: they compare no summaries (the comparisons have 'summaries')"
    )


def absolute(row: Fields) -> Rankings:
    """orig_instruction, orig_response, orig_score: a score of one answer, given by a model."""
    yield Unusable("one answer and its score: nothing to compare")
