"""The truth of the over-optimisation experiment: a taste that notices when text decays."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from palate.errors import DataError
from palate.experiments.gold_taste import READER, WEIGHT, fluency, pleasant_and_fluent
from palate.lm.sources.zoo import load_language_model, locate
from palate.records import Prompt
from palate.simulated.tastes import sunny_and_to_the_point

PROMPT = Prompt.from_text("What do you think of a storm?", tags={"subject": "a storm"})
SOUND = "A storm is a good reason to stay at home with a book and a cup of tea."
DECAYED = "Bridging the storm can evoke a empathetic and empathetic way of life."


def test_it_is_the_mean_log_probability_that_transformers_computes() -> None:
    texts = [SOUND, "Rain."]
    chat = load_language_model(READER).chat
    model = AutoModelForCausalLM.from_pretrained(locate(READER), dtype=torch.float32).eval()
    expected = []
    for text in texts:
        prompt, response = chat.prompt_tokens(PROMPT), chat.response_tokens(text, ended=False)
        with torch.no_grad():
            logprobs = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        expected.append(logprobs[range(len(response)), response].mean().item())
    assert fluency([PROMPT] * 2, texts) == pytest.approx(expected, abs=0.05)  # products may be bf16


def test_decayed_text_that_pleases_the_formula_is_worth_less() -> None:
    sound, decayed = fluency([PROMPT] * 2, [SOUND, DECAYED])
    assert sound - decayed > 1, "a nat a token"
    mixed = pleasant_and_fluent([PROMPT] * 2, [SOUND, DECAYED])
    taste = sunny_and_to_the_point([PROMPT] * 2, [SOUND, DECAYED])
    assert mixed - taste == pytest.approx(WEIGHT * np.array([sound, decayed]))


def test_saying_nothing_reads_like_blind_tokens() -> None:
    assert fluency([PROMPT] * 2, ["", SOUND])[0] == pytest.approx(-math.log(49152))


def test_what_the_reader_has_no_room_for_is_not_guessed_at() -> None:
    with pytest.raises(DataError, match="cannot read response 1"):
        fluency([PROMPT] * 2, [SOUND, "so " * 9000])
