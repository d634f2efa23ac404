"""Every format we read: how one of its rows looks, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from palate.corpus import columns, demonstrations, labeling_tools, rankings, trees
from palate.corpus.files import Row
from palate.corpus.rejections import Malformed
from palate.corpus.values import Fields
from palate.records import Candidates, Demonstration, Message, Prompt, Ranking

Item: TypeAlias = Prompt | Demonstration | Ranking | Candidates | str
OwnKind: TypeAlias = type[Prompt] | type[Demonstration] | type[Ranking] | type[Candidates]
Kind: TypeAlias = OwnKind | type[str]
Parser: TypeAlias = Callable[[Fields], Iterator[Any]]

KIND_NAMES: Mapping[Kind, str] = {
    Prompt: "prompts",
    Demonstration: "demonstrations",
    Ranking: "rankings",
    Candidates: "candidates",
    str: "texts",
}
_OWN_KINDS: Mapping[str, OwnKind] = {
    "ranks": Ranking,
    "responses": Candidates,
    "response": Demonstration,
    "messages": Prompt,
}
_PROMPT_KEYS = Prompt.model_fields.keys()


@dataclass(frozen=True, slots=True)
class Format:
    """How one kind of row is recognised and read.

    Attributes:
        shape: the fields, in words; shown where formats are listed.
        keys: a row with all fields of one of these may be of this format.
        parsers: for each kind of record the format can give, the function that gives it.
        fits: a look at the values, where the fields alone do not tell.
        group: makes one row of several that belong together.
    """

    name: str
    shape: str
    keys: tuple[frozenset[str], ...]
    parsers: Mapping[Kind, Parser]
    fits: Callable[[Fields], bool] = lambda row: True
    group: Callable[[Iterator[Row]], Iterator[Row]] | None = None


def palate(kind: OwnKind) -> Parser:
    """Our own records, as `Record.to_json` writes them; a file may hold several kinds."""

    def parse(row: Fields) -> Iterator[Item]:
        if _own_kind(row) is kind:
            yield kind.model_validate(row)

    return parse


def _own_kind(row: Fields) -> OwnKind:
    for key, kind in _OWN_KINDS.items():
        if key in row:
            return kind
    raise Malformed("none of our own records: no ranks, responses, response or messages")


def _is_own(row: Fields) -> bool:
    prompt = row.get("prompt", row)
    return isinstance(prompt, dict) and prompt.keys() <= _PROMPT_KEYS and _awaits_answer(prompt.get("messages"))


def _awaits_answer(turns: Any) -> bool:
    """Whether these are the messages of a prompt of ours, and not somebody's whole conversation."""
    if not isinstance(turns, list) or not turns:
        return False
    return all(map(_is_own_turn, turns)) and turns[-1]["role"] != "assistant"


def _is_own_turn(turn: Any) -> bool:
    if not (isinstance(turn, dict) and {"role", "content"} <= turn.keys() <= Message.model_fields.keys()):
        return False
    calls = turn.get("tool_calls", ())
    return isinstance(calls, list | tuple) and all(isinstance(call, dict) and "name" in call for call in calls)


def _has_transcripts(row: Fields) -> bool:
    return all(isinstance(row[key], str) and "\n\nAssistant:" in row[key] for key in ("chosen", "rejected"))


def _has_thumb(row: Fields) -> bool:
    return str(row["label"]).strip().lower() in ("true", "false", "1", "0", "1.0", "0.0")


def _has_answer_lists(row: Fields) -> bool:
    return all(isinstance(row[key], list) for key in ("responses", "ranks")) and not _is_own(row)


def _format(name: str, shape: str, *keys: str, **rest: Any) -> Format:
    return Format(name, shape, tuple(frozenset(names.split()) for names in keys), **rest)


_ALL = (
    _format(
        "palate",
        "our own records, one JSON object per line",
        "prompt response",
        "prompt responses",
        "messages",
        parsers={kind: palate(kind) for kind in _OWN_KINDS.values()},
        fits=_is_own,
    ),
    _format(
        "messages",
        "messages [{role, content}]",
        "messages",
        parsers={Demonstration: demonstrations.messages, Prompt: demonstrations.messages_prompt},
        fits=lambda row: not _is_own(row),
    ),
    _format(
        "prompt-response",
        "prompt, response | prompt, completion | question, answer | instruction, response",
        *map(" ".join, demonstrations.PROMPT_RESPONSE_KEYS),
        parsers={Demonstration: demonstrations.prompt_response},
        fits=lambda row: not _is_own(row),
    ),
    _format(
        "alpaca",
        "instruction, input, output (or response)",
        "instruction output",
        "instruction input output",
        "instruction input response",
        parsers={Demonstration: demonstrations.alpaca},
    ),
    _format(
        "dolly",
        "instruction, context, response",
        "instruction context response",
        parsers={Demonstration: demonstrations.dolly},
    ),
    _format(
        "self-instruct",
        "instruction, instances [{input, output}]",
        "instruction instances",
        parsers={Demonstration: demonstrations.self_instruct},
    ),
    _format(
        "sharegpt", "conversations [{from, value}]", "conversations", parsers={Demonstration: demonstrations.sharegpt}
    ),
    _format(
        "oasst",
        "message trees with ranks: nested replies, or flat rows with parent_id",
        "message_id parent_id text role",
        "message_id text replies",
        "message_tree_id prompt",
        parsers={Demonstration: trees.oasst, Ranking: trees.oasst_rankings},
        group=trees.oasst_trees,
    ),
    _format(
        "hh",
        'chosen, rejected: transcripts "\\n\\nHuman: ...\\n\\nAssistant: ..."',
        "chosen rejected",
        parsers={Ranking: rankings.hh},
        fits=_has_transcripts,
    ),
    _format(
        "trl-explicit",
        "prompt, chosen, rejected (margin)",
        "prompt chosen rejected",
        parsers={Ranking: rankings.trl_explicit},
    ),
    _format(
        "trl-implicit",
        "chosen, rejected (margin), both with their prompt",
        "chosen rejected",
        parsers={Ranking: rankings.trl_implicit},
        fits=lambda row: not _has_transcripts(row),
    ),
    _format(
        "trl-kto",
        "prompt, completion, label",
        "prompt completion label",
        parsers={Ranking: rankings.trl_kto},
        fits=_has_thumb,
    ),
    _format(
        "llama-factory",
        "conversations, chosen, rejected | messages, label",
        "conversations chosen rejected",
        "messages label",
        "conversations label",
        parsers={Ranking: rankings.llama_factory},
        fits=lambda row: "chosen" in row or _has_thumb(row),
    ),
    _format(
        "alpaca-preference",
        "instruction, input, chosen, rejected (output)",
        "instruction chosen rejected",
        "instruction output chosen rejected",
        "instruction input chosen rejected",
        "instruction input output chosen rejected",
        parsers={Demonstration: rankings.alpaca_preference_demonstration, Ranking: rankings.alpaca_preference},
    ),
    _format(
        "rankings",
        "prompt, responses [...], ranks [...]",
        "prompt responses ranks",
        parsers={Ranking: rankings.rankings},
        fits=_has_answer_lists,
    ),
    _format(
        "ultrafeedback",
        "instruction, completions [{response, model, overall_score}]",
        "instruction completions",
        parsers={Ranking: rankings.ultrafeedback},
    ),
    _format(
        "helpsteer2",
        "prompt, response_1, response_2, preference_strength | prompt, response, helpfulness",
        "prompt response_1 response_2 preference_strength",
        "prompt response helpfulness",
        parsers={Ranking: rankings.helpsteer2},
        group=rankings.helpsteer2_groups,
    ),
    _format(
        "shp",
        "history, human_ref_A, human_ref_B, labels",
        "history human_ref_A human_ref_B labels",
        parsers={Ranking: rankings.shp},
    ),
    _format(
        "webgpt",
        "question, answer_0, answer_1, score_0, score_1",
        "question answer_0 answer_1 score_0 score_1",
        parsers={Ranking: rankings.webgpt},
    ),
    _format(
        "stiennon",
        "info, summaries [{text, policy}], choice, worker",
        "info summaries choice",
        parsers={Ranking: rankings.stiennon},
    ),
    _format(
        "arena",
        "model_a, model_b, winner, conversation_a, conversation_b",
        "winner conversation_a conversation_b",
        parsers={Ranking: rankings.arena},
    ),
    _format(
        "argilla",
        "fields, responses [{user_id, values {ranking {value [{value, rank}]}}}]",
        "fields responses",
        parsers={Ranking: labeling_tools.argilla},
    ),
    _format(
        "label-studio",
        "data {prompt, items [{id, body}]}, annotations [{result [{type: ranker, value {ranker}}]}]",
        "data annotations",
        parsers={Ranking: labeling_tools.label_studio},
    ),
    _format(
        "pairs",
        "any columns, named by fields: prompt, a, b, preferred, labeler, strength",
        parsers={Ranking: partial(columns.pairs, mapping=columns.DEFAULT_PAIR)},
    ),
    _format(
        "prompt",
        "prompt | question | instruction | turns [...]",
        *demonstrations.PROMPT_KEYS,
        "turns",
        parsers={Prompt: demonstrations.prompt},
    ),
    _format("text", "text | sections [...] | a .txt file", "text", "sections", parsers={str: demonstrations.text}),
)
FORMATS: Mapping[str, Format] = {format_.name: format_ for format_ in _ALL}
