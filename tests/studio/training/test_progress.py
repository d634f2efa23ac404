"""How far a run is, read while it is being written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from palate.recipe import SFTRecipe
from palate.run.directory import Run
from palate.studio.training import progress


def write(path: Path, rows: list[dict[str, object]], rest: str = "") -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + rest, encoding="utf-8")
    return path


def test_before_it_began_there_is_nothing(tmp_path: Path) -> None:
    assert progress.progress_of(tmp_path) == progress.Progress(step=0, total=None, rows=[])
    assert progress.pictures([]) == []


def test_torn_and_unfinished_lines_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", [{"step": 0}, {"step": 1}], '{"step": 2, "a": \n{"step": 3}\n{"step": 4}')
    write(tmp_path / "lineage.json", [{"stage": "ppo", "ended": None, "total_steps": 9}])
    at = progress.progress_of(tmp_path)
    assert (at.step, at.total, [row["step"] for row in at.rows]) == (4, 9, [0, 1, 3])


def test_the_end_of_a_long_file_is_enough_to_know_the_step(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", [{"step": n, "reward/loss": 0.5, "odd": "é" * 9} for n in range(5000)])
    at = progress.progress_of(tmp_path, most=progress.LAST)
    assert at.step == 5000
    assert 10 < len(at.rows) < 1000
    assert len(progress.read_rows(tmp_path / "metrics.jsonl")) == 5000


def test_curves_are_of_what_was_logged_and_nothing_else(tmp_path: Path) -> None:
    rows = [{"step": n, "dpo/loss": 0.7, "dpo/accuracy": 0.5, "time/step_s": 1.0} for n in range(3)]
    found = progress.pictures(rows)
    assert [str(drawing).partition("<figcaption>")[2].partition("<")[0] for drawing, _ in found] == [
        "Loss",
        "Pairs ordered as people did",
    ]
    assert all(about.endswith(".") and "`" not in about for _, about in found)


def test_samples_are_shown_from_the_first_step_to_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, run = tmp_path / "samples.jsonl", Run.open(tmp_path, SFTRecipe(data={"path": "none"}))
    assert progress.read_samples(file) == []
    for step in range(0, 100, 2):
        run.samples(step, [{"response": f"é {n}"} for n in range(2)])
    parsed: list[bytes] = []

    def loads(line: bytes) -> object:
        parsed.append(line)
        return json.JSONDecoder().decode(line.decode())

    monkeypatch.setattr(json, "loads", loads)
    found = progress.read_samples(file, most=4)
    assert [step for step, _ in found] == [98, 66, 32, 0]
    assert [row["response"] for row in found[0][1]] == ["é 0", "é 1"]
    assert len(parsed) == 8  # the other lines are looked at, not read
    with file.open("a") as torn:
        torn.write('{"step": 100, "resp')
    assert [step for step, _ in progress.read_samples(file, most=4)] == [98, 66, 32, 0]
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:4]))
    assert [step for step, _ in progress.read_samples(file, most=4)] == [2, 0]


def test_held_out_labelers_stand_apart() -> None:
    estimate = {"value": 0.75, "low": 0.5, "high": 1.0}
    unknown = {"value": None, "low": None, "high": None}
    labelers = [
        {"name": "abe", "held_out": True, "num_pairs": 4, "accuracy": estimate},
        {"name": "zoe", "held_out": False, "num_pairs": 8, "accuracy": estimate},
    ]
    html = progress.accuracy_chart({"within": estimate, "across": unknown, "labelers": labelers})
    places = [html.index(f">{name}</text>") for name in ("Within", "Across", "zoe", "abe")]
    assert places == sorted(places)
    assert "8 pairs</td>" in html
    assert "4 pairs, held out</td>" in html
    assert html.count("not known yet") == 1
