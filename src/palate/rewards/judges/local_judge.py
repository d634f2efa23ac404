"""A model that judges and writes in this process.

The verdict is read off the log-probabilities of the two letters as the first thing that it would say: nothing is drawn,
and how sure it is comes with it (Bai et al. 2022, arXiv 2212.08073, section 4.1). Or answers are drawn and read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from palate.errors import DataError
from palate.lm.batch import Sequences, per_token
from palate.lm.encode import usable_prompts
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded
from palate.recipe import Engine, Sampling
from palate.records import Prompt, Provenance, Response
from palate.rewards.judges.judge_model import Choice, Leaning, Written, by_majority
from palate.rewards.judges.questions import LETTERS, WORDS
from palate.rollout import engines


class LocalJudge:
    """Judges and writes with a language model.

    Args:
        samples: answers drawn to each question; 0: none, the log-probabilities of the letters decide.
        sampling: of whatever is drawn.
        engine: that draws it.
        max_tokens: computed in one pass where nothing is drawn.
        seed: with the purpose and the prompt it determines what is drawn.
    """

    def __init__(
        self,
        loaded: Loaded[LanguageModel],
        sampling: Sampling,
        *,
        seed: int,
        engine: Engine = engines.IN_PROCESS,
        samples: int = 0,
        max_tokens: int = 4096,
    ) -> None:
        self.loaded, self.sampling, self.seed = loaded, sampling, seed
        self.samples, self.max_tokens = samples, max_tokens
        self.engine = engines.make_engine(engine, loaded.model, loaded.chat)
        self.engine.load_weights(loaded.model)

    def choose(self, questions: Sequence[Prompt]) -> list[Choice]:
        """As in `JudgeModel`; questions and answers fit the model's context."""
        if not questions:
            return []
        if not self.samples:
            return [Choice(first=share) for share in self.first_shares(questions).tolist()]
        key = (self.seed, "judge")
        rollout = self.engine.generate(questions, self.sampling, num_responses=self.samples, key=key)
        starts = range(0, len(rollout.texts), self.samples)
        return [by_majority(rollout.texts[start : start + self.samples]) for start in starts]

    def first_shares(self, questions: Sequence[Prompt]) -> Tensor:
        """[N] how likely the first letter is, given that it is one of the two: sigmoid(log p(A) - log p(B))."""
        return torch.sigmoid(self.log_odds(questions, LETTERS))

    def lean(self, questions: Sequence[Prompt]) -> list[Leaning]:
        """As in `JudgeModel`.

        Raises:
            DataError: a question is too long for the model's context.
        """
        chat, words = self.loaded.chat, WORDS
        longest = max((len(chat.prompt_tokens(each)) for each in questions), default=0)
        room = self.loaded.model.context - max(len(chat.beginning_tokens(word)) for word in words)
        if longest > room:
            raise DataError(f"a question of {longest:,} tokens is too long for {self.loaded.name}, which has {room:,}")
        return [Leaning(log_odds=each) for each in self.log_odds(questions, words).tolist()] if questions else []

    @torch.no_grad()
    def log_odds(self, questions: Sequence[Prompt], words: tuple[str, str]) -> Tensor:
        """[N] log p(first) - log p(second), of two words with which the answer may begin."""
        chat, model = self.loaded.chat, self.loaded.model
        opened = [chat.prompt_tokens(each) for each in questions]
        begun = [chat.beginning_tokens(word) for word in words]
        sequences = Sequences.pack(
            [tokens for tokens in opened for _ in begun],
            begun * len(questions),
            group_ids=[number for number in range(len(questions)) for _ in begun],
        ).to(model.device)
        logprobs = per_token(sequences, self.max_tokens, lambda part: model.logprobs(part, temperature=1.0)).sum(1)
        first, second = logprobs.view(-1, len(begun)).double().unbind(1)
        return first - second

    def write(self, prompts: Sequence[Prompt], *, purpose: str) -> list[Written]:
        """As in `JudgeModel`; it does not take what leaves no room in its context, or what its template cannot hold."""
        if not prompts:
            return []
        room = self.loaded.model.context - self.sampling.max_new_tokens
        usable = usable_prompts(
            self.loaded.chat, prompts, max_length=room, limit="the model's context - max_new_tokens"
        )
        written = {item.index: Written(response=None, reason=item.reason) for item in usable.left_out}
        taken = [place for place in range(len(prompts)) if place not in written]
        if not taken:
            return [written[place] for place in range(len(prompts))]
        rollout = self.engine.generate(usable.prompts, self.sampling, num_responses=1, key=(self.seed, purpose))
        rows = zip(taken, rollout.texts, rollout.logprobs.sum(1).tolist(), rollout.ended.tolist(), strict=True)
        for place, text, logprob, ended in rows:
            written[place] = Written(response=Response(text=text, provenance=self._provenance(logprob, ended)))
        return [written[place] for place in range(len(prompts))]

    def _provenance(self, logprob: float, ended: bool) -> Provenance:
        return Provenance(
            model=self.loaded.name,
            checkpoint=self.loaded.weights,
            temperature=self.sampling.temperature,
            max_new_tokens=self.sampling.max_new_tokens,
            seed=self.seed,
            logprob=logprob,
            ended=ended,
        )

    def used(self) -> dict[str, int]:
        """Nothing."""
        return {}
