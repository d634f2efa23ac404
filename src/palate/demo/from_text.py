"""From plain text to a model with a taste, every model on the way made here: nothing is downloaded.

    texts         `palate data filter` on all files; whole documents are held out
    pretrained    a tokenizer and a new model, from the documents that are learned from
    sft           demonstrations: a sentence of a document is the prompt, the next one the response
    rankings      simulated labelers with a hidden taste rank K responses of the SFT model
    reward        a reward model from their rankings; its base is the SFT model
    ppo           reinforcement learning against it
    evaluation    `palate eval`: PPO against SFT where held-out documents go on, by the hidden taste itself

Prompts of all that learns come from documents that are learned from, those that are measured on from held-out ones. The
phases are InstructGPT's (Ouyang et al. 2022, arXiv 2203.02155) after GPT-2's pretraining (Radford et al. 2019).

Left out: PPO-ptx (`palate ppo runs/text/ppo/recipe.toml` with a section `pretraining`), and people.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from palate import disk
from palate.corpus import read_texts
from palate.corpus.containers.files import file_suffix, sha256
from palate.corpus.quality.filtering import filter_data
from palate.corpus.splits import split_texts
from palate.demo.chain import Chain
from palate.demo.passages import Passage, drawn
from palate.errors import DataError, RunError
from palate.lm.sources.zoo import Precision
from palate.recipe import (
    Data,
    PPORecipe,
    PretrainRecipe,
    Quality,
    RewardRecipe,
    SampleRecipe,
    Sampling,
    SFTRecipe,
    Taste,
    WinRateRecipe,
    parse_recipe,
)
from palate.records import Candidates, Demonstration, Prompt, Ranking
from palate.run.trackers import duration
from palate.simulated.labelers import rank_candidates
from palate.stages import evaluate, pretrain, reward, sample, sft
from palate.stages.estimate.trial import foresee
from palate.stages.reinforcement import ppo

ENDINGS = (".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Of the files in a directory that are read, each also with `.gz`; others are left and named."""
LENGTH = 256
"""Tokens of a row of pretraining."""

REWARD_EPOCHS = 3
TOKENS_A_RESPONSE = 35
"""Tokens of pretraining that take as long as what is done once to a response, in measured processor time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextScale:
    """How much of everything: the sizes that decide how long it takes.

    Attributes:
        architecture, vocabulary: of the model, as `palate pretrain` has them.
        pretraining_steps: of ``batch_size`` rows of `LENGTH` tokens.
        held_out: share of the documents.
        measured: characters of each of them that bits per byte are of, so that no book outweighs the tales.
        of_a_document: passages at most.
        demonstrations, ranked_prompts, prompts: passages for each phase that learns; none is in two.
        steps: of PPO.
        evaluation_prompts: passages of held-out documents.
        evaluation_responses: of each model to each of them.
    """

    architecture: dict[str, Any] = field(default_factory=lambda: {"preset": "5m"})
    vocabulary: int = 4096
    pretraining_steps: int = 1500
    batch_size: int = 8
    evaluate_every: int = 150
    held_out: float = 0.1
    measured: int = 2_000
    max_new_tokens: int = 32
    of_a_document: int = 16
    demonstrations: int = 1200
    ranked_prompts: int = 240
    prompts: int = 320
    steps: int = 24
    prompts_per_step: int = 16
    evaluation_prompts: int = 128
    evaluation_responses: int = 4

    @property
    def num_responses(self) -> int:
        """Responses that are sampled, scored or learned after pretraining, each as often as it is."""
        learned, ranked = 2 * self.demonstrations, 4 * (1 + REWARD_EPOCHS) * self.ranked_prompts
        improved, measured = 4 * 4 * self.steps * self.prompts_per_step, 4 * self.evaluation_responses
        return learned + ranked + improved + measured * self.evaluation_prompts


FULL = TextScale()
QUICK = TextScale(
    pretraining_steps=40, batch_size=4, evaluate_every=40, demonstrations=64, ranked_prompts=24, prompts=32, steps=2,
    prompts_per_step=4, evaluation_prompts=12, evaluation_responses=2,
)  # fmt: skip
"""Every part for real, and too little of each to teach anything."""
TINY = TextScale(
    architecture={"preset": "1m", "num_layers": 1}, vocabulary=300, pretraining_steps=2, batch_size=4,
    evaluate_every=2,
    held_out=0.25, measured=200, max_new_tokens=8, of_a_document=4, demonstrations=16, ranked_prompts=12, prompts=8,
    steps=2, prompts_per_step=2, evaluation_prompts=6, evaluation_responses=2,
)  # fmt: skip
SCALES = {"full": FULL, "quick": QUICK, "tiny": TINY}


class FromText(Chain):
    """One chain of a scale.

    Args:
        texts: a file of plain text or documents, or a directory of them.
    """

    def __init__(self, out: Path, seed: int, scale: TextScale, texts: Path, precision: Precision = "auto") -> None:
        super().__init__(out, seed, frozen_layers=0, precision=precision)
        self.scale, self.texts = scale, texts
        self.taste = Taste(labels_per_prompt=3)
        self.sampling = Sampling(max_new_tokens=scale.max_new_tokens, num_slots=128)

    def run(self) -> None:
        """Every part in turn; finished ones are not run again."""
        self.documents()
        self.passages()  # before anything learns: of too little text one should know at once
        self.stage("pretrained", PretrainRecipe, pretrain.train, **self.pretraining())
        self.sft()
        self.rankings()
        self.reward()
        self.ppo()
        self.evaluation()

    def documents(self) -> None:
        """Filtered, and divided by a hash of each: into those to learn from and those to measure on.

        Raises:
            DataError: there is no text, or too little of it.
            RunError: other texts were here before.
        """
        with disk.disk_errors(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        files, _ = text_files(self.texts)
        hashes = {str(path): sha256(path) for path in files}
        known = self.out / "texts.json"
        if known.exists():
            if json.loads(known.read_text(encoding="utf-8")) != hashes:
                raise RunError(f"{self.out} was begun with other texts: put them back, or name another --out")
            return
        filter_data(files, out=self.out / "texts.jsonl", settings=Quality())
        kept = read_texts(Data(path=str(self.out / "texts.jsonl"))).records
        learned, held_out = split_texts(kept, self.scale.held_out)
        self._write_texts("learned.jsonl", learned)
        self._write_texts("held_out.jsonl", held_out)
        self._write_texts("measured.jsonl", [text[: self.scale.measured] for text in held_out])
        disk.write_text(known, disk.json_text(hashes, indent=2))  # last: all is there

    def pretraining(self) -> dict[str, Any]:
        """A new model and its tokenizer, from nothing but the documents to learn from."""
        return {
            "model": "",
            "data": self.data("learned.jsonl"),
            "held_out": self.data("measured.jsonl"),
            "architecture": self.scale.architecture,
            "vocabulary": {"size": self.scale.vocabulary},
            "sequence_length": LENGTH,
            "batch_size": self.scale.batch_size,
            "steps": self.scale.pretraining_steps,
            "evaluate_every": self.scale.evaluate_every,
            "checkpoint_every": 100,
        }

    def passages(self) -> None:
        """Prompts for every phase, each passage in one of them alone.

        Raises:
            DataError: there are too few.
        """
        learned = self._drawn("learned.jsonl")
        openings = {passage.opening for passage in learned}
        held_out = [passage for passage in self._drawn("held_out.jsonl") if passage.opening not in openings]
        scale = self.scale
        wanted = scale.demonstrations + scale.ranked_prompts + scale.prompts
        for found, needed, which in (
            (learned, wanted, "to learn from"),
            (held_out, scale.evaluation_prompts, "to measure on"),
        ):
            if len(found) < needed:
                raise DataError(
                    f"too little text: {len(found):,} sentences {which} have another after them, {needed:,} are "
                    "needed: add texts",
                    path=self.texts,
                )
        shown, ranked = scale.demonstrations, scale.demonstrations + scale.ranked_prompts
        self.write("demonstrations.jsonl", [passage.demonstration() for passage in learned[:shown]])
        self.write("ranked_prompts.jsonl", [passage.prompt() for passage in learned[shown:ranked]])
        self.write("prompts.jsonl", [passage.prompt() for passage in learned[ranked:wanted]])
        measured = [passage.demonstration() for passage in held_out[: scale.evaluation_prompts]]
        self.write("held_out_passages.jsonl", measured)
        self.write("held_out_prompts.jsonl", [passage.prompt for passage in measured])

    def sft(self) -> None:
        """It learns to go on with one sentence, and to end there."""
        self.stage(
            "sft",
            SFTRecipe,
            sft.train,
            model=str(self.out / "pretrained"),
            data=self.data("demonstrations.jsonl"),
            holdout=self.holdout("demonstrations.jsonl", Demonstration),
            epochs=2,
            optimizer={"learning_rate": 3e-4},
        )

    def rankings(self) -> None:
        """K = 4 responses of the SFT model, ranked by labelers who share a hidden taste more or less."""
        self.stage(
            "sft_samples",
            SampleRecipe,
            sample.write_candidates,
            model=str(self.out / "sft"),
            prompts=self.data("ranked_prompts.jsonl"),
            responses_per_prompt=4,
            sampling=self.sampling.model_dump(),
        )
        candidates = self.read("sft_samples/candidates.jsonl", Candidates)
        self.write("rankings.jsonl", rank_candidates(candidates, self.taste, seed=self.seed))

    def reward(self) -> None:
        """The reward model, from the rankings alone."""
        self.stage(
            "reward",
            RewardRecipe,
            reward.train,
            model=str(self.out / "sft"),
            data=self.data("rankings.jsonl"),
            holdout=self.holdout("rankings.jsonl", Ranking),
            epochs=REWARD_EPOCHS,
            batch_responses=16,
            optimizer={"learning_rate": 3e-4, "warmup": 0.1},
        )

    def ppo(self) -> None:
        """Reinforcement learning against the reward model, from the SFT model."""
        self.stage(
            "ppo",
            PPORecipe,
            ppo.train,
            model=str(self.out / "sft"),
            prompts=self.data("prompts.jsonl"),
            rewards=[{"model": str(self.out / "reward")}],
            sampling=self.sampling.model_dump(),
            steps=self.scale.steps,
            prompts_per_step=self.scale.prompts_per_step,
            minibatches=2,
            kl_coef=0.05,
            truncation_score=-2.0,
            optimizer={"learning_rate": 1e-4},
            value_optimizer={"learning_rate": 3e-4},
        )

    def evaluation(self) -> None:
        """PPO against SFT on openings out of documents that nothing learned from, by the hidden taste."""
        self.stage(
            "evaluation",
            WinRateRecipe,
            evaluate.evaluate,
            model=str(self.out / "ppo"),
            baseline=str(self.out / "sft"),
            prompts=self.data("held_out_prompts.jsonl"),
            judge={"function": self.taste.function},
            sampling=self.sampling.model_dump(),
            responses_per_prompt=self.scale.evaluation_responses,
        )

    def held_out_prompts(self) -> list[Prompt]:
        """What is measured on."""
        return self.read("held_out_prompts.jsonl", Prompt)

    def _drawn(self, name: str) -> list[Passage]:
        texts = read_texts(Data(path=str(self.out / name))).records
        return drawn(texts, most=self.scale.of_a_document, seed=self.seed)

    def _write_texts(self, name: str, texts: Sequence[str]) -> None:
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
        disk.write_text(self.out / name, "".join(lines))


def text_files(place: Path) -> tuple[list[Path], list[Path]]:
    """The files of text in a directory, or the one that is named; and those that are left.

    Raises:
        DataError: there are none.
    """
    if place.is_file():
        return [place], []
    found = sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else []
    files = [path for path in found if file_suffix(path) in ENDINGS]
    if not files:
        raise DataError(f"no texts: name a file, or a directory with some that end in {', '.join(ENDINGS)}", path=place)
    return files, [path for path in found if path not in files]


def estimate(*, seed: int, scale: TextScale, texts: Path, precision: Precision = "auto") -> str:
    """What it will take, from two steps of pretraining on these texts; nothing stays."""
    with TemporaryDirectory(prefix="palate-text-") as directory:
        chain = FromText(Path(directory), seed, scale, texts, precision)
        chain.documents()
        chain.passages()
        recipe = parse_recipe(PretrainRecipe, {"seed": seed, "precision": precision, **chain.pretraining()})
        found = foresee(pretrain.train, recipe)
    lines = [f"pretraining: {line}" for line in found.lines]
    if found.seconds is not None:
        share = scale.num_responses * TOKENS_A_RESPONSE / (scale.pretraining_steps * scale.batch_size * LENGTH)
        lines.append(f"the phases after it: about {duration(share * found.seconds)}, by how many responses they handle")
    return "\n".join(lines)
