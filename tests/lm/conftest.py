"""The tiny model, as it came and as copies to change; one projection, and rows to multiply."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from palate.lm.batch import Sequences
from palate.lm.model import LanguageModel, ScalarModel
from palate.lm.projection import Projection
from palate.lm.sources.zoo import Loaded, load_language_model, load_scalar_model


@pytest.fixture(scope="session")
def tiny() -> Loaded[LanguageModel]:
    return load_language_model("tiny", precision="fp32")


@pytest.fixture(scope="session")
def tiny_scalar() -> Loaded[ScalarModel]:
    return load_scalar_model("tiny", precision="fp32", seed=3)


@pytest.fixture
def fresh(tiny: Loaded[LanguageModel]) -> Callable[[], LanguageModel]:
    return lambda: copy.deepcopy(tiny.model)


@pytest.fixture
def fresh_scalar(tiny_scalar: Loaded[ScalarModel]) -> Callable[[], ScalarModel]:
    return lambda: copy.deepcopy(tiny_scalar.model)


@pytest.fixture
def sequences() -> Sequences:
    """Three prompts, two of them shared, one of a single token; masks with holes; no token is the pad."""
    prompts = [[40, 41, 42], [7], [50, 51, 52, 53, 54, 55], [40, 41, 42], [50, 51, 52, 53, 54, 55]]
    responses = [[9, 8, 7, 2], [11, 12], [13, 14, 15, 16, 17, 18, 2], [21, 22, 2], [31, 2]]
    masks = [[True] * len(response) for response in responses]
    masks[2][1] = masks[2][4] = False
    return Sequences.pack(prompts, responses, group_ids=[4, 9, 1, 4, 1], masks=masks)


@pytest.fixture
def rows() -> Tensor:
    """[7, 96]"""
    return torch.randn(7, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def linear() -> Projection:
    """From 96 to 40 numbers, in half precision."""
    linear = Projection(96, 40, torch.bfloat16)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(40, 96, generator=torch.Generator().manual_seed(2)))
    return linear
