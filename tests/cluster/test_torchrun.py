"""`torchrun -m palate STAGE RECIPE`, for real: two processes, one run, one voice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from safetensors.torch import load_file
from tests.cluster.gangs import in_gang

from palate.cli import main
from palate.recipe import ReinforceRecipe, parse_recipe
from palate.run.directory import Run
from palate.stages import common
from palate.stages.reinforcement.reinforce import train

SOURCE = Path(__file__).parents[2]
KILLED = "tests.cluster.killed"
"""palate, but in the first attempt process 1 is killed in the third step."""


def torchrun(
    tmp_path: Path, tree: dict[str, Any], *more: str, module: str = "palate", restarts: int = 0
) -> subprocess.CompletedProcess[str]:
    """Two processes that meet at a port which the system chooses."""
    file = tmp_path / "recipe.toml"
    file.write_text(tomli_w.dumps(tree))
    options = ["--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", f"--max-restarts={restarts}"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", module, "reinforce", str(file)]
    environment = os.environ | {"PALATE_PEER_TIMEOUT": "120", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "--out", str(tmp_path / "run"), *more],
        capture_output=True,
        text=True,
        check=False,
        cwd=SOURCE,
        env=environment,
    )


def test_a_killed_process_is_started_again_and_the_run_ends_with_the_same_bits(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    """As if nobody had been killed; one process writes and speaks."""
    ran = torchrun(tmp_path, tree, module=KILLED, restarts=1)
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in ran.stderr.splitlines() if line.startswith("palate: ")]
    assert len(lines) == 1, ran.stderr
    assert "process 1 was last at " in lines[0]
    assert ran.stderr.count("going on at step 2") == 1
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    record = json.loads((tmp_path / "run" / "lineage.json").read_text())
    assert record["ended"]
    assert len(record["resumed"]) == 1

    def unharmed(_: object) -> None:
        common.stage_report = lambda *_, **__: None  # type: ignore[assignment]
        recipe = parse_recipe(ReinforceRecipe, tree)
        train(recipe, Run.open(tmp_path / "unharmed", recipe))

    assert in_gang(2, tmp_path / "gang", unharmed) == [None, None]
    same, weights = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("unharmed", "run"))
    assert all((weights[name] == tensor).all() for name, tensor in same.items())


def test_a_mistake_is_said_once(tree: dict[str, Any], tmp_path: Path) -> None:
    ran = torchrun(tmp_path, tree | {"stpes": 3}, "--resume")
    assert ran.returncode != 0
    said = [line for line in ran.stderr.splitlines() if line.startswith("palate: ")]
    assert len(said) == 1
    assert "steps" in said[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argv", "rank", "said"),
    [
        (["demo"], "0", "palate: this command runs in one process: leave out torchrun\n"),
        (["demo"], "1", ""),
        (["sft", "recipe.toml", "--estimate"], "0", "palate: --estimate is of one process: leave out torchrun"),
        (["sft", "recipe.toml", "--bogus"], "1", ""),
    ],
)
def test_before_they_meet_the_first_speaks(
    argv: list[str], rank: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what cannot be divided is refused, instead of being done twice."""
    for name, value in {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    try:
        status = main(argv)
    except SystemExit as ended:
        status = int(ended.code or 0)
    assert status == 2
    shown = capsys.readouterr().err
    assert shown.startswith(said)
    assert bool(shown) == bool(said)
