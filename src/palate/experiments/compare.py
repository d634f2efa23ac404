"""Methods over seeds: every recipe is run with every seed and measured alike, with best of n on the same axes.

    NAME/seed-0/          a run of the recipe's own stage, followed (`followed.py`), and points/ with what was measured
    best-of-n/            pools of responses of the baseline, a file for each seed
    starts/, baselines/   what runs begin with, and what they are compared with
    report.html, .json    the comparison, written anew after every seed

What is finished is not run or measured again; killed in the middle, the same command goes on, with the same bits. A run
that fails is shown as failed with its reason, and the others go on. Methods of one seed share its number: recipes of
one stage get the same prompts in the same order, and all are measured on the same ones.

Run it: `palate compare recipes/ppo.toml recipes/reinforce.toml --eval recipes/win_rate.toml --seeds 3`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from palate.errors import DiskFullError, MachineError, PalateError, RunError
from palate.evals.report import Report
from palate.experiments import followed
from palate.experiments.comparison_page import write_report
from palate.experiments.followed import FollowedRun, TokenCount, load_snapshot, read_costs
from palate.experiments.measuring import Measure, Point, Pool
from palate.experiments.methods import Method, filled, rewards_of
from palate.experiments.tracks import Entry, track_of_pool, track_of_run
from palate.lm.memory import give_back_freed_memory
from palate.lm.sources.zoo import load_language_model
from palate.recipe import CompareRecipe, parse_recipe
from palate.records import content_id
from palate.run import lineage
from palate.run.directory import Run
from palate.run.trackers import duration, showing
from palate.stages.estimate.trial import foresee, tell

Describe: TypeAlias = Callable[[Sequence[Entry], Report], None] | None


class ComparisonRun(Run):
    """The comparison's own directory."""

    def go_on(self) -> None:
        """Something was measured before, so that what it is measured by must not have changed."""
        self._begun = True


class Comparison:
    """Methods, seeds, and what they are measured by.

    Args:
        methods: each with a name of its own.
        evaluation: the same for all.
        out: directory of everything.
        seeds: how many: 0, 1, ...
        at_kl: compare at this KL; absent, at the largest that every run reaches.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        evaluation: CompareRecipe,
        out: Path,
        *,
        seeds: int,
        at_kl: float | None = None,
    ) -> None:
        self.evaluation, self.out, self.seeds, self.at_kl = evaluation, out, seeds, at_kl
        self.methods = list(methods)
        self.trained = [method for method in methods if method.trains]
        self.failed: dict[tuple[str, int], str] = {}
        self._took: dict[tuple[str, int], float] = {}

    def run(self, extra: Describe = None) -> list[Entry]:
        """Everything that is not there yet; the report; what was found.

        Args:
            extra: adds parts of its own to the report, from what was found so far.

        Raises:
            PalateError: a mistake that is found before anything is run, or every run failed.
        """
        self.check()
        resume = any(self.out.glob("*/seed-*/points/*.json"))
        if resume:
            lineage.reopen(self.out)
        run = ComparisonRun.open(self.out, self.evaluation, resume=resume)
        if resume:
            run.go_on()
        for seed in range(self.seeds):
            for method in self.trained:
                self._say_where(run, method, seed)
                started = time.monotonic()
                if self._train(method, seed, run):
                    self._measure(method, seed, run)
                self._took[method.name, seed] = time.monotonic() - started
            self._draw_pool(seed, run)
            entries = self.entries(seed + 1)
            write_report(
                self.out,
                self.methods,
                entries,
                self.evaluation,
                at_kl=self.at_kl,
                notes=run.notes,
                extra=None if extra is None else partial(extra, entries),
            )
        if self.trained and not any(entry.tracks for entry in entries if entry.trains):
            raise RunError(f"{self.out}: every run failed; the first: {next(iter(self.failed.values()))}")
        run.finish({"seeds": self.seeds})
        return entries

    def check(self) -> None:
        """Find mistakes before hours are spent: in keys, in data, and in what does not fit into memory."""
        runs = [(method, seed) for method in self.methods for seed in range(self.seeds)]
        with showing("recipes checked") as show:
            for number, (method, seed) in enumerate(runs, start=1):
                recipe = method.recipe(seed)
                if method.trains and not self._begun(method, seed):
                    with TemporaryDirectory(prefix="palate-compare-") as directory:
                        told = tell(method.train, recipe, Path(directory))
                    if told.short:
                        raise MachineError(f"{method.name}: {told.short}")
                show(number, len(runs))

    def estimate(self) -> str:
        """What it will take, from two steps of each method that says so before it runs."""
        lines, whole = [], 0.0
        for method in self.trained:
            found = foresee(method.train, method.recipe(0))
            lines += [f"{method.name}: {line}" for line in found.lines[-1:]]
            whole += self.seeds * (found.seconds or 0.0)
        stops = self.evaluation.points * len(self.trained) + 1
        each = f"{stops * self.evaluation.responses_per_prompt} responses to each held-out prompt"
        pool = f" and {self.evaluation.best_of} for best of n" if self.evaluation.best_of else ""
        lines.append(f"training, {self.seeds} seeds: {duration(whole)}; a seed is measured on {each}{pool}")
        return "\n".join(lines)

    def entries(self, seeds: int) -> list[Entry]:
        """What is known of the first so many seeds."""
        found = []
        for method in self.trained:
            entry = Entry(name=method.name)
            for seed in range(seeds):
                if (method.name, seed) in self.failed:
                    entry.failed[seed] = self.failed[method.name, seed]
                else:
                    points = self._points(method, seed)
                    entry.tracks.append(track_of_run(seed, points, read_costs(self._directory(method, seed))))
            found.append(entry)
        for name, (reward, most) in self._choosers().items():
            pools = [(seed, Pool.read(self._pool_file(seed))) for seed in range(seeds)]
            tracks = [track_of_pool(seed, pool, reward, most) for seed, pool in pools if reward in pool.rewards]
            found.append(Entry(name=name, trains=False, tracks=tracks))
        return found

    # One run.

    def _train(self, method: Method, seed: int, whole: Run) -> bool:
        """Run a recipe, or go on with it; whether it is finished."""
        directory = self._directory(method, seed)
        try:
            run = FollowedRun.open(directory, method.recipe(seed), resume=self._begun(method, seed))
            if not run.finished:
                run.points = self.evaluation.points
                with TokenCount() as run.count:
                    method.train(method.recipe(seed), run)
        except DiskFullError:
            raise
        except PalateError as error:
            self.failed[method.name, seed] = str(error)
            whole.note(f"{method.name}, seed {seed}, failed: {error}")
            return False
        finally:
            give_back_freed_memory()
        return True

    def _measure(self, method: Method, seed: int, run: Run) -> None:
        """The policies of a run that have not been measured, and where it began."""
        directory, recipe = self._directory(method, seed), method.recipe(seed)
        recipe = recipe.model_copy(update={"precision": self.evaluation.precision})
        rewards = self._reward_terms(method, seed)
        snapshots = followed.snapshots(directory)
        last, start = len(read_costs(directory)), self._start_file(method, seed)
        wanted = [step for step in (*snapshots, last) if not self._point_file(directory, step).exists()]
        if wanted or not start.exists():
            measure = self._measuring(seed, run)
            if not start.exists():
                begun = load_language_model(
                    recipe.model, chat_template=recipe.chat_template, precision=recipe.precision
                )
                measure.point(begun, rewards).write(start)
            for step in wanted:
                if step == last:
                    policy = load_language_model(str(directory), precision=recipe.precision)
                else:
                    policy = load_snapshot(snapshots[step], recipe)
                measure.point(policy, rewards).write(self._point_file(directory, step))
        for path in snapshots.values():
            path.unlink()
        give_back_freed_memory()

    def _points(self, method: Method, seed: int) -> dict[int, Point]:
        files = (self._directory(method, seed) / "points").glob("step-*.json")
        points = {int(path.stem.removeprefix("step-")): Point.read(path) for path in files}
        return points | {0: Point.read(self._start_file(method, seed))}

    # Best of n.

    def _choosers(self) -> dict[str, tuple[str, int]]:
        """The rewards that best of n chooses by, with the largest n, by the name of the curve."""
        found = {}
        for method in self.methods:
            if not method.trains:
                found[method.name] = (str(rewards_of(method.recipe(0))), int(method.recipe(0).n))
        known = {reward for reward, _ in found.values()}
        used: dict[str, list[str]] = {}
        for method in self.trained:
            if (reward := rewards_of(method.recipe(0))) is not None and reward not in known:
                used.setdefault(reward, []).append(method.name)
        if self.evaluation.best_of:
            for reward, names in used.items():
                name = "best of n" if len(used) == 1 and not found else f"best of n by {names[0]}'s reward"
                found[name] = (reward, self.evaluation.best_of)
        return found

    def _draw_pool(self, seed: int, run: Run) -> None:
        """A pool for every reward that chooses; the names of rewards are those of seed 0."""
        choosers = self._choosers()
        path = self._pool_file(seed)
        terms = {}
        for method in self.methods:
            key = rewards_of(method.recipe(0))
            if key in {reward for reward, _ in choosers.values()}:
                terms[str(key)] = method.recipe(seed).rewards
        count = max((most for _, most in choosers.values()), default=0)
        if not terms:
            return
        if path.exists():
            pool = Pool.read(path)
            if terms.keys() <= pool.rewards.keys() and pool.judge.shape[1] >= count:
                return
        self._measuring(seed, run).pool(seed, terms, count).write(path)
        give_back_freed_memory()

    # Where everything is.

    def _directory(self, method: Method, seed: int) -> Path:
        return self.out / method.name / f"seed-{seed}"

    def _begun(self, method: Method, seed: int) -> bool:
        """It did a step, so that its recipe must not change."""
        return (self._directory(method, seed) / "metrics.jsonl").exists()

    def _point_file(self, directory: Path, step: int) -> Path:
        return directory / "points" / f"step-{step:06d}.json"

    def _start_file(self, method: Method, seed: int) -> Path:
        """Where a run begins others may begin too."""
        recipe = method.recipe(seed)
        terms = [str(term) for term in self._reward_terms(method, seed) or ()]
        key = content_id(recipe.model, recipe.chat_template, self._evaluation(seed).baseline, *terms)
        return self.out / "starts" / f"{key}.json"

    def _pool_file(self, seed: int) -> Path:
        return self.out / "best-of-n" / f"seed-{seed}.json"

    def _evaluation(self, seed: int) -> CompareRecipe:
        return parse_recipe(CompareRecipe, filled(self.evaluation.model_dump(), seed))

    def _measuring(self, seed: int, run: Run) -> Measure:
        recipe = self._evaluation(seed)
        return Measure(recipe, run, self.out / "baselines" / f"{content_id(recipe.baseline)}.json")

    def _reward_terms(self, method: Method, seed: int) -> Any:
        """The reward that a method learns from, or that all others that have one learn from."""
        recipes = [each.recipe(seed) for each in self.methods]
        own = method.recipe(seed)
        if rewards_of(own) is not None:
            return own.rewards
        known = {reward: each.rewards for each in recipes if (reward := rewards_of(each)) is not None}
        return next(iter(known.values())) if len(known) == 1 else None

    def _say_where(self, run: Run, method: Method, seed: int) -> None:
        """Which run of how many, and for how long all of them will go on."""
        number = seed * len(self.trained) + self.trained.index(method)
        whole = self.seeds * len(self.trained)
        done = [took for took in self._took.values() if took > 1.0]  # what was there already took no time
        left = f", about {duration(sum(done) / len(done) * (whole - number))} left" if done else ""
        run.say(f"== {method.name}, seed {seed}: run {number + 1} of {whole}{left}")
