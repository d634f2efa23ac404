"""Rankings as two annotation tools export them.

A row is a task with the judgements of all its labelers: a ranking is made of each. What a labeler has not handed in, or
has not ranked, is counted as unusable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from palate.corpus.rows.rejections import Malformed, Unusable
from palate.corpus.rows.turns import prompt_of
from palate.corpus.rows.values import (
    Fields,
    list_of,
    number_of,
    object_of,
    objects_of,
    optional_number,
    ranks_by,
    text_of,
    value_of,
)
from palate.records import Prompt, Ranking, Response

Rankings: TypeAlias = Iterator[Ranking | Unusable]

PROMPTS = ("prompt", "instruction", "input", "question")
_RANK = re.compile(r"(?:rank[ _-]?)?(\d+)", re.IGNORECASE)


def argilla(row: Fields) -> Rankings:
    """fields, and responses of {user_id, status, values {question {value [{value, rank}]}}}."""
    fields = object_of(value_of(row, "fields"), "fields")
    prompt = prompt_of(fields, next((name for name in PROMPTS if name in fields), "prompt"))
    yield from each_judgement(objects_of(row, "responses"), lambda answer: _argilla_ranking(prompt, fields, answer))


def _argilla_ranking(prompt: Prompt, fields: Fields, answer: Fields) -> Rankings:
    if answer.get("status", "submitted") != "submitted":
        raise Unusable("a response that was not submitted")
    values = object_of(answer.get("values") or {}, "values")
    ranked = next(filter(None, (_argilla_ranks(object_of(value, name)) for name, value in values.items())), None)
    if ranked is None:
        raise Unusable("a response without a ranking")
    yield ranking_of_names(prompt, fields, ranked, labeler=answer.get("user_id"))


def _argilla_ranks(answer: Fields) -> dict[str, float] | None:
    """Field name -> rank, if this is the answer to a ranking question."""
    value = answer.get("value")
    if not isinstance(value, list) or not all(isinstance(each, Mapping) and "rank" in each for each in value):
        return None
    return {text_of(each, "value"): number_of(each["rank"], "rank") for each in value}


def label_studio(row: Fields) -> Rankings:
    """data {prompt, items of {id, body}}, and annotations with a result of type ranker.

    A single bucket holds its items in order. Several are ranks if they are called 1, 2, ... or rank-1, rank-2, ...;
    items within one are tied. The bucket `_` holds what was not ranked.
    """
    data = object_of(value_of(row, "data"), "data")
    prompt = prompt_of(data)
    texts = {str(value_of(item, "id")): value_of(item, "body") for item in objects_of(data, "items")}
    annotations = objects_of(row, "annotations")
    yield from each_judgement(annotations, lambda annotation: _label_studio_ranking(prompt, texts, annotation))


def _label_studio_ranking(prompt: Prompt, texts: Fields, annotation: Fields) -> Rankings:
    if annotation.get("was_cancelled"):
        raise Unusable("a cancelled annotation")
    ranker = _ranker(annotation)
    if ranker is None:
        raise Unusable("an annotation without a ranking")
    ranks = _bucket_ranks(ranker)
    yield from [Unusable("an item that was not ranked")] * len(texts.keys() - ranks.keys())
    labeler = annotation.get("completed_by")
    name = labeler.get("email", labeler.get("id")) if isinstance(labeler, Mapping) else labeler
    seconds = optional_number(annotation, "lead_time")
    yield ranking_of_names(prompt, texts, ranks, labeler=name, seconds=seconds)


def each_judgement(judgements: Sequence[Fields], read: Callable[[Fields], Rankings]) -> Rankings:
    """What one labeler left unfinished is no loss to the others."""
    for judgement in judgements:
        try:
            yield from read(judgement)
        except Unusable as problem:
            yield problem


def _ranker(annotation: Fields) -> dict[str, list[Any]] | None:
    """Bucket -> ids, if one of the results is a ranking."""
    for result in objects_of(annotation, "result"):
        if result.get("type") == "ranker":
            buckets = object_of(object_of(value_of(result, "value"), "value").get("ranker"), "ranker")
            return {name: list_of(buckets, name) for name in buckets}
    return None


def _bucket_ranks(ranker: Mapping[str, list[Any]]) -> dict[str, float]:
    buckets = {name: ids for name, ids in ranker.items() if name != "_"}
    named = {name: _RANK.fullmatch(name) for name in buckets}
    if len(buckets) == 1 and None in named.values():
        (ids,) = buckets.values()
        return {str(each): place for place, each in enumerate(ids)}
    ranks = {name: int(found.group(1)) for name, found in named.items() if found}
    if len(ranks) < len(buckets):
        raise Unusable("buckets that are no ranks: call them rank-1, rank-2, ...")
    return {str(each): ranks[name] for name, ids in buckets.items() for each in ids}


def ranking_of_names(
    prompt: Prompt, texts: Fields, ranked: Mapping[str, float], *, labeler: Any, seconds: float | None = None
) -> Ranking:
    """The named texts, in the order in which they stand in the task, with the ranks given to them."""
    if unknown := ranked.keys() - texts.keys():
        raise Malformed(f"a rank is given to {min(unknown)!r}, which is not there")
    if len(ranked) < 2:
        raise Unusable("a single response: nothing to compare")
    names = [name for name in texts if name in ranked]
    return Ranking(
        prompt=prompt,
        responses=tuple(Response(text=text_of(texts, name)) for name in names),
        ranks=ranks_by([ranked[name] for name in names], lowest_first=True),
        labeler="" if labeler is None else str(labeler),
        seconds=seconds,
    )
