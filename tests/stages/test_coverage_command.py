"""Coverage from files to its page, on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from palate.cli import main
from palate.lm.sources.zoo import load_scalar_model, save
from palate.records import Prompt
from palate.rewards.heads import NORMALIZATION_FILE, Normalization

PAIRS = [{"prompt": f"Tell of tea {n}.", "chosen": f"Much {n}.", "rejected": f"Not {n * n}."} for n in range(40)]


@pytest.fixture
def reward(tmp_path: Path) -> str:
    scorer = load_scalar_model("tiny", precision="fp32", seed=1)
    save(scorer.model, scorer.chat, tmp_path / "reward", extra_files={NORMALIZATION_FILE: Normalization().to_json()})
    return str(tmp_path / "reward")


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_a_page_from_files(reward: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rankings = write(tmp_path / "rankings.jsonl", PAIRS)
    asked = [{"prompt": f"Tell of tea {n}."} for n in range(3, 90, 5)] + [{"prompt": "@@@ ### 0000 ][ 99"}]
    prompts, out = write(tmp_path / "prompts.jsonl", asked), tmp_path / "coverage"
    named = [reward, "--prompts", prompts, "--rankings", rankings, "--precision", "fp32", "--out", str(out)]
    assert main(["coverage", *named, "--held-out", rankings, "--neighbours", "4"]) == 0
    found, page = json.loads((out / "report.json").read_text()), (out / "report.html").read_text()
    assert len(found["distances"]) == 19
    assert found["distances"][-1] == max(found["distances"]) > 2 * found["edge"]
    assert 0.5 < found["inside"] < 1
    assert found["prompts"] == [Prompt.from_text(each["prompt"]).id for each in asked], "in the order of distances"
    assert (out / "map.svg").read_text().strip() in page
    assert len(found["error_by_distance"]) == 4
    assert sum(part["num_training"] for part in found["parts"]) == 40
    for heading in ("Map", "The furthest 19 prompts", "What was learned from, in parts", "Errors against distance"):
        assert f">{heading}</h2>" in page
    assert page.index("@@@ ###") < page.index("Tell of tea 3.")
    assert main(["coverage", reward, "--prompts", prompts, "--out", str(out)]) == 2
    assert "name it with --rankings" in capsys.readouterr().err
    assert main(["coverage", *named, "--neighbours", "40"]) == 2
    assert "40 training prompts are too few for 40 neighbours" in capsys.readouterr().err
