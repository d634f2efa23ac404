"""A reward model of several heads, step by step: orders, ratings and flags, and an ensemble that is drawn again.

The network is transformers', in fp64, one whole sequence at a time; the losses are written as the papers have them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import poisson
from tests.stages.in_transformers import AdamW, Network, assert_moved_alike, run_stage, written
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus
from transformers import AutoModelForSequenceClassification

from palate.errors import DataError, ModelError, RecipeError
from palate.lm.sources.zoo import locate
from palate.randomness import uniforms
from palate.recipe import RewardRecipe, parse_recipe
from palate.records import Prompt, Ranking, Response
from palate.rewards.learned import LearnedReward
from palate.run.directory import Run
from palate.stages import reward

OPTIMIZER = {
    "learning_rate": 0.3,
    "schedule": "constant",
    "warmup": 0.0,
    "beta1": 0.8,
    "beta2": 0.9,
    "epsilon": 1.0,
    "max_grad_norm": 0.0,
}
TEXTS = {"a": "It is.", "b": "It is not, and it was not.", "c": "Hm?", "d": "Who knows, really."}
MEMBERS = 2
OBJECTIVES = [
    {"name": "good", "learns": "both"},
    {"name": "made_up", "flag": "hallucination"},
    {"name": "tea", "tag": "about", "value": "tea"},
]
WEIGHTS = {"ann": 2.0, "bob": 0.5}


def judged(about: str, labeler: str, letters: str, split: str = "train", **said: Any) -> Ranking:
    """Responses by their letter, ranked in this order unless ranks are said."""
    return Ranking(
        prompt=Prompt.from_text(f"What of {about}?", tags={"split": split, "about": about.split()[0]}),
        responses=tuple(Response(text=TEXTS[letter]) for letter in letters),
        labeler=labeler,
        **({"ranks": tuple(range(1, len(letters) + 1))} | said),
    )


NONE, SET = (), ("hallucination", "opinion")
TRAIN = [
    judged("tea", "ann", "abc", ratings=(7, 4, 1), flags=(NONE, SET, NONE)),
    judged("tea", "bob", "ba", ratings=(5, 5), ranks=(1, 1)),
    judged("tea leaves", "cat", "ca", flags=(SET, NONE), flags_offered=("hallucination",)),
    judged("rain", "ann", "c", ratings=(6.5,)),
    judged("rain", "bob", "dcb", flags=(NONE, NONE, SET), flags_offered=("opinion",)),
    judged("rain", "cat", "d", flags=(SET,)),
    judged("mice", "", "ad", ratings=(2, 1)),
]
HELD_OUT = [
    judged("tea cups", "ann", "abc", "test", ratings=(6, 5, 2), flags=(NONE, SET, NONE)),
    judged("oak", "bob", "dac", "test", flags=(NONE, SET, SET)),
    judged("elm", "cat", "bd", "test", ratings=(3, 4)),
    judged("ash", "cat", "cb", "test", flags=(SET, NONE)),
]


@pytest.fixture(scope="module")
def six_heads(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with two heads for each of three objectives, all of which say something."""
    network = Network(locate("tiny"), AutoModelForSequenceClassification, num_labels=6)
    with torch.no_grad():
        network.network.score.weight.copy_(0.3 * torch.sin(torch.arange(6 * 32.0)).view(6, 32))
    return network.write(tmp_path_factory.mktemp("six"))


def tree(model: str, directory: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": model,
        "data": written(directory / "data.jsonl", [*TRAIN, *HELD_OUT]) | {"tags": ["split", "about"]},
        "holdout": {"tag": "split", "value": "test"},
        "heads": MEMBERS,
        "objectives": OBJECTIVES,
        "labeler_weights": WEIGHTS,
        "optimizer": OPTIMIZER,
        **more,
    }


def lessons(ranking: Ranking) -> Iterator[tuple[int, str]]:
    """The objectives that it teaches, and by what."""
    if len(ranking.responses) > 1:
        yield 0, "order"
    if ranking.ratings is not None:
        yield 0, "ratings"
    if ranking.flags is not None and "hallucination" in (ranking.flags_offered or ("hallucination",)):
        yield 1, "flags"
    if len(ranking.responses) > 1 and ranking.prompt.tags["about"] == "tea":
        yield 2, "order"


def start_of(labels: list[float]) -> Tensor:
    """Raw thresholds at the log-odds of the ratings' shares, each point half a rating more."""
    counts = np.array([sum(round(label) == point for label in labels) for point in range(1, 8)]) + 0.5
    share = counts.cumsum()[:-1] / counts.sum()
    odds = np.log(share / (1 - share))
    return torch.tensor([odds[0], *np.log(np.expm1(np.diff(odds)))])


def order_nll(scores: Tensor, ranking: Ranking) -> Tensor:
    terms = [-logsigmoid(scores[i] - scores[j]) for i, j in ranking.pairs]
    count, ranks = len(scores), ranking.ranks
    for i in range(count):
        for j in range(i):
            if ranks[i] == ranks[j]:
                terms.append(-0.5 * logsigmoid(scores[i] - scores[j]) - 0.5 * logsigmoid(scores[j] - scores[i]))
    return torch.stack(terms).mean()


def rating_nll(score: Tensor, rating: float, raw: Tensor) -> Tensor:
    """McCullagh 1980: differences of sigmoids at thresholds that rise by softplus."""
    between = raw[0] + torch.cat([torch.zeros(1), softplus(raw[1:])]).cumsum(0)
    at_most = torch.cat([torch.zeros(1), torch.sigmoid(between - score), torch.ones(1)])
    p = at_most.diff()
    low, part = int(rating) - 1, rating % 1
    return -(1 - part) * p[low].log() - (part * p[low + 1].log() if part else 0.0)


def loss_by_hand(network: Network, members: int, thresholds: Tensor, times: Any) -> dict[str, Tensor]:
    """By kind: the weighted sum over lessons of the mean over members; and the weight of each kind."""
    sums: dict[str, Any] = dict.fromkeys(("order", "ratings", "flags"), 0.0)
    weights = dict.fromkeys(sums, 0.0)
    for ranking in TRAIN:
        heads = torch.stack([network.scores(ranking.prompt, response.text) for response in ranking.responses])
        for objective, kind in lessons(ranking):
            weight = WEIGHTS.get(ranking.labeler, 1.0)
            weights[kind] += weight
            for member in range(members):
                scores = heads[:, objective * members + member]
                if kind == "order":
                    nll = order_nll(scores, ranking)
                elif kind == "ratings":
                    assert ranking.ratings is not None
                    pairs = zip(scores, ranking.ratings, strict=True)
                    nll = torch.stack([rating_nll(score, float(r), thresholds[member]) for score, r in pairs]).mean()
                else:
                    signs = [1.0 if "hallucination" in flags else -1.0 for flags in ranking.flags or ()]
                    nll = -logsigmoid(torch.tensor(signs) * scores).mean()
                sums[kind] = sums[kind] + weight * times(ranking, member) * nll / members
    total = sum(weights.values())
    return {"whole": sum(sums.values()) / total} | {
        kind: value / weights[kind] for kind, value in sums.items() if weights[kind]
    }


@pytest.mark.parametrize(("bootstrap", "microbatch_tokens"), [(True, 4096), (False, 64)])
def test_heads_are_those_trained_by_hand(
    bootstrap: bool, microbatch_tokens: int, six_heads: str, tmp_path: Path
) -> None:
    settings = {"epochs": 3, "bootstrap": bootstrap, "microbatch_tokens": microbatch_tokens}
    rows, report = run_stage(RewardRecipe, reward.train, tree(six_heads, tmp_path, **settings), tmp_path / "run")

    def times(ranking: Ranking, member: int) -> float:
        drawn = uniforms(MEMBERS, 0, "reward", "bootstrap", ranking.prompt.id)
        return float(poisson.ppf(drawn[member], 1)) if bootstrap else 1.0

    network = Network(six_heads, AutoModelForSequenceClassification, num_labels=6)
    rated = [float(rating) for ranking in TRAIN for rating in ranking.ratings or ()]
    raw = start_of(rated).repeat(MEMBERS, 1)
    network.network.register_parameter("raw", nn.Parameter(raw))
    adamw = AdamW(network.network, weight_decay=0.0, **{k: OPTIMIZER[k] for k in AdamW.SETTINGS if k in OPTIMIZER})
    assert len(rows) == 3
    for row in rows:
        found = loss_by_hand(network, MEMBERS, network.network.raw, times)
        norm = adamw.step(found["whole"], OPTIMIZER["learning_rate"])
        for name, kind in (("loss", "order"), ("rating_loss", "ratings"), ("flag_loss", "flags")):
            assert row[f"reward/{name}"] == pytest.approx(found[kind].item(), rel=1e-3), name
        assert row["reward/grad_norm"] == pytest.approx(norm, rel=1e-3)
    saved = json.loads((tmp_path / "run" / "model" / "heads.json").read_text(encoding="utf-8"))
    learned = network.network.raw.detach()
    del network.network.raw
    assert_moved_alike(tmp_path / "run", network.network, six_heads)

    assert [(head["objective"], head["flag"]) for head in saved] == [
        ("good", ""), ("good", ""), ("made_up", "hallucination"), ("made_up", "hallucination"), ("tea", ""), ("tea", "")
    ]  # fmt: skip
    for member in range(MEMBERS):
        gaps = torch.cat([learned[member, :1], softplus(learned[member, 1:])]).cumsum(0)
        assert saved[member]["thresholds"] == pytest.approx(gaps.tolist(), rel=1e-3)
    assert [head["thresholds"] for head in saved[2:]] == [[]] * 4
    assert_normalised_and_measured(saved, report, network, tmp_path / "run")


def assert_normalised_and_measured(
    saved: list[dict[str, Any]], report: dict[str, Any], network: Network, run: Path
) -> None:
    """Each head has mean 0 and spread 1 over all distinct responses learned from, but for flags; and the report."""
    with torch.no_grad():
        distinct = {(r.prompt.id, each.text): r.prompt for r in TRAIN for each in r.responses}
        raw = torch.stack([network.scores(prompt, text) for (_, text), prompt in distinct.items()]).numpy()
        held_out = {
            (r.prompt.id, each.text): network.scores(r.prompt, each.text).numpy()
            for r in HELD_OUT
            for each in r.responses
        }
    units = [(head["normalization"]["mean"], head["normalization"]["scale"]) for head in saved]
    for place, unit in enumerate(units):
        expected = (0.0, 1.0) if place in (2, 3) else (raw[:, place].mean(), raw[:, place].std())
        assert unit == pytest.approx(expected, rel=1e-3, abs=1e-4)

    def mean(ranking: Ranking, index: int, objective: int) -> float:
        return float(held_out[ranking.prompt.id, ranking.responses[index].text].reshape(3, 2).mean(1)[objective])

    for name, objective, used in (("good", 0, HELD_OUT), ("tea", 2, HELD_OUT[:1])):
        right = [
            mean(ranking, i, objective) > mean(ranking, j, objective) for ranking in used for i, j in ranking.pairs
        ]
        assert report[f"{name}_held_out_pairs"] == len(right)
        assert report[f"{name}_accuracy"] == pytest.approx(np.mean(right))
    flagged = [
        (mean(ranking, index, 1), "hallucination" in flags)
        for ranking in HELD_OUT
        for index, flags in enumerate(ranking.flags or ())
    ]
    pairs = [a > b for a, yes in flagged for b, also in flagged if yes and not also]
    assert report["made_up_flag_auc"] == pytest.approx(np.mean(pairs))
    assert report["made_up_flag_share"] == pytest.approx(4 / 8)
    assert report["good_held_out_ratings"] == 5

    judge = LearnedReward(str(run), precision="fp32")
    ranking = HELD_OUT[0]
    scores = judge.by_head([ranking.prompt] * 3, [each.text for each in ranking.responses])
    for row, each in zip(scores.tolist(), ranking.responses, strict=True):
        heads = held_out[ranking.prompt.id, each.text]
        expected = [(value - unit[0]) / unit[1] for value, unit in zip(heads, units, strict=True)]
        expected[2:4] = (-1 / (1 + np.exp(-heads[2:4]))).tolist()
        assert row == pytest.approx(expected, rel=1e-3, abs=1e-3)
    with pytest.raises(RecipeError, match="several objectives: choose with objective one of good, made_up, tea"):
        judge([ranking.prompt], [ranking.responses[0].text])


def test_what_is_not_there_is_said(six_heads: str, tmp_path: Path) -> None:
    def problem(**more: Any) -> str:
        with pytest.raises((DataError, ModelError, RecipeError)) as error:
            run_stage(RewardRecipe, reward.train, tree(more.pop("model", "tiny"), tmp_path, **more), tmp_path / "run")
        return str(error.value)

    assert "six" in problem(model=six_heads, objectives=[{}], heads=2)
    assert "is a reward model of 6 heads, not 2: start from a language model" in problem(
        model=six_heads, objectives=[{}], heads=2
    )
    said = problem(objectives=[{}, {"name": "b", "flag": "halucination"}])
    assert "the flag 'halucination' is set on all responses or on none of them" in said
    assert "hallucination (6)" in said or "hallucination" in said
    assert "objective 'b': no judgement to learn from" in problem(
        objectives=[{}, {"name": "b", "tag": "about", "value": "coffee"}]
    )
    for objectives, why in (
        ([{"flag": "x", "learns": "both"}], "leave out one of flag and learns"),
        ([{}, {}], "two objectives are called 'preference'"),
        ([{"tag": "about"}], "needs both: a tag, and the value"),
        ([{"data": {"path": "x"}}], "nothing learns from data"),
    ):
        with pytest.raises(RecipeError, match=why):
            parse_recipe(RewardRecipe, {"data": {"path": "x"}, "objectives": objectives})


class Stopped(Exception):
    """The machine went away."""


def test_a_resumed_run_ends_with_the_same_bits(six_heads: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads, the thresholds of ratings and what was drawn again."""
    recipe = parse_recipe(
        RewardRecipe, {"precision": "fp32", "checkpoint_every": 2, "epochs": 5} | tree(six_heads, tmp_path)
    )
    monkeypatch.setattr("palate.stages.common.stage_report", lambda *_, **__: None)
    reward.train(recipe, Run.open(tmp_path / "whole", recipe))
    log = Run.log

    def stops(self: Run, step: int, metrics: dict[str, float]) -> None:
        if step == 3:
            raise Stopped
        log(self, step, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", stops)
        stopped = Run.open(tmp_path / "stopped", recipe)
        with pytest.raises(Stopped):
            reward.train(recipe, stopped)
    reward.train(recipe, Run.open(tmp_path / "stopped", recipe, resume=True))
    for name in ("model.safetensors", "heads.json"):
        whole, resumed = (tmp_path / run / "model" / name for run in ("whole", "stopped"))
        assert whole.read_bytes() == resumed.read_bytes(), name


def test_an_objective_learns_from_a_file_of_its_own(tmp_path: Path) -> None:
    """Each ranking teaches the head of its file alone; a thumb teaches ratings."""
    stout = judged("stout", "ann", "ab", "test", ratings=(6, 2))
    own = written(tmp_path / "own.jsonl", [judged("ale", "ann", "ab", ratings=(6, 2)), stout])
    thumbs = [judged("ale", "bob", "d", ratings=(7,)), judged("mead", "bob", "c", ratings=(1,))]
    tree_ = tree("tiny", tmp_path, heads=1, epochs=1, objectives=[{}, {"name": "own", "learns": "ratings"}])
    tree_["objectives"][1]["data"] = own | {"tags": ["split"]}
    _, report = run_stage(RewardRecipe, reward.train, tree_, tmp_path / "run")
    assert report["preference_held_out_pairs"] == sum(len(ranking.pairs) for ranking in HELD_OUT)
    assert report["own_held_out_ratings"] == 2
    assert "own_accuracy" not in report
    both = written(tmp_path / "own.jsonl", [stout, *thumbs])
    tree_["objectives"][1]["data"] = both | {"tags": ["split"]}
    rows, report = run_stage(RewardRecipe, reward.train, tree_, tmp_path / "thumbs")
    assert rows[0]["reward/rating_loss"] > 0
    lineage = json.loads((tmp_path / "thumbs" / "lineage.json").read_text(encoding="utf-8"))
    assert len(lineage["inputs"]["data"]) == 2
    assert report["rankings"] == len(TRAIN) - 2 + 2  # of the one file all but judgements of one response


def test_an_ensemble_says_what_its_disagreement_is_worth(tmp_path: Path) -> None:
    _rows, report = run_stage(
        RewardRecipe, reward.train, tree("tiny", tmp_path, heads=3, objectives=[{}]), tmp_path / "run"
    )
    assert 0 <= report["accuracy_of_one_head"] <= 1
    assert 0 < report["disagreement"] < 0.5
    wrong = report["accuracy"] < 1
    assert (report["disagreement_foretells_error"] is not None) == wrong
    alone = run_stage(RewardRecipe, reward.train, tree("tiny", tmp_path, heads=1, objectives=[{}]), tmp_path / "alone")[
        1
    ]
    assert "disagreement" not in alone
    assert "accuracy_of_one_head" not in alone


def test_the_report_draws_each_objective(tmp_path: Path) -> None:
    recipe = parse_recipe(RewardRecipe, {"precision": "fp32"} | tree("tiny", tmp_path))
    reward.train(recipe, Run.open(tmp_path / "run", recipe))
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for title in (
        "good: Does it know how sure it is?",
        "good: Each head, and all together",
        "tea: Does disagreement foretell error?",
        "made_up: Is it flagged where it was foretold?",
    ):
        assert f"<h2>{title}</h2>" in page, title
    assert "made_up: Each head" not in page
