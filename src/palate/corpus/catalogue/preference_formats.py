"""The formats in which somebody preferred something, or gave a thumb: how each is recognised and read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from palate.corpus.catalogue.format import shaped
from palate.corpus.catalogue.own import is_own
from palate.corpus.formats import (
    better_worse,
    columns,
    labeling_tools,
    listed,
    published,
    rankings,
    sides,
    thumbs,
    tool_exports,
)
from palate.corpus.rows.values import Fields
from palate.corpus.rows.verdicts import is_thumb
from palate.records import Demonstration, Ranking

_SIDES = ("chosen", "rejected")
_THUMBS = ("label", "kto_tag")


def _has_transcripts(row: Fields) -> bool:
    return all(isinstance(row[key], str) and "\n\nAssistant:" in row[key] for key in ("chosen", "rejected"))


def _has_thumb(row: Fields) -> bool:
    return any(is_thumb(row[key]) for key in _THUMBS if row.get(key) is not None)


def _one_each(row: Fields) -> bool:
    """Whether one response was chosen and one rejected: texts or turns, not several of them, nor columns' names."""
    named = any(isinstance(row[key], str) and row[key] in row for key in _SIDES)
    return not named and not listed.in_chosen_and_rejected(row)


def _has_overall_scores(row: Fields) -> bool:
    completions = row["completions"]
    return isinstance(completions, list) and any(
        isinstance(each, Mapping) and "overall_score" in each for each in completions
    )


def _has_answer_lists(row: Fields) -> bool:
    return all(isinstance(row[key], list) for key in ("responses", "ranks")) and not is_own(row)


PREFERENCES = (
    shaped(
        "hh",
        'chosen, rejected: transcripts "\\n\\nHuman: ...\\n\\nAssistant: ..."',
        "chosen rejected",
        parsers={Ranking: rankings.hh},
        fits=_has_transcripts,
    ),
    shaped(
        "trl-explicit",
        "prompt (or question, query, input), chosen, rejected (margin; chosen_score, chosen_model, ...)",
        *(f"{key} chosen rejected{more}" for key in rankings.PROMPT_KEYS for more in ("", " messages")),
        parsers={Ranking: rankings.trl_explicit},
        fits=_one_each,
        beside="score_chosen score_rejected chosen_score rejected_score chosen_rating rejected_rating chosen-rating "
        "rejected-rating chosen_avg_rating rejected_avg_rating",
    ),
    shaped(
        "trl-implicit",
        "chosen, rejected (margin), both with their prompt",
        "chosen rejected",
        parsers={Ranking: rankings.trl_implicit},
        fits=lambda row: _one_each(row) and not _has_transcripts(row),
    ),
    shaped(
        "trl-kto",
        "prompt, completion (or response), label: a thumb",
        *(f"prompt {answer} {thumb}" for answer in ("completion", "response") for thumb in _THUMBS),
        parsers={Ranking: thumbs.thumbs},
        fits=_has_thumb,
    ),
    shaped(
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
    shaped(
        "ms-swift",
        "messages, rejected_response (or rejected_messages)",
        "messages rejected_response",
        "messages rejected_messages",
        parsers={Ranking: rankings.ms_swift},
    ),
    shaped(
        "alpaca-preference",
        "instruction, input, chosen, rejected (output)",
        "instruction chosen rejected",
        "instruction output chosen rejected",
        "instruction input chosen rejected",
        "instruction input output chosen rejected",
        parsers={Demonstration: rankings.alpaca_preference_demonstration, Ranking: rankings.alpaca_preference},
    ),
    shaped(
        "rankings",
        "prompt, responses [...], ranks [...]",
        "prompt responses ranks",
        parsers={Ranking: rankings.rankings},
        fits=_has_answer_lists,
    ),
    shaped(
        "ultrafeedback",
        "instruction, completions [{response, model, overall_score}]",
        "instruction completions",
        parsers={Ranking: rankings.ultrafeedback},
        fits=_has_overall_scores,
        beside="correct_answers incorrect_answers completions.annotations completions.critique completions.principle "
        "completions.fine-grained_score completions.custom_system_prompt",
    ),
    shaped(
        "helpsteer2",
        "prompt, response_1, response_2, preference_strength | prompt, response, helpfulness",
        "prompt response_1 response_2 preference_strength",
        "prompt response helpfulness",
        parsers={Ranking: rankings.helpsteer2},
        group=rankings.helpsteer2_groups,
        beside="correctness coherence complexity verbosity preference_statement preference_elaboration "
        "all_preferences_unprocessed three_most_similar_preferences",
    ),
    shaped(
        "shp",
        "history, human_ref_A, human_ref_B, labels",
        "history human_ref_A human_ref_B labels",
        parsers={Ranking: rankings.shp},
        beside="score_A score_B score_ratio upvote_ratio",
    ),
    shaped(
        "webgpt",
        "question, answer_0, answer_1, score_0, score_1",
        "question answer_0 answer_1 score_0 score_1",
        parsers={Ranking: rankings.webgpt},
        beside="quotes_0 quotes_1 tokens_0 tokens_1",
    ),
    shaped(
        "stiennon",
        "info, summaries [{text, policy}], choice, worker",
        "info summaries choice",
        parsers={Ranking: rankings.stiennon},
        beside="extra summaries.note",
    ),
    shaped(
        "arena",
        "model_a, model_b, winner, conversation_a, conversation_b",
        "winner conversation_a conversation_b",
        parsers={Ranking: published.arena},
        beside="openai_moderation toxic_chat_tag category_tag dedup_tag conv_metadata full_conversation",
    ),
    shaped(
        "arena-turns",
        "prompt, response_a, response_b: a text a turn; winner_model_a, winner_model_b, winner_tie",
        "prompt response_a response_b winner_model_a winner_model_b winner_tie",
        parsers={Ranking: published.arena_turns},
        fits=published.has_texts_by_turn,
    ),
    shaped(
        "helpsteer3",
        "context [turns], response1, response2, overall_preference | good_edited_response, bad_edited_response",
        "context response1 response2 overall_preference",
        "context good_edited_response bad_edited_response",
        parsers={Ranking: published.helpsteer3},
        beside="individual_preference feedback original_response change_summary",
    ),
    shaped(
        "pku-saferlhf",
        "prompt, response_0, response_1, better_response_id, safer_response_id",
        "prompt response_0 response_1 better_response_id",
        parsers={Ranking: published.pku},
        beside="prompt_source response_0_harm_category response_1_harm_category response_0_severity_level "
        "response_1_severity_level",
    ),
    shaped(
        "openai-preference",
        "input {messages}, preferred_output, non_preferred_output",
        "input preferred_output non_preferred_output",
        parsers={Ranking: published.openai_preference},
        beside="parallel_tool_calls",
    ),
    shaped(
        "message-pairs",
        "chosen_messages, rejected_messages",
        "chosen_messages rejected_messages",
        parsers={Ranking: published.message_pairs},
    ),
    shaped(
        "prometheus",
        "orig_instruction, orig_response_A, orig_response_B, orig_preference",
        "orig_instruction orig_response_A orig_response_B orig_preference",
        "instruction output orig_instruction orig_response_A orig_response_B orig_preference",
        parsers={Ranking: published.prometheus},
        beside="instruction input output orig_criteria orig_reference_answer orig_score_A orig_score_B orig_feedback "
        "orig_feedback_A orig_feedback_B",
    ),
    shaped(
        "squality",
        "passage-id, questions {number {system {response, reviews}}} (no words of the questions)",
        "passage-id questions",
        parsers={Ranking: published.squality},
        group=published.squality_rows,
        beside="overall overall-rating correctness-rating correctness-rank selection-rating selection-rank system "
        "annotations",
    ),
    shaped(
        "sides",
        "responses side by side and what was said of them: response_a, response_b, winner (labeler, model_a, ...)",
        parsers={Ranking: sides.side_by_side},
        columns=sides.columns,
    ),
    shaped(
        "better-worse",
        "chosen_response, rejected_response | preferred, dispreferred | response_j, response_k | y_w, y_l | ...",
        parsers={Ranking: better_worse.better_and_worse},
        columns=better_worse.columns,
    ),
    shaped(
        "list",
        "responses [...] with rewards, scores or ranks [...] | answers [{answer, model, rank}]",
        parsers={Ranking: listed.ranked_list},
        columns=listed.in_lists,
    ),
    shaped(
        "all-generated",
        "prompt, all_generated_responses [...], all_rm_scores [...], of which chosen and rejected are two",
        "prompt all_generated_responses all_rm_scores",
        "prompt chosen rejected all_generated_responses all_rm_scores",
        parsers={Ranking: listed.ranked_list},
    ),
    shaped(
        "best-and-rest",
        "prompt, chosen [text, ...], rejected [text, ...]",
        parsers={Ranking: listed.best_and_rest},
        columns=listed.in_chosen_and_rejected,
    ),
    shaped(
        "thumbs",
        "an answer and a thumb in any words: instruction, output, kto_tag | messages, label | prompt, response, rating",
        parsers={Ranking: thumbs.thumbs},
        columns=thumbs.columns,
    ),
    shaped(
        "steps",
        "prompt, completions, labels of the steps of one answer: nothing to compare",
        "prompt completions labels",
        parsers={Ranking: published.steps},
    ),
    shaped(
        "summary-axes",
        "info, summary {axes}: points of one summary, nothing to compare",
        "info summary",
        parsers={Ranking: published.axes},
    ),
    shaped(
        "absolute",
        "orig_instruction, orig_response, orig_score: one answer's points, nothing to compare",
        "orig_instruction orig_response orig_score",
        "instruction output orig_instruction orig_response orig_score",
        parsers={Ranking: published.absolute},
    ),
    shaped(
        "argilla",
        "fields, responses [{user_id, values {ranking {value [{value, rank}]}}}]",
        "fields responses",
        parsers={Ranking: labeling_tools.argilla},
        fits=lambda row: not tool_exports.argilla2_columns(row),
    ),
    shaped(
        "argilla-2",
        "fields, responses {question [{value, user_id}]}",
        parsers={Ranking: tool_exports.argilla2},
        columns=tool_exports.argilla2_columns,
    ),
    shaped(
        "label-studio",
        "data {prompt, items [{id, body}]}, annotations [{result [{type: ranker, value {ranker}}]}]",
        "data annotations",
        parsers={Ranking: labeling_tools.label_studio},
        fits=lambda row: not tool_exports.is_pairwise(row),
    ),
    shaped(
        "label-studio-pairwise",
        "data {prompt, ...}, annotations [{result [{type: pairwise, value {selected}}]}] (or choices)",
        "data annotations",
        parsers={Ranking: tool_exports.label_studio_pairwise},
        fits=tool_exports.is_pairwise,
    ),
    shaped(
        "open-webui",
        "data {rating, model_id, reason, comment}, meta {message_id}, snapshot {chat}",
        "data meta snapshot",
        parsers={Ranking: tool_exports.open_webui},
        beside="data.details data.sibling_model_ids data.tags meta.tags snapshot",
    ),
    shaped(
        "pairs",
        "any columns, named by fields: prompt, a, b, preferred, labeler, strength, seconds, model_a, model_b",
        parsers={Ranking: partial(columns.pairs, mapping=columns.DEFAULT_PAIR)},
    ),
)
