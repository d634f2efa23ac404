"""`palate choose` and `palate labelers` on the tiny model: what they write, what they keep, what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from palate.cli import main
from palate.experiments.labels import judgement_table, label_budget_page, strangers_page
from palate.experiments.labels.judgement_table import collect
from palate.recipe import RewardRecipe, load_recipe
from palate.records import Prompt, Ranking, Response


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A reward model's recipe: 60 items about 6 prompts, each judged by two of four labelers; a few have K = 3."""
    said = []
    for number in range(120):
        item, prompt = number // 2, number // 2 % 6
        texts = [f"{'long ' * (item % 5)}answer {item}", f"no {item}", f"maybe {item}"][: 3 if item % 10 == 0 else 2]
        ranks = (1, 2, 2)[: len(texts)] if number % 3 else (2, 1, 3)[: len(texts)]
        said.append(
            Ranking(
                prompt=Prompt.from_text(f"question {prompt}").model_copy(update={"tags": {"topic": f"t{prompt % 3}"}}),
                responses=tuple(Response(text=text) for text in texts),
                ranks=ranks,
                labeler=f"p{(number + item) % 4}",
            )
        )
    (tmp_path / "rankings.jsonl").write_text("".join(each.to_json() + "\n" for each in said), encoding="utf-8")
    tree = {
        "model": "tiny",
        "precision": "fp32",
        "frozen_layers": 1,
        "data": {"path": str(tmp_path / "rankings.jsonl"), "tags": ["topic"]},
    }
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(tree), encoding="utf-8")
    return tmp_path / "recipe.toml"


def report(out: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return found


def test_judgements_and_features_of_a_recipe(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = load_recipe(RewardRecipe, recipe, ["holdout.tag=topic", "holdout.value=t0"])
    found = collect(read, tmp_path / "out")
    assert (len(found.item), len(set(found.item.tolist())), len(set(found.prompt.tolist()))) == (120, 60, 6)
    assert found.groups == ("t0", "t1", "t2")
    assert sorted(found.labelers) == ["p0", "p1", "p2", "p3"]
    assert np.bincount(found.judgement).tolist() == [3 if number // 2 % 10 == 0 else 1 for number in range(120)]
    assert np.bincount(found.judgement, weights=found.weight) == pytest.approx(1)
    assert (found.first < found.second).all()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the features were kept")

    monkeypatch.setattr(judgement_table, "response_features", never)
    again = collect(read, tmp_path / "out")
    assert (again.features == found.features).all()
    with pytest.raises(AssertionError, match="were kept"):  # another trunk
        collect(read.model_copy(update={"frozen_layers": 2}), tmp_path / "out")


def test_choose_writes_a_page_and_goes_on_where_it_was(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "choose"
    command = ["choose", str(recipe), "--labels", "24", "--out", str(out), "--held-out", "items"]
    assert main([*command, "--seeds", "1"]) == 0
    first = (out / "curves" / "seed-0.json").read_bytes()
    assert main([*command, "--seeds", "2"]) == 0
    assert (out / "curves" / "seed-0.json").read_bytes() == first
    both = report(out)
    assert both["seeds"] == [0, 1]
    assert both["held_out"] == "items"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(f">{name}<" in page for name in label_budget_page.ABOUT)
    assert page.count("<svg") == 2

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was finished")

    monkeypatch.setattr(label_budget_page, "curves", never)
    assert main([*command, "--seeds", "2"]) == 0
    assert report(out) == both
    with pytest.raises(AssertionError, match="finished"):  # other labels, other curves
        main([*command[:-1], "prompts", "--seeds", "2"])


def test_labelers_writes_a_page_and_goes_on_where_it_was(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "labelers"
    command = ["labelers", str(recipe), "--folds", "2", "--out", str(out)]
    assert main([*command, "--seeds", "2"]) == 0
    found = report(out)
    assert {"labelers_it_learned_from", "labelers_it_never_met", "difference", "control", "methods", "votes"} <= set(
        found
    )
    monkeypatch.setattr(strangers_page, "foretell", lambda *_, **__: 1 / 0)
    assert main([*command, "--seeds", "2"]) == 0
    assert report(out) == found


def test_a_mistake_gets_one_line(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for change, said in (
        ("frozen_layers=0", "features are taken after the frozen layers"),
        ("frozen_layers=99", "features are taken after the frozen layers"),
        ("max_length=1", "cannot be used: raise max_left_out"),
    ):
        assert main(["choose", str(recipe), "--out", str(tmp_path / "x"), "--set", change]) == 2
        assert said in capsys.readouterr().err
    unsigned = [
        Ranking.model_validate_json(line).model_copy(update={"labeler": ""}).to_json() + "\n"
        for line in (tmp_path / "rankings.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    (tmp_path / "rankings.jsonl").write_text("".join(unsigned), encoding="utf-8")
    assert main(["labelers", str(recipe), "--out", str(tmp_path / "x")]) == 2
    assert "name no labeler" in capsys.readouterr().err
