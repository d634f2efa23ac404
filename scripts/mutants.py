"""Plant faults one at a time and report which the tests of their own room do not see.

    scripts/mutants                      # 150 faults, spread evenly over the rooms, seed 0; goes on where it stopped
    scripts/mutants --sample 60 --seed 1 --room stages
    scripts/mutants --only 'losses.py value_loss: sign'   # every fault whose name contains this

A fault is caught if a test of its room fails, errs or does not end. Only the tests that run the faulty code are tried,
the fastest first, and only until the first fails: what each test runs is recorded once and kept. A child is forked for
every fault from a process that has imported torch and its like but nothing of ours; it is given the faulty text when
it imports the file, so that the working tree is never changed.

Everything is kept in `.mutants/`. A fault that was caught stays caught while its file and the test that caught it are
as they were; one that was not is tried again as soon as a test of its room or its file has changed.

`scripts/mutants.toml` lists the faults that change nothing which a test could or should see, each with the reason. Why
not a tool that exists: mutmut 3 leaves out decorated functions, samples nothing and knows no rooms; cosmic-ray starts
every test of the suite anew for each fault; neither knows faults such as a mask ignored or a key left to its default.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from faults import Fault, Index, faults

ROOMS: Mapping[str, Sequence[str]] = {
    "objectives": ("objectives",),
    "stages": ("stages",),
    "evals": ("evals",),
    "rewards": ("rewards",),
    "rollout": ("rollout",),
    "lm": ("lm",),
}
"""The rooms that must bite, and the folders of `tests` that are their own."""

BAR = 0.95

_PREPARED = (
    *("torch", "torch._dynamo", "transformers", "transformers.modeling_utils", "transformers.models.llama"),
    *("numpy", "scipy.stats", "scipy.optimize", "pydantic", "rich.console", "matplotlib.figure", "safetensors.torch"),
    *("hypothesis", "tokenizers", "tomli_w", "torch.utils.checkpoint", "matplotlib.backends.backend_svg"),
)
"""What takes long to import and is the same for every fault."""
_WARNED = ("-W", "ignore::pytest.PytestAssertRewriteWarning")  # of hypothesis, which is imported already


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A project: its package and its tests, and where what was found is kept."""

    root: Path
    package: Path
    kept: Path
    rooms: Mapping[str, Sequence[str]]

    def files(self, room: str) -> list[Path]:
        """Source of a room."""
        return sorted((self.package / room).rglob("*.py"))

    def tests(self, room: str) -> list[Path]:
        """Test files of a room."""
        folders = [self.root / "tests" / name for name in self.rooms[room]]
        return sorted(path for folder in folders for path in folder.rglob("test_*.py"))

    def faults(self, room: str) -> list[Fault]:
        """Every fault that can be planted in a room."""
        rooms = [path for name in self.rooms for path in self.files(name)]
        index = Index.of(self.package.glob("recipe/*.py"), rooms)
        files = {path.relative_to(self.package).as_posix(): path for path in self.files(room)}
        return [fault for name, path in files.items() for fault in faults(path.read_text("utf-8"), name, index)]

    def sample(self, room: str, size: int, seed: int) -> list[Fault]:
        """A seeded random sample: the same while the faults are, whatever else changes; a larger one begins with it."""
        return sorted(self.faults(room), key=lambda fault: random.Random(f"{seed} {fault.id}").random())[:size]


def digest(paths: Iterable[Path]) -> str:
    """Of files' contents."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


# ---- one test process


class Watch:
    """A pytest plugin: stops what hangs, and says what failed."""

    def __init__(self, limits: Mapping[str, float]) -> None:
        self.limits, self.failed = limits, ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Death by a signal to a test that computes, or only waits, many times as long as it did."""
        limit = self.limits.get(item.nodeid, 600.0)
        signal.setitimer(signal.ITIMER_PROF, limit)
        signal.setitimer(signal.ITIMER_REAL, 20 * limit)  # the machine may have other things to do
        try:
            return (yield)
        finally:
            for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
                signal.setitimer(timer, 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the name of the first that fails."""
        if report.failed and not self.failed:
            self.failed = report.nodeid


class Recorder:
    """A pytest plugin: the lines of the package that each test runs.

    What a fixture of more than one test runs counts for every test that uses it. Caches are emptied after each test, so
    that the next one runs what it needs itself.
    """

    def __init__(self, package: Path, names: Sequence[str]) -> None:
        self.package, self.names = str(package) + os.sep, tuple(names)
        self.lines: set[tuple[str, int]] = set()
        self.codes: dict[CodeType, set[tuple[str, int]]] = {}
        self.shared: dict[Any, set[tuple[str, int]]] = {}
        self.tests: dict[str, dict[str, Any]] = {}

    def trace(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        """Of every call; what is not in the package is not followed."""
        code = frame.f_code
        if not code.co_filename.startswith(self.package):
            return None
        name = code.co_filename[len(self.package) :]
        if code not in self.codes:
            self.codes[code] = {(name, line) for _, _, line in code.co_lines() if line}
        if self.codes[code] <= self.lines:
            return None  # nothing new to see

        def line(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
            self.lines.add((name, frame.f_lineno))
            return line

        return line(frame, event, argument)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, object, object]:
        """Lines of a shared fixture apart."""
        if fixturedef.scope == "function":
            return (yield)
        outer, self.lines = self.lines, self.shared.setdefault(fixturedef, set())
        try:
            return (yield)
        finally:
            self.lines = outer

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Generator[None, object, object]:
        """One test alone."""
        self.lines, began = set(), time.process_time()
        sys.settrace(self.trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            seconds = time.process_time() - began
            used = [each for same in item._fixtureinfo.name2fixturedefs.values() for each in same]
            lines = self.lines.union(*(self.shared.get(each, ()) for each in used))
            by_file = defaultdict(list)
            for name, number in sorted(lines):
                by_file[name].append(number)
            self.tests[item.nodeid] = {"seconds": seconds, "lines": by_file}
            for module in [each for name, each in sys.modules.items() if name.split(".")[0] in self.names]:
                for value in list(vars(module).values()):
                    with suppress(AttributeError, TypeError):
                        value.cache_clear()


def forked(work: Callable[[], object], log: Path) -> tuple[int, Any]:
    """Run in a child with a session of its own: the signal that ended it (0 if none), and what the work returned."""
    answer = log.with_suffix(".json")
    answer.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        code = 1
        try:
            os.setsid()
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(out, stream)
            answer.write_text(json.dumps(work()), encoding="utf-8")
            code = 0
        except Exception:
            answer.write_text(json.dumps({"broken": traceback.format_exc()}), encoding="utf-8")
        finally:
            with suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    try:
        _, status = os.waitpid(child, 0)
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)  # what it started, or itself after an interrupt
    result = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else None
    if result is not None and "broken" in result:  # not by a fault: pytest lets nothing out that a test raises
        sys.exit(result["broken"])
    return (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0), result


def run_pytest(place: Place, source: Path, arguments: Sequence[str], plugin: object) -> int:
    """The exit status of pytest; programs that the tests start find the package in the folder ``source``."""
    os.chdir(place.root)
    os.environ["PYTHONPATH"] = str(source)
    sys.path[:0] = [str(place.package.parent), str(place.root)]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        fixed = ("-q", "-p", "no:cacheprovider", "--tb=short", *_WARNED, f"--basetemp={folder}/tests")
        return int(pytest.main([*fixed, "--rootdir", str(place.root), *arguments], plugins=[plugin]))


# ---- what each test runs


class Coverage:
    """What the tests of each room run, recorded anew for a test file when it or anything it runs has changed."""

    def __init__(self, place: Place) -> None:
        self.place = place

    @cache  # noqa: B019 - lives as long as the program
    def of(self, room: str) -> dict[str, dict[str, Any]]:
        """Tests of a room: seconds, and lines by file."""
        tests: dict[str, dict[str, Any]] = {}
        for path in self.place.tests(room):
            tests |= self._of_file(path)
        return tests

    def _of_file(self, path: Path) -> dict[str, dict[str, Any]]:
        name = path.relative_to(self.place.root).as_posix()
        kept = self.place.kept / "coverage" / f"{name.replace('/', '-')}.json"
        if kept.exists() and (known := json.loads(kept.read_text("utf-8")))["key"] == self._key(path, known["tests"]):
            return dict(known["tests"])
        print(f"recording what {name} runs", flush=True)
        log = self.place.kept / f"recording-{os.getpid()}.log"

        def work() -> dict[str, Any]:
            recorder = Recorder(self.place.package, (self.place.package.name, "tests"))
            code = run_pytest(self.place, self.place.package.parent, [name], recorder)
            return {"code": code, "tests": recorder.tests}

        ended_by, found = forked(work, log)
        if ended_by or found is None or found["code"] not in (0, 5):
            sys.exit(f"{name} fails without any fault: see {log}")
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"key": self._key(path, found["tests"]), **found}), encoding="utf-8")
        return dict(found["tests"])

    def _key(self, path: Path, tests: Mapping[str, Mapping[str, Any]]) -> str:
        """Of a test file, all fixtures, and the source that its tests run."""
        run = sorted({self.place.package / file for each in tests.values() for file in each["lines"]})
        fixtures = sorted(self.place.root.glob("tests/**/conftest.py"))
        return digest(file for file in [path, *fixtures, *run] if file.exists())

    def tests(self, fault: Fault, room: str) -> dict[str, float]:
        """The tests that run a fault, the fastest first, and what they take."""
        tests = self.of(room)

        def within(first: int, last: int) -> dict[str, float]:
            return {
                test: each["seconds"]
                for test, each in tests.items()
                if any(first <= line <= last for line in each["lines"].get(fault.file, ()))
            }

        found = within(*fault.lines)
        if fault.on_import:  # whoever runs anything of the file; where nothing of it is run, the whole room
            found = within(1, sys.maxsize) or {test: each["seconds"] for test, each in tests.items()}
        return dict(sorted(found.items(), key=lambda item: item[1]))


# ---- one fault


class Planted(SourceFileLoader):
    """Gives Python the faulty text in place of one file's; all others are read, and kept compiled, as they are."""

    def __init__(self, place: Place, fault: Fault) -> None:
        path = place.package / fault.file
        parts = path.relative_to(place.package.parent).with_suffix("").parts
        super().__init__(".".join(parts[:-1] if parts[-1] == "__init__" else parts), str(path))
        self.text = fault.planted(path.read_text(encoding="utf-8"))

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        """Only of the faulty module."""
        return spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> CodeType:
        """Never from a cache."""
        return compile(self.text, self.path, "exec", dont_inherit=True)


def shadow(place: Place, planted: Planted, folder: Path) -> None:
    """The package in a folder, for programs that the tests start: all links but for the faulty file."""
    copied, skip = folder / place.package.name, shutil.ignore_patterns("__pycache__")
    shutil.copytree(place.package, copied, copy_function=os.symlink, ignore=skip)
    file = copied / Path(planted.path).relative_to(place.package)
    file.unlink()
    file.write_text(planted.text, encoding="utf-8")


def tried(place: Place, fault: Fault, tests: Mapping[str, float], patience: float) -> dict[str, Any]:
    """The verdict on one fault: `caught`, `timeout`, `survived`, or `unreached` if no test runs it."""
    began = time.perf_counter()
    if not tests:
        return {"verdict": "unreached", "test": "", "seconds": 0.0}
    limits = {test: patience + 10 * seconds for test, seconds in tests.items()}
    with tempfile.TemporaryDirectory(prefix="shadow-") as folder:
        planted = Planted(place, fault)
        shadow(place, planted, Path(folder))

        def work() -> dict[str, Any]:
            sys.meta_path.insert(0, planted)
            watch = Watch(limits)
            return {"code": run_pytest(place, Path(folder), ["-x", *tests], watch), "test": watch.failed}

        ended_by, result = forked(work, place.kept / f"fault-{os.getpid()}.log")
    verdict, test = "caught", ""
    if ended_by in (signal.SIGPROF, signal.SIGALRM):
        verdict = "timeout"
    elif result is not None:
        verdict, test = ("caught" if result["code"] else "survived"), result["test"]
    return {"verdict": verdict, "test": test, "seconds": round(time.perf_counter() - began, 1)}


class Results:
    """A line for every verdict; the last on a fault counts."""

    def __init__(self, place: Place) -> None:
        self.place, self.path = place, place.kept / "results.jsonl"
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self.known: dict[str, dict[str, Any]] = {line["id"]: line for line in map(json.loads, lines)}

    def keys(self, fault: Fault, room: str, test: str) -> tuple[str, str]:
        """Of the faulty file, and of what was tried on it: the test that caught it, or all of its room's."""
        file = self.place.root / test.split("::")[0] if test else None
        tests = [file] if file and file.is_file() else self.place.tests(room)
        return digest([self.place.package / fault.file]), digest(tests)

    def of(self, fault: Fault, room: str) -> dict[str, Any] | None:
        """What is known and still holds."""
        known = self.known.get(fault.id)
        if known and tuple(known["keys"]) == self.keys(fault, room, known["test"]):
            return known
        return None

    def add(self, fault: Fault, room: str, result: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a verdict."""
        line = {"id": fault.id, "room": room, "line": fault.line, **result}
        line["keys"] = list(self.keys(fault, room, line["test"]))
        self.known[fault.id] = line
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        return line


# ---- all of them


def equivalents(path: Path) -> dict[str, str]:
    """Faults that change nothing, and why."""
    if not path.exists():
        return {}
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["equivalent"]
    assert all(entry["reason"].strip() for entry in entries), "every equivalent fault needs a reason"
    return {entry["fault"]: entry["reason"] for entry in entries}


def report(found: Sequence[tuple[str, Mapping[str, Any]]], reasons: Mapping[str, str]) -> tuple[str, bool]:
    """A table by room, then what survived; and whether the bar is reached."""
    lines = [
        "| room | faults | caught | of them by time | survived | of them equivalent |",
        "|---|---|---|---|---|---|",
    ]
    survivors = [(room, each) for room, each in found if each["verdict"] in ("survived", "unreached")]
    for name in [*dict.fromkeys(room for room, _ in found), "all"]:
        mine = Counter(each["verdict"] for room, each in found if name in (room, "all"))
        left = [each for room, each in survivors if name in (room, "all")]
        caught = mine["caught"] + mine["timeout"]
        share = f"{caught} ({caught / mine.total():.1%})"
        equivalent = sum(each["id"] in reasons for each in left)
        lines.append(f"| {name} | {mine.total()} | {share} | {mine['timeout']} | {len(left)} | {equivalent} |")
    for _, each in sorted(survivors, key=lambda item: (item[1]["id"] in reasons, item[1]["id"])):
        verdict = f"equivalent: {reasons[each['id']]}" if each["id"] in reasons else each["verdict"].upper()
        lines.append(f"\n- line {each['line']} of {each['id']}\n  {verdict}")
    reached = len(found) - len(survivors) >= BAR * len(found) and all(each["id"] in reasons for _, each in survivors)
    return "\n".join(lines), reached


def prepare() -> None:
    """Import what is the same for every fault, on one thread, so that a child may be forked."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # nobody in these rooms needs one, and they take long
    for name in _PREPARED:
        with suppress(ImportError):
            importlib.import_module(name)


def main(arguments: Sequence[str], place: Place) -> int:
    """Status 0 if the bar is reached and every survivor is explained."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--sample", type=int, default=150, help="how many faults, spread evenly over the rooms")
    parser.add_argument("--seed", type=int, default=0, help="which")
    parser.add_argument("--room", action="append", choices=list(place.rooms), help="these rooms only")
    parser.add_argument("--only", help="every fault whose name contains this, instead of a sample")
    parser.add_argument(
        "--patience", type=float, default=30, help="seconds that a test may compute, and ten times its own"
    )
    parser.add_argument("--list", action="store_true", help="name the faults and plant none")
    args = parser.parse_args(arguments)
    rooms = args.room or list(place.rooms)
    if args.only:
        chosen = [(room, fault) for room in rooms for fault in place.faults(room) if args.only in fault.id]
    else:
        each = -(-args.sample // len(rooms))
        chosen = [(room, fault) for room in rooms for fault in place.sample(room, each, args.seed)]
    if args.list:
        print("\n".join(f"{fault.line:4} {fault.id}" for _, fault in chosen))
        return 0
    reasons = equivalents(place.root / "scripts" / "mutants.toml")
    place.kept.mkdir(parents=True, exist_ok=True)
    results, coverage, found = Results(place), Coverage(place), []
    for number, (room, fault) in enumerate(chosen, 1):
        result = results.of(fault, room)
        if result is None:
            result = results.add(fault, room, tried(place, fault, coverage.tests(fault, room), args.patience))
            print(f"{number} of {len(chosen)}  {result['verdict']:9} {result['seconds']:6} s  {fault.id}", flush=True)
        found.append((room, result))
    text, reached = report(found, reasons)
    there = {fault.id for room in place.rooms for fault in place.faults(room)}
    text += "".join(
        f"\n\nmutants.toml names what is no longer there: {fault}" for fault in reasons if fault not in there
    )
    (place.kept / "report.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return not reached


if __name__ == "__main__":
    prepare()
    _ROOT = Path(__file__).resolve().parent.parent
    _PLACE = Place(root=_ROOT, package=_ROOT / "src" / "palate", kept=_ROOT / ".mutants", rooms=ROOMS)
    sys.exit(main(sys.argv[1:], _PLACE))
