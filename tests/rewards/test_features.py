"""Features of a frozen trunk: the states they say they are, whatever the microbatch."""

from __future__ import annotations

import pytest
import torch

from palate.errors import RecipeError
from palate.lm.encode import encode_responses
from palate.lm.sources.zoo import load_scalar_model
from palate.records import Prompt
from palate.rewards.features import response_features

PROMPTS = [Prompt.from_text(text) for text in ("a", "b", "a", "a longer one")]
TEXTS = ["one", "two words", "three words now", "x"]


def test_features_are_the_last_state_and_the_mean_of_a_response() -> None:
    loaded = load_scalar_model("tiny", precision="fp32", seed=4)
    model = loaded.model
    model.freeze_all(1)
    sequences = encode_responses(loaded.chat, PROMPTS, TEXTS, max_length=100).sequences
    found = response_features(model, sequences, max_tokens=4096)
    width = model.model.shape.hidden_size
    assert found.shape == (4, 2 * width)
    for row in range(4):  # one at a time: no neighbour, no padding
        trunk = model.trunk(sequences.select(torch.tensor([row])))
        assert trunk is not None
        (states,) = trunk.responses.values()
        assert len(states) == int(sequences.lengths[row] - sequences.prompt_lengths[row])
        torch.testing.assert_close(found[row, :width], states[-1])
        torch.testing.assert_close(found[row, width:], states.mean(0))
    shown: list[tuple[int, int]] = []
    parts = response_features(model, sequences, max_tokens=1, show=lambda done, total: shown.append((done, total)))
    torch.testing.assert_close(parts, found)
    assert len(shown) > 1
    assert shown[-1][0] == shown[-1][1] == int(sequences.lengths.sum())


def test_nothing_frozen_is_no_trunk() -> None:
    loaded = load_scalar_model("tiny", precision="fp32", seed=4)
    sequences = encode_responses(loaded.chat, PROMPTS, TEXTS, max_length=100).sequences
    with pytest.raises(RecipeError, match="set frozen_layers"):
        response_features(loaded.model, sequences, max_tokens=64)
