"""A process is found again by number and start time, and never mistaken for another one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from palate.studio.training import processes
from palate.studio.training.processes import Process


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    child = processes.begin(
        [sys.executable, "-c", "import time; time.sleep(60)"], log=tmp_path / "log", directory=tmp_path
    )
    yield child
    child.kill()
    child.wait()


def test_a_process_is_alive_until_it_is_killed(sleeper: subprocess.Popen[bytes]) -> None:
    process = processes.find(sleeper.pid)
    assert process is not None
    assert processes.is_alive(process)
    processes.signal_group(process, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while processes.is_alive(process):  # it becomes a zombie, which nobody has waited for
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert processes.find(sleeper.pid) == process
    sleeper.wait()
    assert processes.find(sleeper.pid) is None


def test_another_process_of_the_same_number_is_not_meant(sleeper: subprocess.Popen[bytes]) -> None:
    process = processes.find(sleeper.pid)
    assert process is not None
    earlier = Process(process.pid, process.started - 100)
    assert not processes.is_alive(earlier)
    processes.signal_group(earlier, signal.SIGKILL)
    time.sleep(0.05)
    assert processes.is_alive(process)


def test_it_is_in_a_session_of_its_own_so_that_ctrl_c_does_not_reach_it(sleeper: subprocess.Popen[bytes]) -> None:
    assert os.getsid(sleeper.pid) == sleeper.pid != os.getsid(0)


def test_output_of_both_kinds_is_added_to_the_log(tmp_path: Path) -> None:
    for word in ("one", "two"):
        code = f"import sys, os; print('{word}', flush=True); print('e{word}', file=sys.stderr); print(os.getcwd())"
        processes.begin([sys.executable, "-c", code], log=tmp_path / "log", directory=tmp_path).wait()
    assert (tmp_path / "log").read_text().split() == ["one", "eone", str(tmp_path), "two", "etwo", str(tmp_path)]


@pytest.mark.skipif(shutil.which("ps") is None, reason="there is no ps here")
def test_without_proc_ps_is_asked(sleeper: subprocess.Popen[bytes]) -> None:
    found = processes.ask_ps(sleeper.pid)
    assert found is not None
    assert abs(found[0] - time.time()) < 30
    assert found[1] is False
    sleeper.kill()
    sleeper.wait()
    assert processes.ask_ps(sleeper.pid) is None
