"""The truth of an experiment on over-optimisation: the hidden taste, and whether a response still reads like language.

    gold = taste + 0.5 fluency          fluency: mean log-probability of a token under the base model, in nats

The taste alone is a formula, and a formula has holes of its own: a policy that had gone 86 nats from the SFT model said
"Bridging the storm can evoke a empathetic and empathetic way of life" to everybody and pleased it more than ever.
People would notice, and so does a language model that none of the training touches: sensible sentences of the SFT model
have about -1.8 nats a token, those -3.7. Labelers go by gold as well, but in what they are shown fluency hardly varies,
so that a reward model learns little about it: what it has not seen is what it is wrong about.

Gao et al. 2022 (arXiv 2210.10760) take a larger reward model for the truth, which is neither known nor fixed by people
either. Left out: whether an answer is true.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from palate.errors import DataError
from palate.lm.encode import encode_responses
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded, load_language_model
from palate.records import Prompt
from palate.rewards.learned import MAX_TOKENS
from palate.simulated.tastes import sunny_and_to_the_point
from palate.stages.common import response_logprobs

Floats = NDArray[np.float64]

READER = "smollm2-135m"
WEIGHT = 0.5
"""Of a nat a token: what the answers of an SFT model differ by is then a tenth of what the taste makes of them."""


def pleasant_and_fluent(prompts: Sequence[Prompt], responses: Sequence[str]) -> Floats:
    """[B] scores, the higher the better."""
    total: Floats = sunny_and_to_the_point(prompts, responses) + WEIGHT * fluency(prompts, responses)
    return total


def fluency(prompts: Sequence[Prompt], responses: Sequence[str]) -> Floats:
    """[B] mean log-probability of a response's tokens after its prompt; whether it ends there does not count.

    A response without tokens has that of tokens drawn blindly from the vocabulary.

    Raises:
        DataError: a response that the reader has no room for.
    """
    reader = _reader()
    encoded = encode_responses(
        reader.chat, prompts, responses, ended=[False] * len(responses), max_length=reader.model.context
    )
    if encoded.left_out:
        raise DataError(
            f"the base model cannot read response {encoded.left_out[0].index}: {encoded.left_out[0].reason}"
        )
    sequences = encoded.sequences.to(reader.model.device)
    sums = response_logprobs(reader.model, sequences, None, temperature=1.0, max_tokens=MAX_TOKENS)
    lengths = sequences.mask.sum(1)
    means = (sums / lengths.clamp(min=1)).double().cpu().numpy()
    blind = -math.log(reader.model.config.vocab_size)
    return np.where(lengths.cpu().numpy() > 0, means, blind)


@cache
def _reader() -> Loaded[LanguageModel]:
    """Read once; nothing of it learns."""
    loaded = load_language_model(READER)
    loaded.model.freeze_all()
    return loaded
