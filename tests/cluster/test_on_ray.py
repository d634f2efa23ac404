"""`palate cluster` on a real cluster of two nodes, each with a raylet of its own on this machine.

Minutes; run where PALATE_WITH_RAY is set, and Ray is installed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from safetensors.torch import load_file
from tests.cluster.conftest import add
from tests.cluster.gangs import in_gang

from palate.recipe import ReinforceRecipe, parse_recipe
from palate.run.directory import Run
from palate.stages import common
from palate.stages.reinforcement.reinforce import train

pytestmark = pytest.mark.skipif("PALATE_WITH_RAY" not in os.environ, reason="set PALATE_WITH_RAY=1: minutes")
SOURCE = Path(__file__).parents[2]
PATIENCE = 300.0
"""Seconds, far more than anything here takes: by then something hangs."""
STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def nothing_goes_on() -> Iterator[None]:
    """A test that failed leaves nothing behind that the next one would share the cores with."""
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=PATIENCE)


@pytest.fixture
def tree(tree: dict[str, Any]) -> dict[str, Any]:
    """The same, of two trainers."""
    return tree | {"cluster": {"trainers": 2}}


def started(cluster: Any, tmp_path: Path, tree: Mapping[str, Any], *more: str, **environment: str) -> Any:
    """The command, as somebody on a machine of the cluster would type it."""
    file = tmp_path / "reinforce.toml"
    file.write_text(tomli_w.dumps(tree))
    module = "tests.cluster.harmed" if "PALATE_HARM" in environment else "palate"
    command = [sys.executable, "-m", module, "cluster", str(file), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        [*command, "--address", cluster.address, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=SOURCE,
        env=os.environ | {"PALATE_PEER_TIMEOUT": "120", "PYTHONPATH": f"{SOURCE / 'src'}:{SOURCE}"} | environment,
    )
    STARTED.append(process)
    return process


def opened(pipe: Path, process: subprocess.Popen[str]) -> int:
    """The end of a named pipe to write to, once somebody reads from the other; a run that has ended never will."""
    while True:
        with suppress(OSError):  # nobody reads yet
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def unharmed(tmp_path: Path, tree: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of two processes that nobody has placed."""

    def work(_: object) -> None:
        common.stage_report = lambda *_, **__: None  # type: ignore[assignment]
        recipe = parse_recipe(ReinforceRecipe, tree)
        train(recipe, Run.open(tmp_path / "unharmed", recipe))

    assert in_gang(2, tmp_path / "gang", work) == [None, None]
    return load_file(tmp_path / "unharmed" / "model" / "model.safetensors")


def check_bits(tmp_path: Path, tree: Mapping[str, Any]) -> None:
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    same = unharmed(tmp_path, tree)
    assert weights.keys() == same.keys()
    assert all((weights[name] == tensor).all() for name, tensor in same.items())


def test_a_trainer_that_is_killed_is_started_again(nodes: Any, tree: dict[str, Any], tmp_path: Path) -> None:
    """On two nodes, with the bits of two processes that nobody harmed; one voice."""
    add(nodes)
    add(nodes)
    process = started(nodes, tmp_path, tree, PALATE_HARM="kill")
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert out == ""
    assert err.count("was ended by SIGKILL: all are started again, from the newest checkpoint; restart 1 of 3") == 1, (
        err
    )
    assert err.count("going on at step 2") == 1, err
    check_bits(tmp_path, tree)


def test_a_node_that_is_gone_is_done_without(nodes: Any, tree: dict[str, Any], tmp_path: Path) -> None:
    """Its trainers are placed elsewhere."""
    add(nodes, 2)
    lost = add(nodes)
    tree |= {"cluster": {"trainers": 3}}
    hold = tmp_path / "hold"
    os.mkfifo(hold)
    process = started(nodes, tmp_path, tree, PALATE_HARM=str(hold))
    holding = opened(hold, process)  # a trainer has come to its third step
    nodes.remove_node(lost, allow_graceful=False)
    add(nodes)
    os.close(holding)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert err.count("all are started again, from the newest checkpoint; restart 1 of 3") == 1, err
    assert err.count("going on at step 2") == 1, err


def test_what_has_no_place_is_said(nodes: Any, tree: dict[str, Any], tmp_path: Path) -> None:
    """And waited for, until somebody has had enough."""
    add(nodes)
    process = started(nodes, tmp_path, tree)
    line = process.stderr.readline()
    assert "no place for 1 of 2 trainers of 1 core each: the cluster has " in line
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert rest == "palate: stopped before it was placed; go on with --resume\n"


def test_a_stop_is_a_checkpoint(nodes: Any, tree: dict[str, Any], tmp_path: Path) -> None:
    add(nodes, 2)
    process = started(nodes, tmp_path, tree | {"steps": 1000, "checkpoint_every": 1000})
    rows = tmp_path / "run" / "metrics.jsonl"
    while not rows.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert err.count("stopping after this step") <= 1  # none, if the other one heard first, and both stopped by that
    assert err.count("palate: stopped at step ") == 1
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) == 1


def test_a_head_that_is_gone_is_said(nodes: Any, tree: dict[str, Any], tmp_path: Path) -> None:
    add(nodes, 2)
    process = started(nodes, tmp_path, tree | {"steps": 100000})
    rows = tmp_path / "run" / "metrics.jsonl"
    while not rows.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    nodes.head_node.kill_gcs_server()
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3, err
    assert [line for line in err.splitlines() if line.startswith("palate: the cluster's head at ")], err


def test_no_cluster_is_one_line(tmp_path: Path, tree: dict[str, Any]) -> None:
    class Nowhere:
        address = "127.0.0.1:1"

    process = started(Nowhere, tmp_path, tree)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert err.startswith("palate: no Ray cluster can be used at '127.0.0.1:1': ")
    assert len(err.splitlines()) == 1


def test_rays_client_is_refused(tmp_path: Path, tree: dict[str, Any]) -> None:
    class Client:
        address = "ray://127.0.0.1:10001"

    _, err = started(Client, tmp_path, tree).communicate(timeout=PATIENCE)
    assert err.startswith("palate: Ray's client ends with its connection: send a job instead")
