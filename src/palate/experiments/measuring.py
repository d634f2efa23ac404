"""How good a policy is and how far it went: on the same prompts, with the same random numbers, by the same judge.

What is kept is by prompt, so that methods can be compared prompt by prompt afterwards. Of best of n a whole pool of
responses is kept: every n up to its size is then known without sampling again, and without bias.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from palate import disk
from palate.corpus import read_prompts
from palate.evals.winrate import compare_each, length_controlled
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded, load_language_model
from palate.recipe import CompareRecipe, Reward
from palate.rewards.mix import Mix
from palate.run.directory import Run
from palate.stages.common import deterministic, prompts_with_room
from palate.stages.evaluate import Answers, answers, divergence_by_prompt

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One policy, measured; [P] each, means over its responses to a prompt.

    Attributes:
        kl: to the baseline, k1, in nats per response.
        judge: score by the judge.
        won: share of comparisons with the baseline's responses that were won, ties half.
        words: of a response.
        truncated: share that was cut off.
        reward: by the reward that the method learned from or, if it learned from none, the others did; empty if nobody
            did.
        at_equal_length: the win rate to expect if its responses were as long as the baseline's, and its interval by
            prompt; empty in a file from before this was measured. None is what cannot be computed.
    """

    kl: tuple[float, ...]
    judge: tuple[float, ...]
    won: tuple[float, ...]
    words: tuple[float, ...]
    truncated: tuple[float, ...]
    reward: tuple[float, ...] = ()
    at_equal_length: tuple[float | None, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Self:
        """From its file."""
        tree = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{key: tuple(values) for key, values in tree.items()})

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.write_text(path, disk.json_text(asdict(self)) + "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """N responses of the baseline to each prompt; [P, N] each.

    Attributes:
        judge, won, words: as in `Point`, of each response.
        logprob: of each response under the baseline.
        rewards: by the text of the reward's terms.
    """

    judge: Floats
    won: Floats
    words: Floats
    logprob: Floats
    rewards: Mapping[str, Floats]

    @classmethod
    def read(cls, path: Path) -> Self:
        """From its file."""
        tree = json.loads(path.read_text(encoding="utf-8"))
        rewards = {key: np.array(values) for key, values in tree.pop("rewards").items()}
        return cls(rewards=rewards, **{key: np.array(values) for key, values in tree.items()})

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tree = {key: value.tolist() for key, value in self._arrays().items()}
        tree["rewards"] = {key: values.tolist() for key, values in self.rewards.items()}
        disk.write_text(path, disk.json_text(tree) + "\n")

    def _arrays(self) -> dict[str, Floats]:
        return {"judge": self.judge, "won": self.won, "words": self.words, "logprob": self.logprob}


class Measure:
    """The baseline, the prompts and the judge, in memory while policies are measured.

    Args:
        recipe: of the evaluation, the seed filled in.
        run: notes what was left out, and records hashes of what was read.
        scores: file of the baseline's scores and lengths; made if it is not there.
    """

    def __init__(self, recipe: CompareRecipe, run: Run, scores: Path) -> None:
        deterministic()
        self.recipe, self.run = recipe, run
        self.baseline = load_language_model(
            recipe.baseline, chat_template=recipe.baseline_chat_template, precision=recipe.precision
        )
        self.baseline.model.freeze_all()
        self.judge = Mix((recipe.judge,), precision=recipe.precision)
        data = read_prompts(recipe.prompts)
        run.add_inputs({"held-out prompts": data.files, f"baseline {recipe.baseline}": self.baseline.weights})
        run.add_inputs({f"judge {name}": weights for name, weights in self.judge.hashes.items()})
        self.prompts = prompts_with_room(
            run,
            data,
            [self.baseline.chat],
            (self.baseline.model.context, "the baseline's context"),
            max_new_tokens=recipe.sampling.max_new_tokens,
            max_left_out=recipe.max_left_out,
        ).prompts
        if not scores.exists():
            found = self._answers(self.baseline, recipe.responses_per_prompt, recipe.seed)
            scores.parent.mkdir(parents=True, exist_ok=True)
            tree = {"scores": found.scores.tolist(), "words": found.num_words().tolist()}
            disk.write_text(scores, disk.json_text(tree) + "\n")
        kept = json.loads(scores.read_text(encoding="utf-8"))
        tree = kept if isinstance(kept, dict) else {"scores": kept}  # from before lengths were kept
        self.scores = np.array(tree["scores"], dtype=np.float64)
        self.words = np.array(tree["words"], dtype=np.float64) if "words" in tree else None

    def point(self, policy: Loaded[LanguageModel], rewards: Sequence[Reward] | None) -> Point:
        """Sample from a policy and say how good that is."""
        ours = self._answers(policy, self.recipe.responses_per_prompt, self.recipe.seed)
        shape = ours.scores.shape
        kl = divergence_by_prompt(ours.rollout, self.baseline.model, num_prompts=len(self.prompts))
        truncated = (~ours.rollout.ended).double().numpy().reshape(shape)
        return Point(
            kl=_numbers(kl),
            judge=_numbers(ours.scores.mean(1)),
            won=_numbers(compare_each(ours.scores, self.scores).mean((1, 2))),
            words=_numbers(ours.num_words().mean(1)),
            truncated=_numbers(truncated.mean(1)),
            reward=() if rewards is None else _numbers(self._reward(ours, rewards).mean(1)),
            at_equal_length=self._at_equal_length(ours),
        )

    def pool(self, seed: int, rewards: Mapping[str, Sequence[Reward]], count: int) -> Pool:
        """``count`` responses of the baseline to each prompt, which none of the baseline's that it is compared with is.

        Args:
            seed: of the run that it belongs to; another one draws other responses.
            rewards: what may choose among them, by name.
            count: N.
        """
        drawn = self._answers(self.baseline, count, self.recipe.seed, purpose=f"best_of_n {seed}")
        logprob = drawn.rollout.logprobs.double().sum(1).cpu().numpy().reshape(drawn.scores.shape)
        return Pool(
            judge=drawn.scores,
            won=compare_each(drawn.scores, self.scores).mean(2),
            words=drawn.num_words(),
            logprob=logprob,
            rewards={name: self._reward(drawn, terms) for name, terms in rewards.items()},
        )

    def _answers(self, loaded: Loaded[LanguageModel], count: int, seed: int, purpose: str = "evaluation") -> Answers:
        return answers(
            loaded,
            self.prompts,
            self.judge,
            self.recipe.sampling,
            num_responses=count,
            seed=seed,
            purpose=purpose,
        )

    def _at_equal_length(self, ours: Answers) -> tuple[float | None, ...]:
        """Empty where an earlier version kept the baseline's scores without its lengths."""
        if self.words is None:
            return ()
        found = length_controlled(ours.scores, self.scores, ours.num_words(), self.words, seed=self.recipe.seed)
        return (found.value, found.low, found.high)

    def _reward(self, answers: Answers, terms: Sequence[Reward]) -> Floats:
        """[P, M] by a reward that is in memory only as long as it is needed."""
        mix: Any = Mix(terms, precision=self.recipe.precision)
        self.run.add_inputs({f"reward {name}": weights for name, weights in mix.hashes.items()})
        rollout = answers.rollout
        found = mix(rollout.prompts, rollout.texts, rollout.sampled_tokens())
        return np.asarray(found.double().numpy().reshape(answers.scores.shape), dtype=np.float64)


def _numbers(values: Floats) -> tuple[float, ...]:
    return tuple(values.tolist())
