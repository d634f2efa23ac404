"""A response's tokens as text: what each adds, to the letter, however its characters are divided."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.lm.templates import families

from palate.lm.chat import Chat
from palate.lm.sources.builtin import byte_tokenizer
from palate.lm.sources.zoo import load_chat

TEXTS = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("aé한字👩‍🚀🇩🇰 \n")), max_size=12)


@cache
def of_bytes() -> Chat:
    """Every byte is a token."""
    return families.family("chatml")


@cache
def of_pieces() -> Chat:
    """As SentencePiece does it: words begin with a mark, which the first is stripped of; rare characters are bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["▁", "▁a", "▁the", "a", "b", "é", "he", "t", "h", "e"]
    vocabulary = {token: number for number, token in enumerate(["</s>", *(f"<0x{n:02X}>" for n in range(256)), *words])}
    made = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return Chat(PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>"))


def whole(chat: Chat, tokens: list[int]) -> str:
    return str(chat.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@given(TEXTS.filter(lambda text: "\ufffd" not in text))
def test_a_character_belongs_to_the_token_that_completes_it(text: str) -> None:
    chat = of_bytes()
    expected = [part for char in text for part in [*[""] * (len(char.encode()) - 1), char]]
    tokens = chat.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert chat.pieces(tokens) == expected
    assert chat.pieces([*tokens, chat.stop_id]) == [*expected, "<|im_end|>"]


@given(st.lists(st.integers(0, 266), max_size=24))
@pytest.mark.parametrize("chat", [of_bytes, of_pieces])
def test_joined_they_are_the_whole_text_whatever_was_drawn(chat: Any, tokens: list[int]) -> None:
    pieces = chat().pieces(tokens)
    assert len(pieces) == len(tokens)
    assert "".join(pieces) == whole(chat(), tokens)


@given(TEXTS)
def test_said_without_its_special_tokens_a_response_is_its_text(text: str) -> None:
    chat = of_bytes()
    tokens = chat.response_tokens(text)
    assert "".join(chat.pieces(tokens)[:-1]).strip() == chat.text(tokens)


def test_white_space_and_special_tokens_are_kept() -> None:
    chat = of_bytes()
    tokens = [*chat.tokenizer(" a\n", add_special_tokens=False).input_ids, chat.stop_id]
    assert chat.pieces(tokens) == [" ", "a", "\n", "<|im_end|>"]
    assert chat.pieces([]) == []


def test_what_is_no_character_is_marked_where_it_stands() -> None:
    chat = Chat(byte_tokenizer())
    broken, letter = "é".encode()[:1], b"a"
    ids = {byte: chat.tokenizer.convert_tokens_to_ids(name) for byte, name in ((broken, "Ã"), (letter, "a"))}
    assert chat.pieces([ids[broken], ids[letter], ids[broken]]) == ["\ufffd", "a", "\ufffd"]


def test_a_word_of_the_real_model_keeps_its_space() -> None:
    chat = load_chat("smollm2-135m")
    tokens = chat.response_tokens("Hello there, 世界 👋!")
    pieces = chat.pieces(tokens)
    assert "".join(pieces) == "Hello there, 世界 👋!<|im_end|>"
    assert pieces[:3] == ["Hello", " there", ","]
    assert "" in pieces, "an emoji is several tokens"
