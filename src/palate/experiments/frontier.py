"""Win rate against KL for every method, over seeds, in one picture.

Each seed is a whole demonstration: its own demonstrations, labelers, SFT model, reward model and favourites. PPO and
REINFORCE start where the favourites have been learned, which is a point of its own; DPO learns from the same rankings,
and best-of-n picks with the same reward model among the SFT model's answers. Each is
compared with that seed's SFT model on held-out prompts by the hidden taste. The KL of best-of-n is the analytic bound.

Gao et al. 2022 (arXiv 2210.10760) for the axes. Run it: `palate frontier --seeds 3`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from palate import disk
from palate.demo.loop import FULL, Loop, Scale
from palate.evals import plots
from palate.evals.report import Report
from palate.evals.winrate import WinRate, win_rate
from palate.lm.sources.zoo import load_language_model
from palate.objectives.divergence import best_of_n_kl_bound, best_of_n_win_rate_bound
from palate.recipe import DPORecipe, ReinforceRecipe
from palate.records import Prompt, Ranking
from palate.rewards.learned import LearnedReward
from palate.rewards.rules import FunctionReward
from palate.rollout.local import LocalEngine
from palate.stages import dpo
from palate.stages.best_of_n import best_rows
from palate.stages.evaluate import Answers, answers, contrast
from palate.stages.reinforcement import reinforce

BEST_OF = (2, 4, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One method with one seed."""

    method: str
    seed: int
    kl: float
    win_rate: float
    low: float | None
    high: float | None


def frontier(out: Path, *, seeds: int = 3, scale: Scale = FULL) -> None:
    """Run what is not there yet, measure all of it, and write ``report.html`` and ``report.json``."""
    points = [point for seed in range(seeds) for point in one_seed(Loop(out / f"seed-{seed}", seed, scale))]
    series: dict[str, list[tuple[float, float, float | None, float | None, int]]] = {}
    for point in points:
        series.setdefault(point.method, []).append((point.kl, point.win_rate, point.low, point.high, point.seed))
    report = Report("Win rate against KL", f"{scale.model}, {seeds} seeds")
    report.figure(
        "Every method, every seed",
        plots.frontier(series, bound=[(best_of_n_kl_bound(n), best_of_n_win_rate_bound(n)) for n in range(1, 17)]),
        "Win rate over that seed's SFT model on held-out prompts by the hidden taste; KL per response in nats. "
        "Best-of-n stands at its analytic upper bound of KL.",
    )
    header = ["method", "seed", "KL", "win rate", "95% interval"]
    report.table("The points", header, [_row(point) for point in points])
    report.data("points", [asdict(point) for point in points])
    report.write(out)


def _row(point: Point) -> list[str]:
    interval = "undefined" if point.low is None or point.high is None else f"{point.low:.3f} to {point.high:.3f}"
    return [point.method, str(point.seed), f"{point.kl:.2f}", f"{point.win_rate:.3f}", interval]


def one_seed(loop: Loop) -> list[Point]:
    """Train what is missing, then measure; the points are kept, so that a stopped frontier goes on."""
    kept = loop.out / "points.json"
    if kept.exists():
        return [Point(**point) for point in json.loads(kept.read_text(encoding="utf-8"))]
    loop.run()
    loop.stage("reinforce", ReinforceRecipe, reinforce.train, **loop.rl())
    loop.stage(
        "dpo",
        DPORecipe,
        dpo.train,
        model=str(loop.out / "sft"),
        data=loop.data("rankings.jsonl"),
        holdout=loop.holdout("rankings.jsonl", Ranking),
        optimizer={"learning_rate": 5e-5},
    )
    points = measure(loop)
    disk.write_text(kept, disk.json_text([asdict(point) for point in points], indent=2))
    return points


def measure(loop: Loop) -> list[Point]:
    """Every method of one seed against its SFT model."""
    prompts: list[Prompt] = loop.read("held_out_prompts.jsonl", Prompt)
    judge = FunctionReward(loop.taste.function)
    baseline = load_language_model(str(loop.out / "sft"), precision=loop.precision)

    def sampled(name: str) -> Answers:
        model = load_language_model(str(loop.out / name), precision=loop.precision)
        return answers(
            model, prompts, judge, loop.sampling, num_responses=loop.scale.evaluation_responses, seed=loop.seed
        )

    theirs = sampled("sft")
    points = []
    for method in ("favourites", "ppo", "reinforce", "dpo"):
        found = contrast(sampled(method), theirs, baseline.model, seed=loop.seed)
        assert found.kl.value is not None
        points.append(_point(method, loop.seed, found.kl.value, found.win_rate))
    return points + best_of_n_points(loop, prompts, judge, theirs)


def best_of_n_points(loop: Loop, prompts: list[Prompt], judge: Callable[..., Any], theirs: Answers) -> list[Point]:
    """Best of 2, 4 and 8 out of one pool of 8 responses to each prompt."""
    pool = max(BEST_OF)
    baseline = load_language_model(str(loop.out / "sft"), precision=loop.precision)
    engine = LocalEngine(baseline.model, baseline.chat)
    rollout = engine.generate(prompts, loop.sampling, num_responses=pool, key=(loop.seed, "best_of_n"))
    reward = LearnedReward(str(loop.out / "reward"), precision=loop.precision)
    proxy = reward(rollout.prompts, rollout.texts, rollout.sampled_tokens())
    gold = judge(rollout.prompts, rollout.texts).double()
    points = []
    for n in BEST_OF:
        picked = gold[best_rows(proxy.view(-1, n))].reshape(len(prompts), pool // n).numpy()
        rate = win_rate(picked, theirs.scores, seed=loop.seed)
        points.append(_point(f"best of {n}", loop.seed, best_of_n_kl_bound(n), rate))
    return points


def _point(method: str, seed: int, kl: float, rate: WinRate) -> Point:
    return Point(method=method, seed=seed, kl=kl, win_rate=rate.rate, low=rate.low, high=rate.high)
