"""Tokenizers made on the spot, and templates that misbehave as those of known models do; in our own words."""

from __future__ import annotations

from typing import Any

from palate.lm.chat import Chat
from palate.lm.sources.builtin import byte_tokenizer
from palate.lm.templates import find_template

SPECIALS = (
    *("<|im_start|>", "<|im_end|>", "<|im_sep|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<start_of_turn>", "<end_of_turn>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    *("<｜User｜>", "<｜Assistant｜>", "[INST]", "[/INST]"),
)


def tokenizer(template: str = "", **tokens: str) -> Any:
    """Bytes, every family's special tokens, and `<think>` as one token that is not special."""
    made = byte_tokenizer()
    made.add_special_tokens(
        {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "<|endoftext|>",
            "additional_special_tokens": list(SPECIALS),
            **tokens,
        }
    )
    made.add_tokens(["<think>", "</think>"])
    made.chat_template = template
    return made


def chat(template: str, **tokens: str) -> Chat:
    """With that template."""
    return Chat(tokenizer(template, **tokens))


def family(name: str) -> Chat:
    """With a template of our own."""
    made = tokenizer()
    made.chat_template = find_template(name, made)
    return Chat(made)


THINKER = """
{%- set last = namespace(question=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set last.question = loop.index0 %}{% endif %}{% endfor %}
{%- if tools %}
{{- '<|im_start|>system\\n<tools>' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}
{{- '</tools><|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- set words = m.content.split('</think>')[-1].lstrip('\\n') %}
        {%- set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') if '</think>' in m.content %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > last.question and (loop.last or thought) %}
            {{- '<think>\\n' + (thought or '') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- words }}
        {%- for call in m.tool_calls or [] %}
            {{- '<tool_call>{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson + '}</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif m.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>' + m.content + '</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""
"""Takes thoughts out of earlier turns, puts an empty one before the last; knows tools."""

FORCED_THINKER = """{{ bos_token }}{% for m in messages %}
{%- if m.role == 'system' %}{{ m.content }}
{%- elif m.role == 'user' %}{{ '<｜User｜>' + m.content }}
{%- else %}{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + eos_token }}
{%- endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"""
"""Begins every response within a thought, takes thoughts out of all turns that are there."""

BOUNDARY = """{{ bos_token }}{% for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{%- if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}
{%- else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"""
"""No header before a response but a blank, which its prompt does not have; no system turn."""

TRIMMER = """{{ bos_token }}{% for m in messages %}
{%- if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}
{{- m.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
"""Trims every turn, refuses system turns and turns that do not alternate."""

HEADER_TRIMMER = """{% for m in messages %}
{%- set text = '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' %}
{{- bos_token + text if loop.first else text }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
"""Trims every turn and holds any roles."""

HEADERLESS = """{% for m in messages %}<|im_start|>{{ m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"""
"""Does not open the assistant's turn, though it has a header."""

BLANKS = """{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}
{%- elif m.role == 'assistant' %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"""
"""Blanks on both sides of a response, and BOS before every question; drops system turns without a word."""

MISBEHAVING = {
    "thinker": THINKER,
    "forced thinker": FORCED_THINKER,
    "boundary": BOUNDARY,
    "trimmer": TRIMMER,
    "header trimmer": HEADER_TRIMMER,
    "headerless": HEADERLESS,
    "blanks": BLANKS,
}
