"""Signs that a policy has gone past the peak of what people want, looked for while it goes on gaining reward.

What people want is not known in a run; what is known stands in for it. After every block of steps its means are
compared with those of earlier blocks:

    held_out   a reward model that the policy does not learn from falls while its own reward rises
    spread     the members of an ensemble are farther apart than in the first block, while the reward rises
    distance   the root of the KL is beyond where gold was highest in an experiment
    length     responses grow longer and length pays; told beside the others, no reason alone

As long as there is no sign, the policy of the block's last step is kept in `before-peak/`, of several the one that the
held-out reward likes best. With the first sign the run says so, and goes on.

A difference counts when it is so many standard errors large; those are by prompt. The best of earlier blocks is a lucky
one, which is why four of them are asked for and not two.

Left out: ending the run, and signs of what the answers say.

Gao et al. 2022 (arXiv 2210.10760); Coste et al. 2023 (arXiv 2310.02743). How near the peak it warns:
docs/guides/compare.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from palate.evals.report import Report
from palate.lm.model import Model, Trunk
from palate.recipe import Overoptimization, Reward, RLRecipe
from palate.rewards.mix import Mix, MixedScores
from palate.rollout.engine import Rollout
from palate.run.directory import Run
from palate.stages.common import sharing, write_model
from palate.stages.reinforcement.actors import Actors, check_readers

KEPT = "before-peak"
"""Of the run's directory, what holds the policy from before."""

Moments = Mapping[str, tuple[float, float]]
"""By name a mean and its variance, by prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some steps.

    Attributes:
        step: the last of them.
        moments: of the whole block.
    """

    step: int
    moments: Moments

    def mean(self, name: str) -> float:
        """Of one figure."""
        return self.moments[name][0]


def signs(blocks: Sequence[Block], *, sureness: float, max_distance: float | None) -> dict[str, str]:
    """What the newest block says against the earlier ones, by name, each with its figures; nothing of one block."""
    last, first, found = blocks[-1], blocks[0], {}
    if "held_out" in last.moments and blocks[:-1]:
        best = max(blocks[:-1], key=lambda block: block.mean("held_out"))
        fall = -_change(best, last, "held_out")
        if fall >= sureness and last.mean("score") > best.mean("score"):
            found["held_out"] = f"the held-out score fell by {_told(best, last, 'held_out')} while the reward rose"
    apart = "spread" in last.moments and _change(first, last, "spread") >= sureness
    if apart and last.mean("score") > first.mean("score"):
        found["spread"] = f"the ensemble's members came apart by {_told(first, last, 'spread')}"
    distance = math.sqrt(max(last.mean("kl"), 0.0))
    if max_distance is not None and distance > max_distance:
        found["distance"] = f"the root of the KL is {distance:.2f}, beyond {max_distance:g}"
    if _change(first, last, "length") >= sureness and last.mean("length_correlation") > 0:
        found["length"] = f"responses grew by {_told(first, last, 'length')} tokens, and length pays"
    return found


def _change(before: Block, after: Block, name: str) -> float:
    """In standard errors; none where nothing varies and nothing changed."""
    (mean, variance), (later, its) = before.moments[name], after.moments[name]
    if later == mean:
        return 0.0
    return (later - mean) / math.sqrt(variance + its) if variance + its > 0 else math.copysign(math.inf, later - mean)


def _told(before: Block, after: Block, name: str) -> str:
    size = abs(after.mean(name) - before.mean(name))
    return f"{size:.2f} since step {before.step + 1} ({abs(_change(before, after, name)):.1f} standard errors)"


class PeakWatch:
    """Looks, keeps and warns.

    Args:
        settings: from the recipe.
        held_out: a reward that is not learned from, if there is one.
        keep: writes the policy as it is now.
        note: says a line that belongs in the report.

    Attributes:
        blocks: that are over.
        warning: empty until there is one.
        passed: the step in which it was given.
        kept: the step whose policy lies there.
    """

    def __init__(
        self,
        settings: Overoptimization,
        held_out: Mix | None,
        *,
        keep: Callable[[], None],
        note: Callable[[str], None],
    ) -> None:
        self.settings, self.held_out, self._keep, self._note = settings, held_out, keep, note
        self.blocks: list[Block] = []
        self.warning, self.passed, self.kept = "", -1, -1
        self._steps: list[Moments] = []

    @property
    def models(self) -> list[Model]:
        """Of the held-out reward."""
        return [] if self.held_out is None else [source.model for source in self.held_out.learned]

    def see(
        self,
        step: int,
        rollout: Rollout,
        scores: Tensor,
        scored: Sequence[MixedScores],
        trunk: Trunk | None,
        metrics: Mapping[str, float],
    ) -> dict[str, float]:
        """One step, before anything is learned in it.

        Args:
            scores: [B] that are learned from.
            scored: what rewards said of all responses, those that gave way to others among them.
            metrics: of the step so far.

        Returns:
            Metrics of its own.
        """
        by_prompt = partial(moments, each=len(scores) // len(torch.unique(rollout.sequences.group_ids)))
        told = {
            "score": by_prompt(scores),
            "kl": (metrics["objective/kl"], 0.0),
            "length": by_prompt(rollout.sequences.mask.sum(1)),
            "length_correlation": (metrics["objective/length_correlation"], 0.0),
        }
        spreads = [each.spread for each in scored if each.spread is not None]
        if spreads:
            told["spread"] = by_prompt(torch.cat(spreads))
        found = {}
        if self.held_out is not None:
            held_out = self.held_out(rollout.prompts, rollout.texts, rollout.sampled_tokens(trunk))
            told["held_out"] = by_prompt(held_out)
            found["overoptimization/held_out"] = float(held_out.double().mean())
        self._steps.append(told)
        if len(self._steps) == self.settings.every:
            self.blocks.append(Block(step=step, moments=together(self._steps)))
            self._steps = []
            self._judge(step)
        return found | {"overoptimization/passed": float(bool(self.warning))}

    def _judge(self, step: int) -> None:
        """After a block."""
        if self.warning:
            return
        found = signs(self.blocks, sureness=self.settings.sureness, max_distance=self.settings.max_distance)
        if found.keys() - {"length"}:
            where = "nothing was kept, since there was no block before"
            if self.kept >= 0:
                where = f"the policy of step {self.kept + 1} is kept in {KEPT}/"
            self.warning = f"step {step + 1}: over-optimisation? {'; '.join(found.values())}; {where}"
            self.passed = step
            self._note(self.warning)
        elif "held_out" not in self.blocks[-1].moments or self._is_best():
            self._keep()
            self.kept = step

    def _is_best(self) -> bool:
        """The held-out rewards like the newest block best."""
        return self.blocks[-1].mean("held_out") >= max(block.mean("held_out") for block in self.blocks)

    @property
    def numbers(self) -> dict[str, float | None]:
        """For the report: the steps, counted from 1; undefined where there is none."""
        return {
            "peak_passed_at": self.passed + 1 if self.warning else None,
            "kept_from_step": self.kept + 1 if self.kept >= 0 else None,
        }

    def describe(self, report: Report) -> None:
        """The part of the report's page."""
        told = (
            self.warning or "No sign was seen that the peak is passed. That is no proof: signs are few, and may fail."
        )
        report.text("Is the peak passed?", told)

    def state_dict(self) -> dict[str, int | str]:
        """For checkpoints."""
        blocks = [{"step": block.step, "moments": dict(block.moments)} for block in self.blocks]
        return {
            "blocks": json.dumps(blocks),
            "steps": json.dumps([dict(each) for each in self._steps]),
            "warning": self.warning,
            "passed": self.passed,
            "kept": self.kept,
        }

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """From a checkpoint; a warning is said again."""
        blocks = json.loads(str(state["blocks"]))
        self.blocks = [Block(step=each["step"], moments=_read(each["moments"])) for each in blocks]
        self._steps = [_read(each) for each in json.loads(str(state["steps"]))]
        self.warning, self.passed, self.kept = str(state["warning"]), int(state["passed"]), int(state["kept"])
        if self.warning:
            self._note(self.warning)


def _read(tree: Mapping[str, Sequence[float]]) -> Moments:
    return {name: (float(mean), float(variance)) for name, (mean, variance) in tree.items()}


def moments(values: Tensor, *, each: int) -> tuple[float, float]:
    """The mean of values [B], ``each`` of a prompt side by side, and the variance of that mean, by prompt."""
    by_prompt = values.detach().double().cpu().view(-1, each).mean(1)
    variance = float(by_prompt.var(correction=1)) / len(by_prompt) if len(by_prompt) > 1 else 0.0
    return float(by_prompt.mean()), variance


def together(steps: Sequence[Moments]) -> Moments:
    """Of a block: the mean of its steps' means, and its variance; what not every step has is left out."""
    names = [name for name in steps[0] if all(name in step for step in steps)]
    count = len(steps)
    return {
        name: (sum(step[name][0] for step in steps) / count, sum(step[name][1] for step in steps) / count**2)
        for name in names
    }


def held_out_term(names: Sequence[str]) -> Reward:
    """One model, or the mean of several."""
    return Reward(model=names[0]) if len(names) == 1 else Reward(ensemble=tuple(names))


def peak_watch(recipe: RLRecipe, actors: Actors, run: Run) -> PeakWatch | None:
    """If the recipe asks for one; held-out reward models are loaded, and what the policy shares with them is shared.

    Raises:
        ModelError: a held-out reward model does not read as the policy does.
    """
    settings = recipe.overoptimization
    if settings is None:
        return None
    held_out = None
    if settings.held_out:
        held_out = Mix(
            [held_out_term(settings.held_out)],
            precision=recipe.precision,
            max_tokens=recipe.microbatch_tokens,
            settle=sharing(list(actors.models), frozen_layers=recipe.frozen_layers),
        )
        check_readers(held_out, actors.chat)
        run.add_inputs({"held-out rewards": held_out.hashes})
    return PeakWatch(
        settings, held_out, keep=partial(write_model, run, recipe, actors.loaded, below=KEPT), note=run.note
    )
