"""A run that several processes divide in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from palate.demo.prompts import demo_prompts

NODE: dict[str, Any] = {"object_store_memory": 80 * 2**20, "dashboard_agent_listen_port": 0}
"""Any port that is free: what takes jobs on a node listens at 52365 otherwise, which another cluster here may have."""


@contextmanager
def a_cluster(monkeypatch: pytest.MonkeyPatch, **head: Any) -> Iterator[Any]:
    """One of Ray's whose head has no cores to give; nodes are added by the test."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # beside other work on this machine they would take for ever
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")
    monkeypatch.setenv("RAY_gcs_server_port_wait_time_s", "120")  # its head may be slow to start as well
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"num_cpus": 0} | head)
    try:
        yield cluster
    finally:
        cluster.shutdown()


def add(cluster: Any, cpus: int = 1) -> Any:
    """A node, with a raylet of its own."""
    return cluster.add_node(**NODE, num_cpus=cpus)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """As `a_cluster`."""
    with a_cluster(monkeypatch) as cluster:
        yield cluster


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    """A recipe of four short steps."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(prompt.to_json() + "\n" for prompt in demo_prompts(held_out=False)[:12]))
    return {
        "model": "tiny",
        "precision": "fp32",
        "frozen_layers": 1,
        "optimizer": {"learning_rate": 1e-3},
        "prompts": {"path": str(prompts)},
        "rewards": [{"length": 3.0}],
        "sampling": {"max_new_tokens": 6},
        "prompts_per_step": 3,
        "steps": 4,
        "checkpoint_every": 2,
    }
