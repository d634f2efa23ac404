"""`palate cluster` on a real cluster of two nodes, each with a raylet of its own on this machine.

About a minute; run where PALATE_WITH_RAY is set, and Ray is installed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from safetensors.torch import load_file
from tests.cluster.gangs import in_gang

from palate.recipe import ReinforceRecipe, parse_recipe
from palate.run.directory import Run
from palate.stages import common
from palate.stages.reinforcement.reinforce import train

pytestmark = pytest.mark.skipif("PALATE_WITH_RAY" not in os.environ, reason="set PALATE_WITH_RAY=1: a minute")
SOURCE = Path(__file__).parents[2]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster with a head that has no cores to give; nodes are added by the test."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # beside other work on this machine they would take for ever
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20})
    yield cluster
    cluster.shutdown()


@pytest.fixture
def tree(tree: dict[str, Any]) -> dict[str, Any]:
    """The same, of two trainers."""
    return tree | {"cluster": {"trainers": 2}}


def add(cluster: Any, cpus: int = 1) -> Any:
    return cluster.add_node(num_cpus=cpus, object_store_memory=80 * 2**20)


def started(cluster: Any, tmp_path: Path, tree: Mapping[str, Any], *more: str, **environment: str) -> Any:
    """The command, as somebody on a machine of the cluster would type it."""
    file = tmp_path / "reinforce.toml"
    file.write_text(tomli_w.dumps(tree))
    module = "tests.cluster.harmed" if "PALATE_HARM" in environment else "palate"
    command = [sys.executable, "-m", module, "cluster", str(file), "--out", str(tmp_path / "run")]
    return subprocess.Popen(
        [*command, "--address", cluster.address, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=SOURCE,
        env=os.environ | {"PALATE_PEER_TIMEOUT": "120", "PYTHONPATH": f"{SOURCE / 'src'}:{SOURCE}"} | environment,
    )


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
    out, err = process.communicate(timeout=300)
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
    with hold.open("w"):  # a trainer has come to its third step
        nodes.remove_node(lost, allow_graceful=False)
        add(nodes)
    _, err = process.communicate(timeout=300)
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
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert rest == "palate: stopped before it was placed; go on with --resume\n"


def test_a_stop_is_a_checkpoint(nodes: Any, tree: dict[str, Any], tmp_path: Path) -> None:
    add(nodes, 2)
    process = started(nodes, tmp_path, tree | {"steps": 1000, "checkpoint_every": 1000})
    rows = tmp_path / "run" / "metrics.jsonl"
    while not rows.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.count("stopping after this step") == 1
    assert err.count("palate: stopped at step ") == 1
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) == 1


def test_a_head_that_is_gone_is_said(nodes: Any, tree: dict[str, Any], tmp_path: Path) -> None:
    add(nodes, 2)
    process = started(nodes, tmp_path, tree | {"steps": 100000})
    rows = tmp_path / "run" / "metrics.jsonl"
    while not rows.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.2)
    nodes.head_node.kill_gcs_server()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert [line for line in err.splitlines() if line.startswith("palate: the cluster's head at ")], err


def test_no_cluster_is_one_line(tmp_path: Path, tree: dict[str, Any]) -> None:
    class Nowhere:
        address = "127.0.0.1:1"

    process = started(Nowhere, tmp_path, tree)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert err.startswith("palate: no Ray cluster can be used at '127.0.0.1:1': ")
    assert len(err.splitlines()) == 1


class ScriptedHead:
    """Takes one job, which says a line at each look."""

    texts = ("one\n", "one\ntwo\n", "one\ntwo\nthree\n")

    def __init__(self, address: str) -> None:
        assert address == "http://head:8265"
        self.asked: dict[str, Any] = {}
        self.looks, self.stopped, self.ends = 0, False, "SUCCEEDED"

    def submit_job(self, **asked: Any) -> str:
        self.asked = asked
        return "job-1"

    def get_job_status(self, job: str) -> Any:
        from ray.job_submission import JobStatus

        self.looks += 1
        return JobStatus[("STOPPED" if self.stopped else self.ends) if self.looks == 3 else "RUNNING"]

    def get_job_logs(self, job: str) -> str:
        return self.texts[self.looks - 1]

    def get_job_info(self, job: str) -> Any:
        return types.SimpleNamespace(driver_exit_code=2 if self.ends == "FAILED" else 0)

    def stop_job(self, job: str) -> None:
        self.stopped = True


def test_rays_client_is_refused(tmp_path: Path, tree: dict[str, Any]) -> None:
    class Client:
        address = "ray://127.0.0.1:10001"

    _, err = started(Client, tmp_path, tree).communicate(timeout=300)
    assert err.startswith("palate: Ray's client ends with its connection: send a job instead")


@pytest.mark.parametrize(("ends", "status"), [("SUCCEEDED", 0), ("FAILED", 2), ("STOPPED", 130)])
def test_a_job_is_listened_to(
    ends: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it says comes once; its status is ours, and a stop is passed on."""
    pytest.importorskip("ray")
    from palate.cluster import submitting

    head = ScriptedHead("http://head:8265")
    head.ends = ends
    if ends == "STOPPED":
        texts, head.ends = head.get_job_logs, "SUCCEEDED"
        monkeypatch.setattr(head, "get_job_logs", lambda job: _interrupted(head, texts(job)))
    monkeypatch.setattr(submitting, "JobSubmissionClient", lambda address: head)
    monkeypatch.setattr(submitting, "_LOOK_EVERY", 0.0)
    monkeypatch.setenv("PALATE_PEER_TIMEOUT", "9")
    assert (
        submitting.submit("http://head:8265", ["-m", "palate", "cluster", "a b.toml"], Path("/shared disk")) == status
    )
    assert capsys.readouterr().err == "job-1 at http://head:8265\none\ntwo\nthree\n"
    assert head.asked["entrypoint"] == "cd '/shared disk' && exec python -m palate cluster 'a b.toml'"
    told = head.asked["runtime_env"]["env_vars"]
    assert told["PALATE_PEER_TIMEOUT"] == "9"
    assert told["RAY_JOB_STOP_WAIT_TIME_S"] == "600"


def _interrupted(head: ScriptedHead, text: str) -> str:
    """Somebody presses Ctrl-C while the first line comes."""
    if head.looks == 1:
        os.kill(os.getpid(), signal.SIGINT)
    return text
