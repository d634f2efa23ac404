"""The table of all formats that can be written, what each of them keeps, and how it is read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from palate.corpus.catalogue.format import Item
from palate.corpus.export import demonstration_formats, pair_formats, ranking_formats
from palate.corpus.export.parts import Comparison, Exported, Exporter, in_comparisons, in_pairs, model_of
from palate.corpus.rows.rejections import Unusable
from palate.records import Candidates, Demonstration, Prompt, Provenance, Ranking, Response


@dataclass(frozen=True, slots=True)
class Target:
    """A format to write.

    Attributes:
        shape: the fields, in words; shown where formats are listed.
        start: makes the exporter of one file.
        keeps: which of `DETAILS` a row has a place for.
        read_as: the name of the format under which it is read; `auto` where its columns tell.
    """

    name: str
    shape: str
    start: Callable[[], Exporter]
    keeps: frozenset[str]
    read_as: str


def details(item: Item) -> frozenset[str]:
    """What a record says beside its texts and ranks, of `DETAILS`."""
    return frozenset(name for name, given in DETAILS.items() if given(item))


def _of_ranking(given: Callable[[Ranking], bool]) -> Callable[[Item], bool]:
    return lambda item: isinstance(item, Ranking) and given(item)


def _responses(item: Item) -> tuple[Response, ...]:
    if isinstance(item, Demonstration):
        return (item.response,)
    return item.responses if isinstance(item, Ranking | Candidates) else ()


def _only_model(response: Response) -> Provenance:
    return Provenance(model=model_of(response))


def _prompt_of(item: Item) -> Prompt:
    if isinstance(item, str):
        return Prompt.from_text(item)
    return item if isinstance(item, Prompt) else item.prompt


DETAILS: Mapping[str, Callable[[Item], bool]] = {
    "strength": _of_ranking(lambda ranking: ranking.strength is not None),
    "ratings": _of_ranking(lambda ranking: ranking.ratings is not None),
    "flags": _of_ranking(lambda ranking: any(ranking.flags or ())),
    "labeler": _of_ranking(lambda ranking: bool(ranking.labeler)),
    "author": lambda item: isinstance(item, Demonstration) and bool(item.author),
    "source": _of_ranking(lambda ranking: ranking.source != "human"),
    "shown order": _of_ranking(lambda ranking: ranking.shown_order is not None),
    "seconds": _of_ranking(lambda ranking: ranking.seconds is not None),
    "guideline version": _of_ranking(lambda ranking: bool(ranking.guideline_version)),
    "model": lambda item: any(each.provenance is not None for each in _responses(item)),
    "sampling": lambda item: any(each.provenance not in (None, _only_model(each)) for each in _responses(item)),
    "tags": lambda item: bool(_prompt_of(item).tags),
    "speakers' names": lambda item: any(turn.name for turn in _prompt_of(item).messages),
}


def _palate(item: Item) -> Exported:
    responses = item.responses if isinstance(item, Ranking) else ()
    if len(responses) == 2 and responses[0].text == responses[1].text:
        raise Unusable("two identical responses")
    yield {"text": item} if isinstance(item, str) else json.loads(item.to_json())


def _target(name: str, shape: str, start: Callable[[], Exporter], keeps: str = "", read_as: str = "") -> Target:
    return Target(name, shape, start, frozenset(keeps.split()), read_as or name)


def _each(exporter: Exporter) -> Callable[[], Exporter]:
    return lambda: exporter


def _trl(write: Callable[[Comparison], Exported]) -> Callable[[], Exporter]:
    return lambda: pair_formats.EvenMargins(write)


_ALL = (
    Target("palate", "our own records, with all they say", _each(_palate), frozenset(DETAILS), "palate"),
    _target("trl-explicit", "prompt, chosen, rejected (margin): texts", _trl(pair_formats.trl_explicit), "strength"),
    _target(
        "trl-conversational",
        "prompt, chosen, rejected (margin): turns",
        _trl(pair_formats.trl_conversational),
        "strength",
        "trl-explicit",
    ),
    _target("trl-implicit", "chosen, rejected (margin): turns", _trl(pair_formats.trl_implicit), "strength"),
    _target(
        "trl-implicit-text",
        "chosen, rejected (margin): texts",
        _trl(pair_formats.trl_implicit_text),
        "strength",
        "trl-implicit",
    ),
    _target(
        "trl-kto", "prompt, completion, label: turns", _each(pair_formats.in_thumbs(pair_formats.trl_kto)), "ratings"
    ),
    _target(
        "trl-kto-text",
        "prompt, completion, label: texts",
        _each(pair_formats.in_thumbs(pair_formats.trl_kto_text)),
        "ratings",
        "trl-kto",
    ),
    _target(
        "trl-prompt-completion",
        "prompt, completion: turns",
        _each(demonstration_formats.trl_prompt_completion),
        read_as="prompt-response",
    ),
    _target(
        "trl-prompt-completion-text",
        "prompt, completion: texts",
        _each(demonstration_formats.trl_prompt_completion_text),
        read_as="prompt-response",
    ),
    Target(
        "messages",
        "messages [{role, content}]; also TRL's",
        _each(demonstration_formats.messages),
        frozenset({"speakers' names"}),
        "messages",
    ),
    _target("sharegpt", "conversations [{from, value}]", _each(demonstration_formats.sharegpt)),
    _target("alpaca", "instruction, input, output", _each(demonstration_formats.alpaca)),
    _target("hh", 'chosen, rejected: transcripts "\\n\\nHuman: ..."', _each(in_pairs(pair_formats.hh))),
    _target(
        "rankings",
        "prompt, responses [...], ranks [...]",
        _each(ranking_formats.rankings),
        "ratings flags strength labeler source",
    ),
    _target(
        "oasst", "message trees with ranks, a message a row", _each(ranking_formats.oasst), "ratings flags author model"
    ),
    _target(
        "ultrafeedback",
        "instruction, completions [{response, model, overall_score}]",
        _each(ranking_formats.ultrafeedback),
        "ratings model",
    ),
    _target(
        "ultrafeedback-binarized",
        "prompt, chosen, rejected, score_chosen, score_rejected",
        _each(in_pairs(pair_formats.ultrafeedback_binarized)),
        "ratings",
        "trl-explicit",
    ),
    _target("helpsteer2", "prompt, response, helpfulness", ranking_formats.HelpSteer2, "ratings"),
    _target(
        "helpsteer2-preference",
        "prompt, response_1, response_2, preference_strength",
        _each(in_comparisons(pair_formats.helpsteer2_preference)),
        "strength",
        "helpsteer2",
    ),
    _target("shp", "history, human_ref_A, human_ref_B, labels", _each(in_comparisons(pair_formats.shp))),
    _target(
        "webgpt",
        "question, answer_0, answer_1, score_0, score_1",
        _each(in_comparisons(pair_formats.webgpt)),
        "strength",
    ),
    _target(
        "stiennon",
        "info, summaries [{text, policy}], choice, worker",
        _each(in_comparisons(pair_formats.stiennon)),
        "labeler model",
    ),
    _target(
        "arena",
        "model_a, model_b, winner, judge, conversation_a, conversation_b",
        _each(in_comparisons(pair_formats.arena)),
        "labeler model",
    ),
    _target(
        "argilla", "fields, responses [{values {ranking [{value, rank}]}}]", _each(ranking_formats.argilla), "labeler"
    ),
    _target(
        "label-studio",
        "data {prompt, items}, annotations [{result [ranker]}]",
        _each(ranking_formats.label_studio),
        "labeler seconds",
    ),
    _target(
        "csv",
        "a table: prompt | prompt, response | prompt, chosen, rejected",
        _each(pair_formats.csv),
        "strength",
        "auto",
    ),
)
EXPORTERS: Mapping[str, Target] = {target.name: target for target in _ALL}
