"""Every format we read: how one of its rows looks, and what is made of it."""

from __future__ import annotations

from collections.abc import Mapping

from palate.corpus.catalogue.format import Format, shaped
from palate.corpus.catalogue.own import OWN_KINDS, is_own, own_records
from palate.corpus.catalogue.preference_formats import PREFERENCES
from palate.corpus.formats import demonstrations, trees
from palate.records import Demonstration, Prompt, Ranking

_ALL = (
    shaped(
        "palate",
        "our own records, one JSON object per line",
        "prompt response",
        "prompt responses",
        "messages",
        parsers={kind: own_records(kind) for kind in OWN_KINDS.values()},
        fits=is_own,
    ),
    shaped(
        "messages",
        "messages [{role, content}]",
        "messages",
        parsers={Demonstration: demonstrations.messages, Prompt: demonstrations.messages_prompt},
        fits=lambda row: not is_own(row),
    ),
    shaped(
        "prompt-response",
        "prompt (question, instruction, query, input) with response (completion, answer, output)",
        *map(" ".join, demonstrations.PROMPT_RESPONSE_KEYS),
        parsers={Demonstration: demonstrations.prompt_response},
        fits=lambda row: not is_own(row),
    ),
    shaped(
        "alpaca",
        "instruction, input, output (or response)",
        "instruction output",
        "instruction input output",
        "instruction input response",
        parsers={Demonstration: demonstrations.alpaca},
    ),
    shaped(
        "dolly",
        "instruction, context, response",
        "instruction context response",
        parsers={Demonstration: demonstrations.dolly},
    ),
    shaped(
        "self-instruct",
        "instruction, instances [{input, output}]",
        "instruction instances",
        parsers={Demonstration: demonstrations.self_instruct},
    ),
    shaped(
        "sharegpt",
        "conversations [{from, value}]",
        "conversations",
        parsers={Demonstration: demonstrations.sharegpt, Prompt: demonstrations.sharegpt_prompt},
    ),
    shaped(
        "oasst",
        "message trees with ranks: nested replies, or flat rows with parent_id",
        "message_id parent_id text role",
        "message_id text replies",
        "message_tree_id prompt",
        parsers={Demonstration: trees.oasst, Ranking: trees.oasst_rankings},
        group=trees.oasst_trees,
        beside="detoxify labels emojis tree_state review_count review_result rank",
    ),
    *PREFERENCES,
    shaped(
        "prompt",
        "prompt | question | instruction | turns [...]",
        *demonstrations.PROMPT_KEYS,
        "turns",
        parsers={Prompt: demonstrations.prompt},
        fits=lambda row: any(isinstance(row.get(key), str | list) for key in (*demonstrations.PROMPT_KEYS, "turns")),
    ),
    shaped("text", "text | sections [...] | a .txt file", "text", "sections", parsers={str: demonstrations.text}),
)
FORMATS: Mapping[str, Format] = {format_.name: format_ for format_ in _ALL}
