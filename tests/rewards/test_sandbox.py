"""What code that nobody has read tries, and what becomes of it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from palate.errors import RewardError
from palate.records import Prompt
from palate.rewards.verifiers import sandbox
from palate.rewards.verifiers.sandbox import OUTPUT_BYTES, Sandbox
from palate.rewards.verifiers.unit_tests import code_of, verify_code

JAIL = Path(sandbox.__file__).with_name("jail.py")
SANDBOX = Sandbox(seconds=20.0, memory_mb=256)


def isolates() -> bool:
    try:
        return SANDBOX.run("pass", "pass").score == 1
    except RewardError:
        return False


isolated = pytest.mark.skipif(not isolates(), reason="this machine does not let a process cut itself off")


@isolated
@pytest.mark.parametrize(
    ("code", "tests", "score", "reason"),
    [
        ("def add(a, b):\n    return a + b", "assert add(1, 2) == 3", 1, "its tests passed"),
        (
            "def add(a, b):\n    return a - b",
            "\nassert add(1, 2) == 3, 'sum'",
            0,
            "the tests in line 2: AssertionError: sum",
        ),
        ("def add(a, b)", "pass", 0, "the response: SyntaxError: expected ':' (<response>, line 1)"),
        ("import json, decimal, re, random, threading, socket", "assert json and decimal", 1, "its tests passed"),
        ("open('a', 'w').write('b')", "assert open('a').read() == 'b'", 1, "its tests passed"),
    ],
)
def test_code_is_tested(code: str, tests: str, score: float, reason: str) -> None:
    verdict = SANDBOX.run(code, tests)
    assert (verdict.reason, verdict.score) == (reason, score)


SECRET = "palate-secret"
SPOKE = "import ctypes\nlibc = ctypes.CDLL(None)\n"


@isolated
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        pytest.param("open('$outside/secret').read()", "FileNotFoundError", id="reads a file outside"),
        pytest.param("open('/etc/passwd').read()", "FileNotFoundError", id="reads the users"),
        pytest.param("open('/proc/1/environ').read()", "FileNotFoundError", id="reads another's environment"),
        pytest.param("import os; os.listdir('$outside')", "FileNotFoundError", id="lists a directory outside"),
        pytest.param("open('$outside/written', 'w')", "FileNotFoundError", id="writes a file outside"),
        pytest.param("import os; open(os.__file__, 'a')", "(PermissionError|Read-only)", id="writes into the library"),
        pytest.param("import os; os.remove(os.__file__)", "(PermissionError|Read-only)", id="removes from the library"),
        pytest.param("import os; os.chroot('.')", "PermissionError", id="moves its root"),
        pytest.param(SPOKE + "assert libc.umount2(b'/lib', 2) == 0, 'no'", "AssertionError: no", id="unmounts"),
        pytest.param(SPOKE + "assert libc.unshare(0x10000000) == 0, 'no'", "AssertionError: no", id="becomes root"),
        pytest.param("import os; os.setuid(0)", "(PermissionError|OSError)", id="takes root's name"),
        pytest.param(
            "import socket; socket.create_connection(('1.1.1.1', 53), 2)", "Network is unreachable", id="calls out"
        ),
        pytest.param(
            "import socket; socket.create_connection(('127.0.0.1', $port), 2)",
            "Network is unreachable",
            id="calls a server here",
        ),
        pytest.param("import os; os.kill($pid, 0)", "ProcessLookupError", id="signals the one who asked"),
        pytest.param(
            # the parent alone, and not for ever: should the limit be missing, this machine must live
            "import os, time\nfor _ in range(64):\n if not os.fork(): time.sleep(9)",
            "BlockingIOError",
            id="starts many",
        ),
        pytest.param("bytearray(10 ** 10)", "MemoryError", id="takes all memory"),
        pytest.param(
            "x = []\nwhile True: x.append('x' * 10 ** 6 + str(len(x)))", "MemoryError", id="takes it by and by"
        ),
        pytest.param(
            "with open('f', 'wb') as f:\n while True: f.write(b'x' * 10 ** 6)", "OSError", id="fills the disk"
        ),
        pytest.param("while True: print('x' * 999)", f"wrote more than {OUTPUT_BYTES} bytes", id="never stops talking"),
        pytest.param("import os; os._exit(0)", r"ended before its tests did \(exit status 0\)", id="just ends"),
        pytest.param("import sys; sys.exit(0)", "SystemExit: 0", id="ends politely"),
        pytest.param("import os; os.fork() or os._exit(0)", "the tests", id="lets a copy go on"),
        pytest.param('import os, json; [os.write(fd, b\'["", ""]\') for fd in range(3, 9)]', "OSError", id="forges"),
        pytest.param(
            'import os\nfor fd in range(3, 9):\n try: os.write(fd, b\'["", ""]\')\n except OSError: pass\nos._exit(0)',
            "ended before its tests did",
            id="forges a verdict and ends",
        ),
        pytest.param("import os; assert os.environ.get('PALATE') is None, os.environ", "the tests", id="environment"),
    ],
)
def test_escapes(code: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE", SECRET)
    (tmp_path / "secret").write_text(SECRET, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = code.replace("$outside", str(tmp_path)).replace("$pid", str(os.getpid()))
        code = code.replace("$port", str(server.getsockname()[1]))
        verdict = SANDBOX.run(code, "assert False, 'reached'")
    assert verdict.score == 0
    assert re.search(reason, verdict.reason), verdict
    assert SECRET not in verdict.reason
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


@isolated
@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(99)"])
def test_an_endless_loop_ends(code: str) -> None:
    begun = time.monotonic()
    verdict = Sandbox(seconds=0.5, memory_mb=256).run(code, "pass")
    assert (verdict.score, verdict.reason) == (0, "still running after 0.5 s")
    assert time.monotonic() - begun < 15


@isolated
def test_what_is_left_running_ends_too(tmp_path: Path) -> None:
    """A process that has left its group and its parent is gone when the verdict is there."""
    name = f"left{os.getpid()}"
    code = (
        "import os, ctypes, time\nif not os.fork():\n os.setsid()\n"
        f" ctypes.CDLL(None).prctl(15, b'{name}')\n time.sleep(60)"
    )
    assert SANDBOX.run(code, "import time; time.sleep(0.3)").score == 1
    names = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            names.append(path.read_text().strip())
        except OSError:
            continue
    assert name not in names


@isolated
def test_code_ends_with_the_one_who_watches_it() -> None:
    """Although it is the first of its own processes, and has most of a minute left."""
    name = f"orphan{os.getpid()}"
    code = f"import ctypes, time\nctypes.CDLL(None).prctl(15, b'{name}')\ntime.sleep(50)"
    asked = {"code": code, "tests": "", "seconds": 50, "memory_mb": 256, "isolated": True, "output_bytes": 99}
    watcher = subprocess.Popen([sys.executable, "-S", str(JAIL)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert watcher.stdin is not None
    watcher.stdin.write(json.dumps(asked).encode())
    watcher.stdin.close()
    assert soon(lambda: name in running())
    watcher.kill()
    watcher.wait()
    assert soon(lambda: name not in running())


def running() -> list[str]:
    """Names of all processes."""
    names = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            names.append(path.read_text().strip())
    return names


def soon(holds: Callable[[], bool]) -> bool:
    """Whether it does within twenty seconds."""
    ends = time.monotonic() + 20
    while not holds() and time.monotonic() < ends:
        time.sleep(0.05)
    return holds()


def test_limits_alone_are_a_choice() -> None:
    limited = Sandbox(seconds=5.0, memory_mb=256, isolated=False)
    assert limited.run("x = 1", "assert x == 1").score == 1
    assert "MemoryError" in limited.run("bytearray(10 ** 10)", "pass").reason
    assert limited.run("import os; os._exit(0)", "pass").score == 0
    slow = Sandbox(seconds=0.5, memory_mb=256, isolated=False)
    assert slow.run("while True: pass", "pass").reason == "still running after 0.5 s"


def test_where_nothing_can_be_cut_off_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a system without the call: the jail's own way in is taken away."""
    jail = Path(sandbox.__file__).with_name("jail.py").read_text(encoding="utf-8")
    assert "_LIBC.unshare(" in jail
    (tmp_path / "jail.py").write_text(jail.replace("_LIBC.unshare(", "_LIBC.no_such_call("), encoding="utf-8")
    monkeypatch.setattr(sandbox, "_JAIL", tmp_path / "jail.py")
    with pytest.raises(RewardError, match=r'cannot be cut off .* nothing was run.* set isolation = "limits"'):
        Sandbox(seconds=5.0, memory_mb=256).run(f"open('{tmp_path / 'written'}', 'w')", "pass")
    assert not (tmp_path / "written").exists()
    assert Sandbox(seconds=5.0, memory_mb=256, isolated=False).run("x = 1", "pass").score == 1


def test_a_sandbox_that_fails_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jail.py").write_text("raise SystemExit('broken')", encoding="utf-8")
    monkeypatch.setattr(sandbox, "_JAIL", tmp_path / "jail.py")
    with pytest.raises(RewardError, match=r"the sandbox failed: .* broken"):
        SANDBOX.run("pass", "pass")


def test_the_code_of_a_response() -> None:
    assert code_of("First:\n```python\nx = 1\n```\nbetter:\n```py\nx = 2\n```\nDone.") == "x = 2\n"
    assert code_of("x = 3") == "x = 3"
    assert code_of("```\nx = 4") == "```\nx = 4"


@isolated
def test_responses_are_tested_by_their_own_prompts_tests() -> None:
    prompts = [Prompt.from_text(f"x is {n}", tags={"tests": f"assert x == {n}"}) for n in range(3)]
    verdicts = verify_code(prompts, ["```\nx = 0\n```", "x = 2", "  "], SANDBOX, tag="tests")
    assert [verdict.score for verdict in verdicts] == [1, 0, 0]
    assert verdicts[2].reason == "no code"
    with pytest.raises(RewardError, match="has no tag 'tests'"):
        verify_code([Prompt.from_text("x is 1")], ["x = 1"], SANDBOX, tag="tests")


def test_the_jail_imports_nothing_of_ours() -> None:
    """It runs without our packages, and with none that a response could have put into the working directory."""
    jail = Path(sandbox.__file__).with_name("jail.py")
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import runpy; runpy.run_path({str(jail)!r})"], check=False
    )
    assert ran.returncode == 0
