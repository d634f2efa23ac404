"""The pretraining gradient mixed into PPO (PPO-ptx): the language-model loss on raw text, beside every update.

Ouyang et al. 2022 (arXiv 2203.02155), section 3.5 and equation 2: one combined gradient, not a second optimizer step.
"""

from __future__ import annotations

import torch

from palate.corpus import read_texts
from palate.errors import DataError, RecipeError
from palate.lm.batch import Sequences
from palate.lm.chat import Chat
from palate.lm.encode import encode_texts
from palate.lm.model import LanguageModel
from palate.objectives.losses import sft_loss
from palate.randomness import permutation
from palate.recipe import Pretraining
from palate.run.directory import Run
from palate.stages.common import combined


def load_text(settings: Pretraining, policy: LanguageModel, chat: Chat, run: Run) -> Sequences:
    """Windows of raw text.

    Raises:
        RecipeError: they are longer than the model's context.
        DataError: there are fewer than one update takes.
    """
    length = settings.sequence_length
    if length > policy.context:
        raise RecipeError(f"pretraining.sequence_length = {length}, but the model was made for {policy.context}")
    texts = read_texts(settings.data)
    run.add_inputs({"pretraining": texts.files})
    windows = encode_texts(chat, texts.records, length=length)
    if len(windows) < settings.sequences_per_step:
        raise DataError(
            f"the text is enough for {len(windows)} sequences of {length} tokens, but "
            f"pretraining.sequences_per_step = {settings.sequences_per_step}: lower one of them, or add text",
            path=settings.data.path,
        )
    return windows.to(policy.device)


class PretrainingGradient:
    """Adds the gradient of random windows of text.

    Args:
        text: to draw from.
        coef: how often it is added (gamma).
        count: windows for one update.
        max_tokens: of a microbatch.
        key: of the run's random numbers.
    """

    def __init__(
        self,
        policy: LanguageModel,
        text: Sequences,
        *,
        coef: float,
        count: int,
        max_tokens: int,
        key: tuple[int | str, ...],
    ) -> None:
        self.policy, self.text, self.coef = policy, text, coef
        self.count, self.max_tokens, self.key = count, max_tokens, key

    def __call__(self, step: int, epoch: int, minibatch: int) -> dict[str, float]:
        """Add to what is there already; which windows is a function of where the run is."""
        order = permutation(len(self.text), *self.key, "pretraining", step, epoch, minibatch)
        batch = self.text.select(torch.from_numpy(order[: self.count]))
        num_tokens, computed = int(batch.mask.sum()), []
        for microbatch in batch.microbatches(self.max_tokens):
            logprobs = self.policy.logprobs(microbatch, temperature=1.0)
            loss, metrics = sft_loss(logprobs, microbatch.mask, denominator=num_tokens)
            (self.coef * loss).backward()
            computed.append(metrics)
        return {"policy/pretraining_loss": float(combined(computed)["sft/loss"])}
