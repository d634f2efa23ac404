"""Every format we read: how one of its rows looks, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from palate.corpus import (
    better_worse,
    columns,
    demonstrations,
    labeling_tools,
    listed,
    published,
    rankings,
    sides,
    thumbs,
    tool_exports,
    trees,
)
from palate.corpus.fields import plain
from palate.corpus.rejections import Malformed
from palate.corpus.rows import Row
from palate.corpus.values import Fields
from palate.corpus.verdicts import is_thumb
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
_SIDES = ("chosen", "rejected")
_THUMBS = ("label", "kto_tag")
_PROMPT_KEYS = Prompt.model_fields.keys()


@dataclass(frozen=True, slots=True)
class Format:
    """How one kind of row is recognised and read.

    Attributes:
        shape: the fields, in words; shown where formats are listed.
        keys: a row with all fields of one of these may be of this format.
        parsers: for each kind of record the format can give, the function that gives it.
        fits: a look at the values, where the fields alone do not tell.
        columns: where the fields go by many names, those that a row of this format has; none if it is of another.
        group: makes one row of several that belong together.
        beside: columns known to stand beside those that are read and to say nothing that is missing without them (the
            scores that a preference was made of). They are named in reports and never stop an import.
    """

    name: str
    shape: str
    keys: tuple[frozenset[str], ...]
    parsers: Mapping[Kind, Parser]
    fits: Callable[[Fields], bool] = lambda row: True
    group: Callable[[Iterator[Row]], Iterator[Row]] | None = None
    beside: frozenset[str] = frozenset()
    columns: Callable[[Fields], frozenset[str]] | None = None

    def has_beside(self, name: str) -> bool:
        """Whether a field is one of those `beside`, at any depth, or stands in one."""
        return any(f".{known}." in f".{name}." for known in self.beside)

    def matched(self, row: Fields) -> frozenset[str]:
        """The largest of the key sets that the row has; empty if it is not of this format."""
        if self.columns is not None:
            return self.columns(row)
        keys = max((keys for keys in self.keys if keys <= row.keys()), key=len, default=frozenset[str]())
        return keys if keys and self.fits(row) else frozenset()


def palate(kind: OwnKind) -> Parser:
    """Our own records, as `Record.to_json` writes them; a file may hold several kinds."""

    def parse(row: Fields) -> Iterator[Item]:
        if _own_kind(row) is kind:
            yield kind.model_validate(plain(row))

    return parse


def _own_kind(row: Fields) -> OwnKind:
    for key, kind in _OWN_KINDS.items():
        if key in row:
            return kind
    raise Malformed("none of our own records: no ranks, responses, response or messages")


def _is_own(row: Fields) -> bool:
    prompt = plain(row.get("prompt", row), read=False)
    if not (isinstance(prompt, dict) and prompt.keys() <= _PROMPT_KEYS and _awaits_answer(prompt.get("messages"))):
        return False
    return "prompt" in row or all(map(_is_plain, prompt["messages"])) or any(map(_is_ours, prompt["messages"]))


def _awaits_answer(turns: Any) -> bool:
    """Whether these could be the messages of a prompt of ours, and not somebody's whole conversation."""
    if not isinstance(turns, list) or not turns:
        return False
    known = Message.model_fields.keys()
    own = all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() <= known for turn in turns)
    return own and turns[-1]["role"] != "assistant"


def _is_plain(turn: Mapping[str, Any]) -> bool:
    return turn.keys() == {"role", "content"}


def _is_ours(turn: Mapping[str, Any]) -> bool:
    """Whether a turn has what nobody else writes."""
    calls = turn.get("tool_calls")
    return "learn" in turn or (isinstance(calls, list) and any(isinstance(c, dict) and "name" in c for c in calls))


def _has_transcripts(row: Fields) -> bool:
    return all(isinstance(row[key], str) and "\n\nAssistant:" in row[key] for key in ("chosen", "rejected"))


def _has_thumb(row: Fields) -> bool:
    return any(is_thumb(row[key]) for key in _THUMBS if row.get(key) is not None)


def _one_each(row: Fields) -> bool:
    """Whether one response was chosen and one rejected: texts or turns, not several of them, nor columns' names."""
    named = any(isinstance(row[key], str) and row[key] in row for key in _SIDES)
    return not named and not listed.in_chosen_and_rejected(row)


def _has_answer_lists(row: Fields) -> bool:
    return all(isinstance(row[key], list) for key in ("responses", "ranks")) and not _is_own(row)


def _format(name: str, shape: str, *keys: str, beside: str = "", **rest: Any) -> Format:
    return Format(
        name, shape, tuple(frozenset(names.split()) for names in keys), beside=frozenset(beside.split()), **rest
    )


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
        beside="detoxify labels emojis tree_state review_count review_result rank",
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
        "prompt (or question, query, input), chosen, rejected (margin; chosen_score, chosen_model, ...)",
        *(f"{key} chosen rejected{more}" for key in rankings.PROMPT_KEYS for more in ("", " messages")),
        parsers={Ranking: rankings.trl_explicit},
        fits=_one_each,
        beside="score_chosen score_rejected chosen_score rejected_score chosen_rating rejected_rating chosen-rating "
        "rejected-rating chosen_avg_rating rejected_avg_rating",
    ),
    _format(
        "trl-implicit",
        "chosen, rejected (margin), both with their prompt",
        "chosen rejected",
        parsers={Ranking: rankings.trl_implicit},
        fits=lambda row: _one_each(row) and not _has_transcripts(row),
    ),
    _format(
        "trl-kto",
        "prompt, completion (or response), label: a thumb",
        *(f"prompt {answer} {thumb}" for answer in ("completion", "response") for thumb in _THUMBS),
        parsers={Ranking: thumbs.thumbs},
        fits=_has_thumb,
    ),
    _format(
        "llama-factory",
        "conversations, chosen, rejected | messages, conversations or instruction, output with a thumb: label, kto_tag",
        "conversations chosen rejected",
        *(
            f"{shown} {thumb}"
            for shown in ("messages", "conversations", "instruction output", "instruction input output")
            for thumb in _THUMBS
        ),
        parsers={Ranking: rankings.llama_factory},
        fits=lambda row: "chosen" in row or _has_thumb(row),
    ),
    _format(
        "ms-swift",
        "messages, rejected_response (or rejected_messages)",
        "messages rejected_response",
        "messages rejected_messages",
        parsers={Ranking: rankings.ms_swift},
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
        beside="correct_answers incorrect_answers completions.annotations completions.critique completions.principle "
        "completions.fine-grained_score completions.custom_system_prompt",
    ),
    _format(
        "helpsteer2",
        "prompt, response_1, response_2, preference_strength | prompt, response, helpfulness",
        "prompt response_1 response_2 preference_strength",
        "prompt response helpfulness",
        parsers={Ranking: rankings.helpsteer2},
        group=rankings.helpsteer2_groups,
        beside="correctness coherence complexity verbosity preference_statement preference_elaboration "
        "all_preferences_unprocessed three_most_similar_preferences",
    ),
    _format(
        "shp",
        "history, human_ref_A, human_ref_B, labels",
        "history human_ref_A human_ref_B labels",
        parsers={Ranking: rankings.shp},
        beside="score_A score_B score_ratio upvote_ratio",
    ),
    _format(
        "webgpt",
        "question, answer_0, answer_1, score_0, score_1",
        "question answer_0 answer_1 score_0 score_1",
        parsers={Ranking: rankings.webgpt},
        beside="quotes_0 quotes_1 tokens_0 tokens_1",
    ),
    _format(
        "stiennon",
        "info, summaries [{text, policy}], choice, worker",
        "info summaries choice",
        parsers={Ranking: rankings.stiennon},
        beside="extra summaries.note",
    ),
    _format(
        "arena",
        "model_a, model_b, winner, conversation_a, conversation_b",
        "winner conversation_a conversation_b",
        parsers={Ranking: published.arena},
        beside="openai_moderation toxic_chat_tag category_tag dedup_tag conv_metadata full_conversation",
    ),
    _format(
        "arena-turns",
        "prompt, response_a, response_b: a text a turn; winner_model_a, winner_model_b, winner_tie",
        "prompt response_a response_b winner_model_a winner_model_b winner_tie",
        parsers={Ranking: published.arena_turns},
        fits=published.has_texts_by_turn,
    ),
    _format(
        "helpsteer3",
        "context [turns], response1, response2, overall_preference | good_edited_response, bad_edited_response",
        "context response1 response2 overall_preference",
        "context good_edited_response bad_edited_response",
        parsers={Ranking: published.helpsteer3},
        beside="individual_preference feedback original_response change_summary",
    ),
    _format(
        "pku-saferlhf",
        "prompt, response_0, response_1, better_response_id, safer_response_id",
        "prompt response_0 response_1 better_response_id",
        parsers={Ranking: published.pku},
        beside="prompt_source response_0_harm_category response_1_harm_category response_0_severity_level "
        "response_1_severity_level",
    ),
    _format(
        "openai-preference",
        "input {messages}, preferred_output, non_preferred_output",
        "input preferred_output non_preferred_output",
        parsers={Ranking: published.openai_preference},
        beside="parallel_tool_calls",
    ),
    _format(
        "message-pairs",
        "chosen_messages, rejected_messages",
        "chosen_messages rejected_messages",
        parsers={Ranking: published.message_pairs},
    ),
    _format(
        "prometheus",
        "orig_instruction, orig_response_A, orig_response_B, orig_preference",
        "orig_instruction orig_response_A orig_response_B orig_preference",
        "instruction output orig_instruction orig_response_A orig_response_B orig_preference",
        parsers={Ranking: published.prometheus},
        beside="instruction input output orig_criteria orig_reference_answer orig_score_A orig_score_B orig_feedback "
        "orig_feedback_A orig_feedback_B",
    ),
    _format(
        "squality",
        "passage-id, questions {number {system {response, reviews}}} (no words of the questions)",
        "passage-id questions",
        parsers={Ranking: published.squality},
        group=published.squality_rows,
        beside="overall overall-rating correctness-rating correctness-rank selection-rating selection-rank system "
        "annotations",
    ),
    _format(
        "sides",
        "responses side by side and what was said of them: response_a, response_b, winner (labeler, model_a, ...)",
        parsers={Ranking: sides.side_by_side},
        columns=sides.columns,
    ),
    _format(
        "better-worse",
        "chosen_response, rejected_response | preferred, dispreferred | response_j, response_k | y_w, y_l | ...",
        parsers={Ranking: better_worse.better_and_worse},
        columns=better_worse.columns,
    ),
    _format(
        "list",
        "responses [...] with rewards, scores or ranks [...] | answers [{answer, model, rank}]",
        parsers={Ranking: listed.ranked_list},
        columns=listed.in_lists,
    ),
    _format(
        "all-generated",
        "prompt, all_generated_responses [...], all_rm_scores [...], of which chosen and rejected are two",
        "prompt all_generated_responses all_rm_scores",
        "prompt chosen rejected all_generated_responses all_rm_scores",
        parsers={Ranking: listed.ranked_list},
    ),
    _format(
        "best-and-rest",
        "prompt, chosen [text, ...], rejected [text, ...]",
        parsers={Ranking: listed.best_and_rest},
        columns=listed.in_chosen_and_rejected,
    ),
    _format(
        "thumbs",
        "an answer and a thumb in any words: instruction, output, kto_tag | messages, label | prompt, response, rating",
        parsers={Ranking: thumbs.thumbs},
        columns=thumbs.columns,
    ),
    _format(
        "steps",
        "prompt, completions, labels of the steps of one answer: nothing to compare",
        "prompt completions labels",
        parsers={Ranking: published.steps},
    ),
    _format(
        "summary-axes",
        "info, summary {axes}: points of one summary, nothing to compare",
        "info summary",
        parsers={Ranking: published.axes},
    ),
    _format(
        "absolute",
        "orig_instruction, orig_response, orig_score: one answer's points, nothing to compare",
        "orig_instruction orig_response orig_score",
        "instruction output orig_instruction orig_response orig_score",
        parsers={Ranking: published.absolute},
    ),
    _format(
        "argilla",
        "fields, responses [{user_id, values {ranking {value [{value, rank}]}}}]",
        "fields responses",
        parsers={Ranking: labeling_tools.argilla},
        fits=lambda row: not tool_exports.argilla2_columns(row),
    ),
    _format(
        "argilla-2",
        "fields, responses {question [{value, user_id}]}",
        parsers={Ranking: tool_exports.argilla2},
        columns=tool_exports.argilla2_columns,
    ),
    _format(
        "label-studio",
        "data {prompt, items [{id, body}]}, annotations [{result [{type: ranker, value {ranker}}]}]",
        "data annotations",
        parsers={Ranking: labeling_tools.label_studio},
        fits=lambda row: not tool_exports.is_pairwise(row),
    ),
    _format(
        "label-studio-pairwise",
        "data {prompt, ...}, annotations [{result [{type: pairwise, value {selected}}]}]",
        "data annotations",
        parsers={Ranking: tool_exports.label_studio_pairwise},
        fits=tool_exports.is_pairwise,
    ),
    _format(
        "open-webui",
        "data {rating, model_id, reason, comment}, meta {message_id}, snapshot {chat}",
        "data meta snapshot",
        parsers={Ranking: tool_exports.open_webui},
        beside="data.details data.sibling_model_ids data.tags meta.tags snapshot",
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
        fits=lambda row: any(isinstance(row.get(key), str | list) for key in (*demonstrations.PROMPT_KEYS, "turns")),
    ),
    _format("text", "text | sections [...] | a .txt file", "text", "sections", parsers={str: demonstrations.text}),
)
FORMATS: Mapping[str, Format] = {format_.name: format_ for format_ in _ALL}
