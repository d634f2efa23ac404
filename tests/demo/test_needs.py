"""Is there room? Limits are faked: a file system with /proc and control groups, and disks of any size."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from palate import cli
from palate.demo import needs
from palate.demo.needs import NEEDS, Needs, check, check_installation
from palate.errors import MachineError
from palate.machine import available_memory

GB = 10**9
NEEDED = Needs(disk=3 * GB, model=GB, memory=5 * GB)
UNLIMITED = 9223372036854771712  # what version 1 says where nothing was set

Usage = namedtuple("Usage", "total used free")


def machine(root: Path, files: dict[str, object], *, available: int = 8 * GB, swap: int = 0, groups: str = "") -> Path:
    """A file system that says this of its memory."""
    text = f"MemTotal: 99999999 kB\nMemAvailable:    {available // 1000} kB\nSwapFree: {swap // 1000} kB\n"
    for name, content in {"proc/meminfo": text, "proc/self/cgroup": groups, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(str(content))
    return root


def v1(group: str, limit: int, usage: int, **more: int) -> dict[str, object]:
    place = f"sys/fs/cgroup/memory{group}/memory"
    stat = "\n".join(f"{name} {value}" for name, value in more.items() if not name.startswith("memsw"))
    files = {f"{place}.limit_in_bytes": limit, f"{place}.usage_in_bytes": usage, f"{place}.stat": stat}
    if "memsw_limit" in more:
        files |= {f"{place}.memsw.{name}_in_bytes": more[f"memsw_{name}"] for name in ("limit", "usage")}
    return files  # type: ignore[return-value]


def v2(group: str, limit: object, usage: int, **more: object) -> dict[str, object]:
    place = f"sys/fs/cgroup{group}/memory"
    stat = "\n".join(f"{name} {value}" for name, value in more.items() if not name.startswith("swap"))
    files = {f"{place}.max": limit, f"{place}.current": usage, f"{place}.stat": stat}
    if "swap_max" in more:
        files |= {f"{place}.swap.max": more["swap_max"], f"{place}.swap.current": more["swap_current"]}
    return files


KB = 1024 / 1000
"""/proc counts in units of 1,024 bytes; the machine above was given thousands."""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({}, 8 * GB * KB, id="no group"),
        pytest.param({"swap": 2 * GB}, 10 * GB * KB, id="swap counts"),
        pytest.param({"groups": "4:memory:/", "files": v1("", UNLIMITED, GB)}, 8 * GB * KB, id="1: unlimited"),
        pytest.param(
            {
                "groups": "9:pids:/x\n4:memory:/x",
                "files": v1("/x", 4 * GB, 3 * GB, active_file=7, total_active_file=GB, total_inactive_file=500_000_000),
            },
            2.5 * GB,
            id="1: a limit, and files that are given up",
        ),
        pytest.param(
            {"groups": "4:memory:/docker/5af", "files": v1("", 4 * GB, 3 * GB)}, GB, id="1: inside, named as outside"
        ),
        pytest.param(
            {"groups": "4:cpu,memory:/a/b", "files": v1("/a", 4 * GB, 3 * GB) | v1("/a/b", UNLIMITED, GB)},
            GB,
            id="1: the limit of the group above",
        ),
        pytest.param(
            {"groups": "4:memory:/", "swap": GB, "files": v1("", 2 * GB, GB)}, GB + GB * KB, id="1: swap is not limited"
        ),
        pytest.param(
            {
                "groups": "4:memory:/",
                "swap": GB,
                "files": v1("", 2 * GB, GB, memsw_limit=2 * GB, memsw_usage=GB),
            },
            GB,
            id="1: no swap allowed",
        ),
        pytest.param({"groups": "0::/", "files": {}}, 8 * GB * KB, id="2: the root, which has no limit"),
        pytest.param({"groups": "0::/a", "files": v2("/a", "max", GB)}, 8 * GB * KB, id="2: max"),
        pytest.param(
            {"groups": "0::/a", "files": v2("/a", 4 * GB, 3 * GB, active_file=GB, inactive_file=500_000_000)},
            2.5 * GB,
            id="2: a limit, and files that are given up",
        ),
        pytest.param(
            {"groups": "0::/a/b", "files": v2("/a", 4 * GB, 3 * GB) | v2("/a/b", "max", GB), "swap": 0},
            GB,
            id="2: the limit of the group above",
        ),
        pytest.param(
            {"groups": "0::/", "swap": 3 * GB, "files": v2("", 2 * GB, GB, swap_max=GB, swap_current=400_000_000)},
            1.6 * GB,
            id="2: some swap allowed",
        ),
        pytest.param(
            {"groups": "0::/", "swap": GB, "files": v2("", 2 * GB, GB, swap_max="max", swap_current=0)},
            GB + GB * KB,
            id="2: all the swap there is",
        ),
        pytest.param({"groups": "4:memory:/\n0::/", "files": v1("", 4 * GB, GB)}, 3 * GB, id="1 and 2 side by side"),
    ],
)
def test_memory_that_can_be_had(given: dict[str, object], expected: float, tmp_path: Path) -> None:
    files: dict[str, object] = given.pop("files", {})  # type: ignore[assignment]
    assert available_memory(machine(tmp_path, files, **given)) == pytest.approx(expected, rel=1e-6)  # type: ignore[arg-type]


def test_where_nothing_is_said_nothing_is_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_memory(tmp_path) is None  # macOS
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 5 kB\n")  # a Linux of before 2014
    assert available_memory(tmp_path) is None
    monkeypatch.setattr(needs, "available_memory", lambda: None)
    check(Needs(disk=1, model=1, memory=10**18), tmp_path, tmp_path)


def test_this_machine_has_some_memory() -> None:
    found = available_memory()
    assert (found is None) == (sys.platform != "linux")
    assert found is None or 10**7 < found < 10**15


@pytest.fixture
def disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say how much is free; directories of tmp_path whose name is given lie on disks of their own."""
    real = Path.stat

    def put(free: int, **others: int) -> None:
        def name(path: object) -> str:
            found = Path(os.fspath(path)).relative_to(tmp_path).parts[:1]  # type: ignore[call-overload]
            return found[0] if found and found[0] in others else ""

        def stat(self: Path, **options: bool) -> os.stat_result:
            values = list(real(self, **options))
            if self.is_relative_to(tmp_path):
                values[2] = 1000 + sorted(["", *others]).index(name(self))
            return os.stat_result(values)

        for other in others:
            (tmp_path / other).mkdir(exist_ok=True)
        monkeypatch.setattr(Path, "stat", stat)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, others.get(name(path), free)))

    monkeypatch.setattr(needs, "available_memory", lambda: 5 * GB)
    return put


def refused(call: Callable[[], None]) -> str:
    with pytest.raises(MachineError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_disk_that_is_too_small(tmp_path: Path, disks: Callable[..., None]) -> None:
    out, model = tmp_path / "runs" / "demo", tmp_path / "cache" / "smollm2"
    disks(4 * GB)
    check(NEEDED, out, model)
    disks(4 * GB - 1)
    message = refused(lambda: check(NEEDED, out, model))
    assert "needs 4.0 GB on the disk of" in message
    assert "4.0 GB are free" in message
    assert "--out" in message
    assert "PALATE_CACHE" in message
    assert list(tmp_path.iterdir()) == []  # nothing half-made


def test_every_disk_is_asked_for_what_lies_on_it(tmp_path: Path, disks: Callable[..., None]) -> None:
    out, model = tmp_path / "runs", tmp_path / "cache" / "model"
    disks(0, runs=3 * GB, cache=GB)
    check(NEEDED, out, model)
    disks(0, runs=3 * GB, cache=GB - 1)
    assert f"needs 1.0 GB on the disk of {tmp_path / 'cache'}" in refused(lambda: check(NEEDED, out, model))
    disks(0, runs=3 * GB - 1, cache=GB)
    assert f"needs 3.0 GB on the disk of {tmp_path / 'runs'}" in refused(lambda: check(NEEDED, out, model))


def test_what_is_there_already_needs_no_room(tmp_path: Path, disks: Callable[..., None]) -> None:
    out, model = tmp_path / "runs", tmp_path / "model"
    model.mkdir()
    disks(3 * GB)
    check(NEEDED, out, model)
    (out / "sft").mkdir(parents=True)
    (out / "sft" / "model.safetensors").write_bytes(bytes(1_000_000))
    disks(3 * GB - 1_000_000)
    check(NEEDED, out, model)
    disks(3 * GB - 1_000_001)
    refused(lambda: check(NEEDED, out, model))
    disks(0)
    (out / "report.json").write_text("{}")  # a finished demonstration is shown again
    check(NEEDED, out, model)


def test_memory_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Needs(disk=1, model=1, memory=NEEDS["quick"].memory + 1)
    monkeypatch.setattr(needs, "available_memory", lambda: small.memory)
    check(small, tmp_path, tmp_path)
    monkeypatch.setattr(needs, "available_memory", lambda: small.memory - 1)
    message = refused(lambda: check(small, tmp_path, tmp_path))
    assert "of memory" in message
    assert "quick" in message
    quick = Needs(disk=1, model=1, memory=NEEDS["quick"].memory)
    monkeypatch.setattr(needs, "available_memory", lambda: quick.memory - 1)
    assert "quick" not in refused(lambda: check(quick, tmp_path, tmp_path))  # it would not fit either


def test_the_command_ends_with_a_line_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(needs, "available_memory", lambda: 1_234_000_000)
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))
    assert cli.main(["demo", "--out", str(tmp_path / "runs"), "--scale", "quick"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("palate: the demonstration needs ")
    assert "1.2 GB are available here" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    message = refused(lambda: check(NEEDS["tiny"], tmp_path / "runs", tmp_path / "cache" / "palate" / "tiny"))
    assert message == f"{tmp_path / 'cache'} cannot be written to: name another directory with PALATE_CACHE"
    message = refused(lambda: check(NEEDS["tiny"], tmp_path / "cache" / "runs", tmp_path / "model"))
    assert message.endswith("with --out")


def test_the_installation_is_asked_for_with_what_pip_keeps(
    tmp_path: Path, disks: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = tmp_path / "project" / ".venv"
    monkeypatch.setattr(needs.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(needs, "available_memory", lambda: 10 * GB)
    for cuda, packages in ((True, needs.WITH_CUDA), (False, needs.PLAIN)):
        monkeypatch.setattr(needs, "_brings_cuda", lambda cuda=cuda: cuda)
        enough = packages.installed + 2 * packages.wheels
        disks(enough)
        check_installation(environment)
        disks(enough - 1)
        assert ("without CUDA" in refused(lambda: check_installation(environment))) == cuda
        later = enough + NEEDS["full"].disk + NEEDS["full"].model
        disks(later - 1)
        refused(lambda: check_installation(environment, "full"))
        disks(later)
        check_installation(environment, "full")
        monkeypatch.setattr(needs, "available_memory", lambda: GB)
        assert "of memory" in refused(lambda: check_installation(environment, "full"))
        monkeypatch.setattr(needs, "available_memory", lambda: 10 * GB)
        disks(enough - packages.wheels, home=packages.wheels)
        check_installation(environment)
        disks(enough - packages.wheels, home=packages.wheels - 1)
        refused(lambda: check_installation(environment))
        shutil.rmtree(tmp_path / "home")


def test_the_installation_is_asked_for_by_a_python_that_has_nothing(tmp_path: Path) -> None:
    """As the Makefile does; `-S` takes every installed package away."""
    source = Path(needs.__file__).parents[2]
    command = [sys.executable, "-S", "-B", "-m", "palate.demo.needs", str(tmp_path / ".venv"), "full"]
    environment = os.environ | {"PYTHONPATH": str(source)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        assert done.returncode == 2
        assert done.stderr.startswith("palate: the ")
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
