"""`palate engine`: what stands before vLLM's routes, its environment, and its process while it is watched.

The process is a stand-in of a few lines that needs no package; the real one is in `test_real_vllm.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palate.cli import main
from palate.errors import RunError
from palate.rollout.servers import vllm_command, vllm_guard, vllm_process, vllm_worker
from palate.rollout.servers.vllm_environment import PINNED, python_of, requirements
from palate.rollout.servers.vllm_process import ServerProcess, Serving

STAND_IN = """\
import http.server, json, os, sys
told = dict(zip(sys.argv[3::1], sys.argv[4::1]))
if os.environ.get("BROKEN"):
    print("ValueError: no such model")
    sys.exit(3)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps([os.getpid(), os.environ["PALATE_ENGINE_TOKEN"], sys.argv[1:]]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.HTTPServer.allow_reuse_port = True
http.server.HTTPServer((told["--host"], int(told["--port"])), Handler).serve_forever()
"""


@pytest.fixture
def held() -> Iterator[socket.socket]:
    """A port that is nobody else's while a test runs; the stand-in may listen there."""
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        free.bind(("127.0.0.1", 0))
        yield free


@pytest.fixture
def serving(held: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serving:
    monkeypatch.setattr(vllm_process, "LOOK_EVERY", 0.02)
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable} -SE\n{STAND_IN}")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return Serving(
        python=script,
        model="some/model",
        host="127.0.0.1",
        port=held.getsockname()[1],
        token="a-token-of-nobody-23",
        dtype="float32",
        max_length=512,
        num_slots=8,
        log=tmp_path / "engine.log",
    )


def test_a_server_is_started_again_when_it_dies_and_ends_with_us(serving: Serving) -> None:
    said: list[str] = []
    process = ServerProcess(serving, said.append)
    process.start()
    assert process.process is not None
    first = process.process.pid
    again = threading.Event()
    start = process.start

    def starts() -> None:
        start()
        again.set()
        raise KeyboardInterrupt  # as Ctrl-C would, while it is watched

    process.start = starts  # type: ignore[method-assign]
    os.kill(first, signal.SIGKILL)
    with pytest.raises(KeyboardInterrupt):
        process.watch()
    assert again.is_set()
    assert process.process.pid != first
    assert process.server.healthy()
    assert any("is started again" in line for line in said)
    process.end()
    assert not process.server.healthy()


def test_what_vllm_is_told(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token is in no argument; what processed log-probabilities, versions and weights need is there."""
    monkeypatch.setenv("PYTHONPATH", "/somewhere/of/ours")
    command, environment = serving.command(), serving.environment()
    assert not any(serving.token in word for word in command)
    assert environment[vllm_guard.VARIABLE] == serving.token
    assert environment["VLLM_SERVER_DEV_MODE"] == "1"
    assert environment["PYTHONPATH"] == str(Path(vllm_guard.__file__).parent)
    assert {"--enable-scale-out", "processed_logprobs", "vllm_guard.RequireToken"} <= {*command}
    module, _, kind = command[command.index("--worker-extension-cls") + 1].partition(".")
    assert Path(vllm_guard.__file__).with_name(f"{module}.py").exists()
    assert hasattr(getattr(vllm_worker, kind), vllm_worker.METHOD)


def test_a_server_that_cannot_start_says_why(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKEN", "1")
    with pytest.raises(RunError, match=r"status 3 while it started: ValueError: no such model"):
        ServerProcess(serving, print).start()


def test_a_port_that_is_taken(serving: Serving, held: socket.socket) -> None:
    held.listen()
    with pytest.raises(RunError, match=r"somebody listens at .* already: name another --port"):
        ServerProcess(serving, print).start()


@pytest.mark.parametrize(
    ("path", "told", "passes"),
    [
        ("/inference/v1/generate", b"Bearer right", True),
        ("/collective_rpc", b"Bearer right", True),
        ("/collective_rpc", b"Bearer wrong", False),
        ("/collective_rpc", b"", False),
        ("/weight_info", b"right", False),
        ("/health", b"", True),
        ("/health/../collective_rpc", b"", False),
    ],
)
def test_every_route_asks_for_the_token(path: str, told: bytes, passes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that vLLM guards itself and those that it does not; only that it lives is told to everybody."""
    monkeypatch.setenv(vllm_guard.VARIABLE, "right")
    assert passed(path, told) == passes


def test_a_guard_without_a_token_lets_nothing_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(vllm_guard.VARIABLE, raising=False)
    assert not passed("/collective_rpc", b"Bearer ")


def passed(path: str, told: bytes) -> bool:
    """Whether a request came through; if not, that it was answered 401."""
    met: list[str] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        met.append(scope["path"])

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    headers = [(b"authorization", told)] if told else []
    asyncio.run(vllm_guard.RequireToken(app)({"type": "http", "path": path, "headers": headers}, receive, send))
    assert bool(met) != (sent[:1] != [] and sent[0]["status"] == 401)
    return bool(met)


@pytest.mark.parametrize("failing", [3, 5], ids=["pip", "vLLM cannot be imported"])
def test_an_environment_is_made_once_and_is_whole_or_not_there(failing: int, tmp_path: Path) -> None:
    """On a processor without what its torch cannot load (pip has installed it for vLLM)."""
    ran: list[list[str]] = []

    def run(command: list[str]) -> int:
        ran.append(command)
        return int(len(ran) == failing)

    home = tmp_path / "vllm"
    with pytest.raises(RunError, match=r"ended with status 1 .*--python"):
        python_of(home, on_gpu=False, say=print, run=run)
    assert not (home / PINNED).exists()
    home.mkdir(exist_ok=True)
    assert python_of(home, on_gpu=False, say=print, run=run) == home / "bin" / "python"
    _, _, install, uninstall, trial = ran[failing:]
    assert install[-2:] == requirements(on_gpu=False)
    assert "uninstall" in uninstall
    assert "torchvision" in uninstall
    assert trial[1:3] == ["-I", "-c"]
    python_of(home, on_gpu=False, say=print, run=run)
    assert len(ran) == failing + 5
    with pytest.raises(RunError, match="for another vLLM"):
        python_of(home, on_gpu=True, say=print, run=run)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("")
    with pytest.raises(RunError, match="no environment of Python's"):
        python_of(tmp_path / "work", on_gpu=False, say=print, run=run)
    before = len(ran)
    (tmp_path / "cards").mkdir()
    python_of(tmp_path / "cards", on_gpu=True, say=print, run=run)
    assert not any("uninstall" in command for command in ran[before:])


def test_the_command_prints_what_a_recipe_says(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a token of its own, which the user's own takes the place of; Ctrl-C ends both."""
    monkeypatch.setattr(ServerProcess, "watch", interrupted)
    monkeypatch.delenv(vllm_command.VARIABLE, raising=False)
    argv = ["engine", "tiny", "--port", str(serving.port), "--environment", str(tmp_path / "vllm")]
    argv += ["--python", str(serving.python)]
    assert main(argv) == 130
    out = capsys.readouterr().out
    assert f'servers = ["{serving.address}"]' in out
    assert f"export {vllm_command.VARIABLE}=" in out
    assert not ServerProcess(serving, print).server.healthy()
    monkeypatch.setenv(vllm_command.VARIABLE, "mine")
    assert main(argv) == 130
    assert "export" not in capsys.readouterr().out
    assert main([*argv[:-1], str(tmp_path / "nothing")]) == 2


def interrupted(self: ServerProcess) -> None:
    raise KeyboardInterrupt
