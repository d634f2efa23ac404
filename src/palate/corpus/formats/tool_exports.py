"""More of what annotation and chat tools export: Argilla 2's own records, Label Studio's pairwise tasks, open-webui.

What a labeler has not handed in, or has not judged, is counted as unusable, as in `labeling_tools`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from palate.corpus.formats.labeling_tools import PROMPTS, each_judgement, ranking_of_names
from palate.corpus.formats.sides import by_model, name_of, sides_of
from palate.corpus.formats.thumbs import thumb
from palate.corpus.rows.fields import label
from palate.corpus.rows.rejections import Malformed, Unusable
from palate.corpus.rows.turns import answer, asked, messages_of, prompt_of, response_of
from palate.corpus.rows.values import (
    Fields,
    list_of,
    number_of,
    object_of,
    objects_of,
    optional_number,
    optional_text,
    value_of,
)
from palate.corpus.rows.verdicts import is_thumb, thumb_of, understood, verdict
from palate.records import Prompt, Ranking

Rankings: TypeAlias = Iterator[Ranking | Unusable]


def argilla2_columns(row: Fields) -> frozenset[str]:
    """The columns of an Argilla 2 record read here: nested, or flat as a table of it has them."""
    if isinstance(row.get("responses"), Mapping) and "fields" in row:
        return frozenset({"fields", "responses"})
    return frozenset(row) if _questions(row) else frozenset()


def argilla2(row: Fields) -> Rankings:
    """fields, responses {question: [{value, user_id, status}]}: rankings, or labels that name a response.

    A table has the fields as columns and, for each question, `question.responses` with `.users` and `.status`.
    """
    if flat := _questions(row):
        fields: Fields = {name: row[name] for name in row if "." not in name and isinstance(row[name], str)}
        answers = [answer for question in flat for answer in _flat_answers(row, question)]
    else:
        fields = object_of(value_of(row, "fields"), "fields")
        responses = object_of(value_of(row, "responses"), "responses")
        answers = [answer for question in responses for answer in objects_of(responses, question)]
    prompt = prompt_of(fields, _prompt_column(fields))
    if not answers:
        yield Unusable("no response of anybody's")
    yield from each_judgement(answers, lambda answer: _argilla2_ranking(prompt, fields, answer))


def _prompt_column(fields: Fields) -> str:
    return next((name for name in PROMPTS if name in fields), "prompt")


def _questions(row: Fields) -> list[str]:
    named = (name.removesuffix(".responses.users") for name in row if name.endswith(".responses.users"))
    return [question for question in named if f"{question}.responses" in row]


def _flat_answers(row: Fields, question: str) -> Iterator[Fields]:
    values, users = list_of(row, f"{question}.responses"), list_of(row, f"{question}.responses.users")
    status = row.get(f"{question}.responses.status") or ["submitted"] * len(values)
    if not len(values) == len(users) == len(status):
        raise Malformed(f"fields '{question}.responses', '.users' and '.status' are not equally long")
    for value, user, state in zip(values, users, status, strict=True):
        yield {"value": value, "user_id": user, "status": state}


def _argilla2_ranking(prompt: Prompt, fields: Fields, answer: Fields) -> Rankings:
    if (answer.get("status") or "submitted") != "submitted":
        raise Unusable("a response that was not submitted")
    ranks = _ranks_of(answer.get("value"), [name for name in fields if name not in PROMPTS])
    if ranks is None:
        raise Unusable("a response without a ranking")
    yield ranking_of_names(prompt, fields, ranks, labeler=name_of(answer.get("user_id")))


def _ranks_of(value: Any, names: Sequence[str]) -> dict[str, float] | None:
    """Field -> rank: out of names in order, of ties within it, of {value, rank}, or of the best one's name alone."""
    if isinstance(value, list) and value:
        ranks: dict[str, float] = {}
        for place, entry in enumerate(value):
            for each in entry if isinstance(entry, list) else [entry]:
                if isinstance(each, Mapping):
                    ranks[str(value_of(each, "value"))] = number_of(value_of(each, "rank"), "rank")
                else:
                    ranks[str(each)] = place
        return ranks if set(ranks) <= set(names) else None
    if isinstance(value, str) and value in names and len(names) > 1:
        return {name: float(name != value) for name in names}
    return None


def is_pairwise(row: Fields) -> bool:
    """Whether one of the annotations compares two texts of the data."""
    data, annotations = row.get("data"), row.get("annotations")
    given = annotations if isinstance(annotations, list) else []
    return isinstance(data, Mapping) and any(_compared(data, each) for each in given if isinstance(each, Mapping))


def _compared(data: Fields, annotation: Fields) -> tuple[list[tuple[str, ...]], Any] | None:
    """What the two sides go by and which was selected: in a result of type pairwise, or by a choice that names one."""
    results = annotation.get("result")
    for result in results if isinstance(results, list) else []:
        value = result.get("value") if isinstance(result, Mapping) else None
        if not isinstance(value, Mapping):
            continue
        if result.get("type") == "pairwise":
            return [(name.strip(),) for name in str(result.get("to_name")).split(",")], value.get("selected")
        choices, sides = value.get("choices"), sides_of(data)
        if sides and isinstance(choices, list) and len(choices) == 1:
            names: list[tuple[str, ...]] = [*zip(sides.columns, sides.endings, strict=True)]
            if understood(choices[0], names):
                return names, choices[0]
    return None


def label_studio_pairwise(row: Fields) -> Rankings:
    """data, and annotations [{result [{type: pairwise, value {selected}, to_name "one,other"}], lead_time}]."""
    data = object_of(value_of(row, "data"), "data")
    prompt = prompt_of(data, _prompt_column(data))
    yield from each_judgement(objects_of(row, "annotations"), lambda each: _pairwise_ranking(prompt, data, each))


def _pairwise_ranking(prompt: Prompt, data: Fields, annotation: Fields) -> Rankings:
    if annotation.get("was_cancelled"):
        raise Unusable("a cancelled annotation")
    compared = _compared(data, annotation)
    if compared is None:
        raise Unusable("an annotation without a comparison")
    sides, selected = compared
    names = [side[0] for side in sides]
    if len(names) < 2 or not set(names) <= data.keys():
        raise Malformed("field 'to_name' does not name two texts of 'data'")
    if not understood(selected, sides):
        raise Malformed("field 'selected' is neither left nor right", found=selected)
    found = verdict(selected, "selected", sides)
    yield Ranking(
        prompt=prompt,
        responses=tuple(response_of(data[name], label(data, name)) for name in names),
        ranks=found.ranks,
        flags=found.flags,
        labeler=name_of(annotation.get("completed_by")),
        seconds=optional_number(annotation, "lead_time"),
    )


def open_webui(row: Fields) -> Rankings:
    """data {rating, model_id, reason, comment}, meta {message_id, message_index}, snapshot {chat}: a thumb.

    The reason is kept as the response's flag, the comment as a tag of the prompt.
    """
    data, meta = (object_of(value_of(row, name), name) for name in ("data", "meta"))
    if data.get("rating") is not None and not is_thumb(data["rating"]):
        raise Malformed("field 'data.rating' is neither 1 nor -1")
    up = thumb_of(data.get("rating"), "data.rating")
    turns = messages_of(_turns_to(row, meta), "messages")
    if not turns or turns[-1].role != "assistant":
        raise Unusable("a thumb for a message that is not in the snapshot")
    prompt = asked(row, turns[:-1], "messages")
    if comment := optional_text(data, "comment"):
        prompt = prompt.model_copy(update={"tags": {"comment": comment}})
    response = by_model(answer(turns[-1]), name_of(data.get("model_id")))
    reason = optional_text(data, "reason")
    found = thumb(prompt, response, up, name_of(row.get("user_id")))
    yield found.model_copy(update={"flags": ((reason,),)}) if reason else found


def _turns_to(row: Fields, meta: Fields) -> list[Fields]:
    """The message that the thumb is for, and what came before it: by its id, else by its place."""
    chat = object_of(value_of(row, "snapshot"), "snapshot").get("chat")
    chat = object_of(object_of(chat, "chat").get("chat"), "chat")
    name = optional_text(meta, "message_id")
    known = object_of(object_of(chat.get("history") or {}, "history").get("messages") or {}, "messages")
    if name in known:
        return _ancestors(known, name)
    turns = objects_of(chat, "messages")
    ends = [place for place, turn in enumerate(turns, 1) if name and turn.get("id") == name]
    place = optional_number(meta, "message_index")
    return turns[: ends[0] if ends else len(turns) if place is None else max(0, int(place) + 1)]


def _ancestors(known: Fields, name: str) -> list[Fields]:
    found: list[Fields] = []
    while name in known and len(found) <= len(known):
        turn = object_of(known[name], "messages")
        found.append(turn)
        name = optional_text(turn, "parentId")
    return found[::-1]
