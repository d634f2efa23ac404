"""The whole loop on the embedded model, on a laptop, in minutes.

    prompts         small talk, made here; whole subjects are held out
    demonstrations  the base model's own answers, those that are complete and clean (filtered, not written)
    sft             behaviour cloning on them
    rankings        simulated labelers with a hidden taste rank K answers of the SFT model
    reward          a reward model from their rankings
    favourites      behaviour cloning on the answers that the labelers put first
    ppo             reinforcement learning against the reward model, from there; answers of under four words cost extra
    evaluation      PPO against SFT on held-out prompts, judged by the hidden taste itself

Learning the favourites before PPO is what Llama 2 did (Touvron et al. 2023, section 3.2.3: rejection sampling, then
PPO); there the reward model chose them, here people have just done so. InstructGPT went from SFT to PPO.

The labelers stand in for people; everything else is what a team would run.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from palate import disk
from palate.corpus.pairs import by_prompt
from palate.demo.chain import Chain
from palate.demo.needs import NEEDS, Needs, check
from palate.demo.prompts import demo_prompts
from palate.evals import plots
from palate.evals.report import Report
from palate.feedback.statistics.pairwise_agreement import agreement
from palate.lm.sources.zoo import Precision, builtin_directory, load_language_model
from palate.recipe import (
    PPORecipe,
    RewardRecipe,
    SampleRecipe,
    Sampling,
    SFTRecipe,
    Taste,
)
from palate.records import Candidates, Demonstration, Prompt, Ranking, Response
from palate.rewards.learned import LearnedReward
from palate.rewards.rules import FunctionReward
from palate.simulated.labelers import rank_candidates
from palate.stages import reward, sample, sft
from palate.stages.evaluate import compare, describe, describe_reward_model
from palate.stages.reinforcement import ppo
from palate.words import is_finished, repeated_share, split_words


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much of everything: the sizes that decide how long the demonstration takes.

    Attributes:
        demonstration_prompts: prompts the base model answers, twice each.
        ranked_prompts: prompts whose K answers are ranked.
        steps: of PPO.
        evaluation_prompts: held-out ones.
        evaluation_responses: of each model to each of them.
        needs: of disk and memory.
    """

    model: str = "smollm2-135m"
    frozen_layers: int = 26
    max_new_tokens: int = 32
    demonstration_prompts: int = 96
    ranked_prompts: int = 320
    steps: int = 6
    prompts_per_step: int = 16
    evaluation_prompts: int = 64
    evaluation_responses: int = 8
    needs: Needs = NEEDS["full"]


PRICE_OF_SAYING_NOTHING = 4.0
"""In spreads of the reward model: of ranked answers one in a hundred has so few words, too few to learn it from."""

PERSONA = re.compile(r"\b(AI|assistant|language model|SmolLM|Hugging Face)\b")

FULL = Scale()
PPO_CURVES = {
    "Score": ["objective/score"],
    "KL": ["objective/kl"],
    "Entropy": ["policy/entropy"],
    "Length": ["tokens/response_length"],
    "Truncated": ["tokens/truncated"],
    "Explained variance": ["value/explained_variance"],
}
QUICK = Scale(
    demonstration_prompts=16,
    ranked_prompts=24,
    steps=2,
    prompts_per_step=4,
    evaluation_prompts=12,
    evaluation_responses=2,
    needs=NEEDS["quick"],
)
"""Every part for real, and too little of each to teach anything: whether it all works here, in a few minutes."""
TINY = Scale(
    model="tiny",
    frozen_layers=1,
    max_new_tokens=12,
    demonstration_prompts=8,
    ranked_prompts=12,
    steps=2,
    prompts_per_step=2,
    evaluation_prompts=6,
    evaluation_responses=2,
    needs=NEEDS["tiny"],
)
SCALES = {"full": FULL, "quick": QUICK, "tiny": TINY}


def demo(out: Path, *, seed: int = 0, scale: Scale = FULL, precision: Precision = "auto") -> None:
    """Run the loop into ``out`` and write ``report.html`` and ``report.json`` there.

    Raises:
        MachineError: too little disk or memory for it.
    """
    check(scale.needs, Path(out), builtin_directory(scale.model))
    Loop(Path(out), seed, scale, precision).run()


class Loop(Chain):
    """One demonstration of a scale."""

    def __init__(self, out: Path, seed: int, scale: Scale, precision: Precision = "auto") -> None:
        super().__init__(out, seed, frozen_layers=scale.frozen_layers, precision=precision)
        self.scale = scale
        self.taste = Taste(labels_per_prompt=5)
        self.sampling = Sampling(max_new_tokens=scale.max_new_tokens, num_slots=128)

    def run(self) -> None:
        """Every part in turn; finished ones are not run again."""
        self.prepare_models()
        self.favourites()
        self.ppo()
        self.evaluate()

    def prepare_models(self) -> None:
        """Everything up to the reward model: what every method of optimisation starts from."""
        with disk.disk_errors(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        everyday, held_out = self.shuffled(demo_prompts(held_out=False)), self.shuffled(demo_prompts(held_out=True))
        shown, ranked = self.scale.demonstration_prompts, self.scale.ranked_prompts
        self.write("prompts.jsonl", everyday)
        self.write("demonstration_prompts.jsonl", everyday[:shown])
        self.write("ranked_prompts.jsonl", everyday[shown : shown + ranked])
        self.write("held_out_prompts.jsonl", held_out[: self.scale.evaluation_prompts])
        self.demonstrations()
        self.sft()
        self.rankings()
        self.reward()

    def demonstrations(self) -> None:
        """Filter rather than write: the base model's clean answers."""
        candidates = self.sample("base_samples", self.scale.model, "demonstration_prompts.jsonl", num_responses=2)
        clean = [
            Demonstration(prompt=item.prompt, response=response, author="filtered")
            for item in candidates
            for response in item.responses
            if self.scale.model == "tiny" or is_clean(response)
        ]
        self.write("demonstrations.jsonl", clean)

    def sft(self) -> None:
        """Behaviour cloning on the demonstrations."""
        self.clone("sft", self.scale.model, "demonstrations.jsonl", learning_rate=1e-4)

    def rankings(self) -> None:
        """K = 4 answers of the SFT model, ranked by labelers who share a hidden taste more or less."""
        candidates = self.sample("sft_samples", str(self.out / "sft"), "ranked_prompts.jsonl", num_responses=4)
        self.write("rankings.jsonl", rank_candidates(candidates, self.taste, seed=self.seed))

    def reward(self) -> None:
        """The reward model, from the rankings alone."""
        self.reward_model("reward")

    def reward_model(self, name: str, rankings: str = "rankings.jsonl", **settings: Any) -> None:
        """One of that name, from a file of rankings."""
        self.stage(
            name,
            RewardRecipe,
            reward.train,
            model=str(self.out / "sft"),
            data=self.data(rankings),
            holdout=self.holdout(rankings, Ranking),
            epochs=3,
            batch_responses=16,
            checkpoint_every=60,
            optimizer={"learning_rate": 2e-4, "warmup": 0.1},
            **settings,
        )

    def favourites(self) -> None:
        """Behaviour cloning again, on the answers that the labelers put first."""
        self.write("favourites.jsonl", favourites(self.read("rankings.jsonl", Ranking)))
        self.clone("favourites", str(self.out / "sft"), "favourites.jsonl", learning_rate=3e-4)

    def clone(self, name: str, model: str, data: str, *, learning_rate: float) -> None:
        """Two passes of supervised learning over a file of demonstrations."""
        how = {"epochs": 2, "optimizer": {"learning_rate": learning_rate}, "holdout": self.holdout(data, Demonstration)}
        self.stage(name, SFTRecipe, sft.train, model=model, data=self.data(data), **how)

    def ppo(self) -> None:
        """Reinforcement learning against the reward model."""
        self.stage("ppo", PPORecipe, ppo.train, **self.rl(), minibatches=2, value_optimizer={"learning_rate": 2e-4})

    def rl(self) -> dict[str, Any]:
        """What PPO and REINFORCE have in common."""
        return {
            "model": str(self.out / "favourites"),
            "prompts": self.data("prompts.jsonl"),
            "rewards": [
                {"model": str(self.out / "reward")},
                {"function": "palate.rewards.rules:says_something", "weight": PRICE_OF_SAYING_NOTHING},
            ],
            "sampling": self.sampling.model_dump(),
            "steps": self.scale.steps,
            "prompts_per_step": self.scale.prompts_per_step,
            "kl_coef": 0.02,
            "truncation_score": -2.0,
            "optimizer": {"learning_rate": 2e-4},
        }

    def evaluate(self) -> None:
        """PPO against SFT, by the hidden taste, on prompts about subjects nobody saw."""
        start = time.monotonic()
        found = compare(
            load_language_model(str(self.out / "ppo"), precision=self.precision),
            load_language_model(str(self.out / "sft"), precision=self.precision),
            self.read("held_out_prompts.jsonl", Prompt),
            FunctionReward(self.taste.function),
            self.sampling,
            num_responses=self.scale.evaluation_responses,
            seed=self.seed,
        )
        report = Report("Palate: the whole loop", f"{self.scale.model}, seed {self.seed}")
        describe(report, found)
        proxy = LearnedReward(str(self.out / "reward"), precision=self.precision)
        describe_reward_model(report, found.baseline, proxy, seed=self.seed)
        self.describe_learning(report)
        report.number("seconds", self.seconds() + time.monotonic() - start, label="Seconds", note="all parts together")
        report.write(self.out)

    def describe_learning(self, report: Report) -> None:
        """Labelers, reward model and PPO: the figures behind the result."""
        agreed = agreement(self.read("rankings.jsonl", Ranking))
        learned = self.figures("reward")
        report.number(
            "reward_model_accuracy",
            learned["accuracy"],
            low=learned["accuracy_low"],
            high=learned["accuracy_high"],
            label="Reward model accuracy",
            note="pairs of held-out prompts ordered as the labelers did",
        )
        report.number(
            "agreement", agreed.percent, low=agreed.low, high=agreed.high, label="Labelers agree", note="on a pair"
        )
        report.number("longer_wins_accuracy", learned["longer_wins"], label="Longer one wins", note="the same pairs")
        names = [labeler.name for labeler in agreed.labelers]
        report.figure(
            "Do the labelers agree?", plots.agreement_matrix(names, agreed.matrix(names)), "Share of equal verdicts."
        )
        rows = self.metrics("ppo")
        report.figure("PPO, step by step", plots.learning_curves(rows, PPO_CURVES), "Faint: every step.")
        report.figure(
            "Reward against KL",
            plots.reward_against_kl([row["objective/kl"] for row in rows], [row["objective/score"] for row in rows]),
            "Every point is one step of PPO: the reward model's mean score and the divergence it was bought with.",
        )

    def sample(self, name: str, model: str, prompts: str, *, num_responses: int) -> list[Candidates]:
        """Responses of a model to a file of prompts."""
        how = {"responses_per_prompt": num_responses, "sampling": self.sampling.model_dump()}
        self.stage(name, SampleRecipe, sample.write_candidates, model=model, prompts=self.data(prompts), **how)
        return self.read(f"{name}/candidates.jsonl", Candidates)


def favourites(rankings: Sequence[Ranking]) -> list[Demonstration]:
    """The answer of each prompt with the best mean rank over its labelers; of equals the first."""
    chosen = []
    for judged in by_prompt(rankings).values():
        places = np.mean([ranking.ranks for ranking in judged], axis=0)
        best = judged[0].responses[int(places.argmin())]
        chosen.append(Demonstration(prompt=judged[0].prompt, response=best, author="ranked first"))
    return chosen


def is_clean(response: Response) -> bool:
    """A complete plain sentence or two: ended by itself, of 5 to 30 words, without lists, markup or a persona."""
    text = response.text
    words = split_words(text)
    whole = response.provenance is None or response.provenance.ended
    plain = text.isascii() and not set(text) & set('\n*#[]{}<>|:"') and not repeated_share(words, 3)
    return whole and plain and 5 <= len(words) <= 30 and is_finished(text) and not PERSONA.search(text)
