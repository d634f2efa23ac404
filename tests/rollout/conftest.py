"""The tiny model, and one that likes to stop."""

from __future__ import annotations

import math

import pytest
import torch

from palate.lm.batch import Sequences
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded, load_language_model


@pytest.fixture(scope="session")
def tiny() -> Loaded[LanguageModel]:
    return load_language_model("tiny", precision="fp32")


@pytest.fixture(scope="session")
def stopping() -> Loaded[LanguageModel]:
    """The unembedding of EOS points where all rows lie: of responses of ten tokens some end and some do not."""
    loaded = load_language_model("tiny", precision="fp32")
    with torch.no_grad(), loaded.model.device:
        every, first = torch.arange(259), torch.zeros(259, dtype=torch.long)
        rows = loaded.model.hidden(Sequences.pack([every.tolist()], [[]]).to(loaded.model.device), first, every, None)
        common = rows.mean(0)
        weight = dict(loaded.model.named_parameters())["model.embed_tokens.weight"]
        weight[loaded.chat.stop_id] = common / common.square().sum() * math.log(3000)
    return loaded
