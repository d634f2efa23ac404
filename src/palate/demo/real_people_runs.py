"""The runs of the second demonstration: real people's judgements, and the models that learn from them.

What is done with them, and what came of it, is in `real_people.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from palate import disk
from palate.corpus import read_rankings
from palate.corpus.pairs import by_prompt, ordered_pairs
from palate.corpus.public.fetching import fetch
from palate.demo.chain import Chain
from palate.demo.debates import sides, to_argue
from palate.lm.sources.zoo import Precision
from palate.randomness import permutation
from palate.recipe import Data, ReinforceRecipe, RewardRecipe, Sampling
from palate.records import Ranking
from palate.rewards.learned import LearnedReward
from palate.stages import reward
from palate.stages.reinforcement import reinforce
from palate.words import count_words

FILES = {"convarg": ("strict_pairs.jsonl",), "llmfao": ("crowd-comparisons.csv", "pairs-crowd.jsonl")}
"""What is needed of the public sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleScale:
    """How much of everything.

    Attributes:
        choices: people's choices that are used of each side of a debate, drawn by the seed; 0: all.
        judgements: judgements that are used of each prompt of the labelers', likewise.
        folds: parts of the labelers and their prompts, each of which is held out once.
        epochs, batch_responses: of the reward models of arguments; a side of a debate has 22 arguments, one batch.
        labelers_epochs, labelers_batch_responses, labelers_frozen_layers: of those of the labelers; a prompt has 59
            answers, one batch.
        sides: held-out sides of debates to argue for.
        num_responses: of each model to each of them.
        best_of: n.
    """

    model: str = "smollm2-135m"
    frozen_layers: int = 20
    max_new_tokens: int = 72
    choices: int = 0
    judgements: int = 0
    folds: int = 3
    epochs: int = 3
    batch_responses: int = 24
    labelers_epochs: int = 2
    labelers_batch_responses: int = 60
    labelers_frozen_layers: int = 26
    steps: int = 12
    prompts_per_step: int = 12
    sides: int = 48
    num_responses: int = 4
    best_of: int = 8


FULL = PeopleScale()
QUICK = PeopleScale(
    max_new_tokens=32, choices=6, judgements=9, folds=2, epochs=1, labelers_epochs=1, steps=2, prompts_per_step=2,
    sides=8, num_responses=2, best_of=2,
)  # fmt: skip
"""Every part for real, and too little of each to teach anything."""
TINY = PeopleScale(
    model="tiny", frozen_layers=1, labelers_frozen_layers=1, max_new_tokens=8, epochs=1, labelers_epochs=1, folds=2,
    steps=2, prompts_per_step=2, sides=6, num_responses=2, best_of=2,
)  # fmt: skip
SCALES = {"full": FULL, "quick": QUICK, "tiny": TINY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two responses of which a person preferred one.

    Attributes:
        prompt: its id.
        topic: of the prompt; empty if it has none.
        margin: by how much a reward model prefers the same.
        words: by how many words that one is the longer.
    """

    prompt: str
    topic: str
    labeler: str
    margin: float
    words: int


class People(Chain):
    """One demonstration: its directory, seed and sizes.

    Attributes:
        notes: what of the data is not used.
    """

    def __init__(self, out: Path, seed: int, scale: PeopleScale, data: Path, precision: Precision = "auto") -> None:
        super().__init__(out, seed, frozen_layers=scale.frozen_layers, precision=precision)
        self.scale, self.public = scale, data
        self.sampling = Sampling(max_new_tokens=scale.max_new_tokens, num_slots=128)
        self.notes: list[str] = []

    def run(self) -> None:
        """Every part in turn; finished ones are not run again."""
        for name, files in FILES.items():
            if not all((self.public / name / file).exists() for file in files):
                fetch(name, folder=self.public)
        self.out.mkdir(parents=True, exist_ok=True)
        self.arguments()
        for name, other in (("reward", "judge"), ("judge", "reward")):
            self.reward_model(
                name,
                "arguments.jsonl",
                {"tag": "half", "value": other},
                epochs=self.scale.epochs,
                batch_responses=self.scale.batch_responses,
            )
        self.reinforce()
        self.judgements()
        for fold in range(self.scale.folds):
            self.reward_model(
                f"labelers_{fold}",
                f"labelers_{fold}.jsonl",
                {"tag": "fold", "value": str(fold)},
                epochs=self.scale.labelers_epochs,
                batch_responses=self.scale.labelers_batch_responses,
                frozen_layers=self.scale.labelers_frozen_layers,
            )

    def arguments(self) -> None:
        """People's choices, each topic marked as the reward model's or the judge's."""
        read = self.judged(
            self.public / "convarg" / "strict_pairs.jsonl",
            fields={"prompt": "{topic} {stance}", "a": "a1", "b": "a2", "preferred": "label"},
            tags=("topic", "stance"),
        )
        topics = sorted({choice.prompt.tags["topic"] for choice in read})
        mixed = [topics[place] for place in permutation(len(topics), self.seed, "topics")]
        half = {topic: "reward" if place % 2 == 0 else "judge" for place, topic in enumerate(mixed)}
        choices = [
            choice.model_copy(update={"prompt": to_argue(topic, choice.prompt.tags["stance"], half=half[topic])})
            for choice in read
            for topic in [choice.prompt.tags["topic"]]
        ]
        self.write("arguments.jsonl", self.some(choices, self.scale.choices))
        for name, held_out in (("sides.jsonl", False), ("held_out_sides.jsonl", True)):
            self.write(name, self.shuffled(sides(held_out=held_out)))

    def judged(self, path: Path, **about: Any) -> tuple[Ranking, ...]:
        """The judgements of a file, and a note of what of it gave none."""
        read = read_rankings(Data(path=str(path), format="pairs", **about))
        self.notes += [f"{path.name}: {line}" for line in str(read.rejected).splitlines()]
        return read.records

    def some(self, judgements: Sequence[Ranking], most: int) -> list[Ranking]:
        """At most so many of each prompt, drawn by the seed; 0: all of them."""
        used = [
            about[place]
            for prompt, about in by_prompt(judgements).items()
            for place in permutation(len(about), self.seed, "some", prompt)[: most or len(about)]
        ]
        if len(used) < len(judgements):
            self.notes.append(f"drawn: {len(used):,} of {len(judgements):,} judgements, at most {most} of each prompt")
        return used

    def reward_model(self, name: str, data: str, holdout: Mapping[str, str], **how: int) -> None:
        """A reward model from the judgements that are not held out."""
        self.stage(
            name,
            RewardRecipe,
            reward.train,
            model=self.scale.model,
            data=self.data(data),
            holdout=holdout,
            **how,
            optimizer={"learning_rate": 2e-4, "warmup": 0.1},
        )

    def reinforce(self) -> None:
        """The base model learns to argue so as to please the reward model."""
        self.stage(
            "reinforce",
            ReinforceRecipe,
            reinforce.train,
            model=self.scale.model,
            prompts=self.data("sides.jsonl"),
            rewards=[{"model": str(self.out / "reward")}],
            sampling=self.sampling.model_dump(),
            steps=self.scale.steps,
            prompts_per_step=self.scale.prompts_per_step,
            kl_coef=0.02,
            truncation_score=-1.0,
            optimizer={"learning_rate": 1e-4},
        )

    def judgements(self) -> None:
        """The labelers' judgements, and for each fold those of the labelers who are not held out in it."""
        folder = self.public / "llmfao"
        read = self.judged(
            folder / "crowd-comparisons.csv",
            join={"id": str(folder / "pairs-crowd.jsonl")},
            fields={"prompt": "text", "a": "result_x", "b": "result_y", "preferred": "winner", "labeler": "worker"},
        )
        fold_of = self.folds(sorted({judgement.prompt.id for judgement in read}), "prompts")
        judgements = [
            judgement.model_copy(
                update={"prompt": judgement.prompt.model_copy(update={"tags": {"fold": fold_of[judgement.prompt.id]}})}
            )
            for judgement in self.some(read, self.scale.judgements)
        ]
        self.write("judgements.jsonl", judgements)
        labelers = self.folds(sorted({judgement.labeler for judgement in judgements}), "labelers")
        for fold in range(self.scale.folds):
            learned = [judgement for judgement in judgements if labelers[judgement.labeler] != str(fold)]
            self.write(f"labelers_{fold}.jsonl", learned)

    def folds(self, names: Sequence[str], what: str) -> dict[str, str]:
        """In which fold each is held out: parts of like size, drawn by the seed."""
        order = permutation(len(names), self.seed, "folds", what)
        return {names[name]: str(place % self.scale.folds) for place, name in enumerate(order)}

    def pairs(self, name: str, judgements: Iterable[Ranking]) -> list[Pair]:
        """What a reward model says of every pair that people ordered; kept, since scoring takes its time."""
        kept = self.out / f"{name}_pairs.json"
        if not kept.exists():
            disk.write_text(kept, disk.json_text([asdict(pair) for pair in self.score(name, list(judgements))]))
        return [Pair(**pair) for pair in json.loads(kept.read_text(encoding="utf-8"))]

    def score(self, name: str, judgements: Sequence[Ranking]) -> list[Pair]:
        """Every distinct response is scored once."""
        prompts = {judgement.prompt.id: judgement.prompt for judgement in judgements}
        said = {(item.prompt.id, response.text): None for item in judgements for response in item.responses}
        model = LearnedReward(str(self.out / name), precision=self.precision)
        scores = model([prompts[prompt] for prompt, _ in said], [text for _, text in said]).tolist()
        score_of = dict(zip(said, scores, strict=True))
        found = []
        for item in judgements:
            for better, worse in (map(item.responses.__getitem__, pair) for pair in ordered_pairs(item)):
                margin = score_of[item.prompt.id, better.text] - score_of[item.prompt.id, worse.text]
                found.append(
                    Pair(
                        prompt=item.prompt.id,
                        topic=item.prompt.tags.get("topic", ""),
                        labeler=item.labeler,
                        margin=margin,
                        words=count_words(better.text) - count_words(worse.text),
                    )
                )
        return found
