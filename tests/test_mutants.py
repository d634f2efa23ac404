"""The planter of faults finds the holes of a toy's tests, exactly those, and goes on where it stopped."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"

SOURCE = '''"""A toy."""


def total(numbers, start=0):
    """Their sum."""
    return sum(numbers) + start


def larger(a: int, b: int) -> int:
    """The larger."""
    return a if a > b else b


def count(numbers):
    """How many are above zero."""
    found = 0
    for number in numbers:
        if number > 0:
            found += 1
    return found


def forgotten(x):
    """Nobody asks for it."""
    return -x
'''

TESTS = """
import pytest
from toy.room import sums

@pytest.fixture(scope="session")
def counted():
    return sums.count([1, -1, 2, 4])

def test_total():
    assert sums.total([1, 2]) == 3

@pytest.mark.parametrize(("a", "b"), [(1, 2), (2, 1)])
def test_larger(a, b):
    assert sums.larger(a, b) == 2

def test_counted(counted):
    assert isinstance(counted, int)

def test_count(counted):
    assert counted == 3
"""

HOLES = {
    "total: operator: sum(numbers) + start → (sum(numbers) - start)",
    "total: parameter ignored: start → 0",
    "larger: comparison: a > b → (a >= b)",
    "count: comparison: number > 0 → (number >= 0)",
    "forgotten: sign: -x → x",
}


class Toy:
    """A package with one room and its tests."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("src/toy/__init__.py", "")
        self.write("src/toy/room/__init__.py", "")
        self.write("src/toy/room/sums.py", SOURCE)
        self.write("tests/room/test_sums.py", TESTS)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def run(self, *arguments: str) -> tuple[int, str, dict[str, dict[str, Any]]]:
        """Status, what was printed, and the last verdict on each fault."""
        code = f"""if True:
            import sys
            from pathlib import Path
            sys.path.insert(0, {str(SCRIPTS)!r})
            from mutants import Place, main
            root = Path({str(self.root)!r})
            rooms = {{"room": ("room",)}}
            place = Place(root=root, package=root / "src" / "toy", kept=root / ".mutants", rooms=rooms)
            sys.exit(main(sys.argv[1:], place))
        """
        command = [sys.executable, "-c", code, *arguments]
        environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # as `prepare` says
        ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert not ran.stderr, ran.stderr
        lines = (self.root / ".mutants" / "results.jsonl").read_text(encoding="utf-8").splitlines()
        return ran.returncode, ran.stdout, {each["id"]: each for each in map(json.loads, lines)}


def survivors(results: dict[str, dict[str, Any]]) -> set[str]:
    return {
        name.removeprefix("room/sums.py ")
        for name, each in results.items()
        if each["verdict"] in ("survived", "unreached")
    }


def test_finds_the_holes_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    few = toy.run("--sample", "4")[2]
    assert len(few) == 4
    status, printed, results = toy.run("--sample", "1000")
    assert status == 1
    assert few.keys() < results.keys()
    assert survivors(results) == HOLES
    assert results["room/sums.py forgotten: sign: -x → x"]["verdict"] == "unreached"
    assert f"{len(results) - 5} ({1 - 5 / len(results):.1%})" in printed
    lines = (tmp_path / ".mutants" / "results.jsonl").read_text().splitlines()
    assert len(lines) == len(results), "what was known was tried again"
    assert (tmp_path / "src" / "toy" / "room" / "sums.py").read_text() == SOURCE

    better = "\n\ndef test_start():\n    assert sums.total([1], 2) == 3\n    assert sums.forgotten(1) == -1\n"
    toy.write("tests/room/test_sums.py", TESTS + better + "    assert sums.count([0]) == 0\n")
    toy.write(
        "scripts/mutants.toml",
        '[[equivalent]]\nfault = "room/sums.py larger: comparison: a > b → (a >= b)"\nreason = "either is the larger"\n'
        '[[equivalent]]\nfault = "room/sums.py gone: sign: -x → x"\nreason = "was so"\n',
    )
    status, printed, results = toy.run("--sample", "1000")
    assert survivors(results) == {"larger: comparison: a > b → (a >= b)"}
    assert status == 0
    assert "equivalent: either is the larger" in printed
    assert "mutants.toml names what is no longer there: room/sums.py gone: sign: -x → x" in printed


def test_what_never_ends_and_what_kills_the_process_is_caught(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    body = "    while n > 0:\n        n -= 1\n    if n > 0:\n        os._exit(0)\n    return n\n"
    toy.write("src/toy/room/sums.py", f"import os\n\n\ndef f(n):\n{body}")
    toy.write("tests/room/test_sums.py", "from toy.room.sums import f\n\n\ndef test_f():\n    assert f(2) == 0\n")
    _, _, results = toy.run("--only", "f: ", "--patience", "1")
    verdicts = {name.removeprefix("room/sums.py f: "): each["verdict"] for name, each in results.items()}
    assert verdicts["statement removed: n -= 1"] == "timeout"
    assert verdicts["condition: n > 0 → True"] == "caught"


@pytest.fixture(scope="module")
def found() -> dict[str, list[str]]:
    """What can be planted in some lines, by kind."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        from faults import Index, faults
    finally:
        sys.path.remove(str(SCRIPTS))
    source = '''"""A docstring of 3 words."""

from __future__ import annotations

__all__ = ["f"]
Number = int | None


@torch.no_grad()
def f(logprobs: Tensor, ref_logprobs: Tensor, mask, *, gamma: float = 1.0) -> Tensor:
    """Not 1 word."""
    if not mask.any():
        raise ValueError(f"nothing in {len(mask) + 1}")
    assert gamma > 0
    kept = torch.where(mask, logprobs - ref_logprobs, 0.0)
    kept = kept.detach()[1:]
    for _ in range(recipe.epochs):
        loss = g(kept, gamma=gamma * recipe.gamma, strict=True)
    return loss * max(1, kept.mean()) / 2
'''
    kinds: dict[str, list[str]] = {}
    for fault in faults(source, "room/f.py", Index(defaults={"epochs": "1", "gamma": "1.0"})):
        planted = fault.planted(source)
        ast.parse(planted)
        assert planted != source
        kind, _, what = fault.what.partition(": ")
        kinds.setdefault(kind, []).append(what)
    return kinds


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("mask ignored", "torch.where(mask, logprobs - ref_logprobs, 0.0) → (logprobs - ref_logprobs)"),
        ("mask turned", "mask → (~mask)"),
        ("operands swapped", "logprobs - ref_logprobs → (ref_logprobs - logprobs)"),
        ("wrong variable", "logprobs → ref_logprobs"),
        ("call dropped", "kept.detach() → kept"),
        ("bound dropped", "kept.detach()[1:] → kept.detach()[:]"),
        ("bound dropped", "max(1, kept.mean()) → 1"),
        ("key ignored", "recipe.gamma → 1.0"),
        ("parameter ignored", "gamma → 1.0"),
        ("keyword dropped", "gamma=gamma * recipe.gamma of g"),
        ("off by one", "recipe.epochs → (recipe.epochs - 1)"),
        ("function", "kept.mean() → kept.sum()"),
        ("sign", "loss * max(1, kept.mean()) / 2 → (-(loss * max(1, kept.mean()) / 2))"),
        ("condition", "not mask.any() → False"),
        ("decorator dropped", "torch.no_grad()"),
        ("statement removed", "kept = kept.detach()[1:]"),
    ],
)
def test_what_people_plant(found: dict[str, list[str]], kind: str, what: str) -> None:
    assert what in found[kind]


def test_what_is_wording_or_type_is_left_alone(found: dict[str, list[str]]) -> None:
    every = " ".join(what for kind in found.values() for what in kind)
    assert "int | None" not in every
    assert "len(mask)" not in every, "the text of an error"
    assert "gamma > 0" not in every, "an assertion"
    assert not any(what.startswith("strict") for what in found["keyword dropped"])
