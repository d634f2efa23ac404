"""What a sampling engine takes and gives.

Responses are drawn from the full distribution at one temperature. There is no top-p, top-k or repetition penalty: under
any of them the log-probabilities that RL needs would be those of another policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, overload

from torch import Tensor

from palate.lm.batch import Sequences
from palate.lm.model import LanguageModel, Trunk
from palate.recipe import Sampling
from palate.records import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """P prompts times K responses, B = P * K, the responses of a prompt side by side.

    Attributes:
        prompts: [B], each repeated for its responses.
        texts: [B] what the responses say.
        sequences: their tokens, exactly as they were drawn.
        logprobs: [B, T] of the distribution they were drawn from.
        ended: [B] bool, a stop token was drawn; the others were cut off.
        temperature: of that distribution.
        layout: fingerprint of the chat that laid them out; empty if nobody asked.
    """

    prompts: tuple[Prompt, ...]
    texts: tuple[str, ...]
    sequences: Sequences
    logprobs: Tensor
    ended: Tensor
    temperature: float
    layout: str = ""

    @property
    def responses(self) -> Responses:
        """What a `RewardSource` is given."""
        return Responses(self.texts, self.sequences, None, layout=self.layout, ended=self.ended.tolist())


class Responses(Sequence[str]):
    """Texts for rules and judges, and the tokens they came from for models, so that nothing is tokenised twice.

    Args:
        texts: [B] what they say.
        sequences: their tokens.
        trunk: their frozen layers' hidden states, if somebody has computed them.
        layout: fingerprint of the chat that laid them out; empty: of the one that will read them.
        ended: [B] which of them end with a stop token; all of them if absent.
    """

    def __init__(
        self,
        texts: Sequence[str],
        sequences: Sequences,
        trunk: Trunk | None,
        *,
        layout: str = "",
        ended: Sequence[bool] | None = None,
    ) -> None:
        self.texts, self.sequences, self.trunk = tuple(texts), sequences, trunk
        self.layout, self.ended = layout, ended

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self.texts[index]

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)


class RolloutEngine(Protocol):
    """Draws responses and says how likely each token was."""

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, num_responses: int, key: tuple[int | str, ...]
    ) -> Rollout:
        """K responses to each prompt; a response depends on ``key``, its prompt and its number alone."""
        ...

    def load_weights(self, model: LanguageModel) -> None:
        """Sample from these weights from now on."""
        ...
