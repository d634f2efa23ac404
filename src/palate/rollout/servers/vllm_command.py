"""`palate engine`: one vLLM server, in an environment of its own, for the runs that name it.

It listens on loopback, asks for a token on every route, is started again when it dies, and ends with the command.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from palate.errors import RunError
from palate.rollout.servers.vllm_environment import has_gpu, python_of
from palate.rollout.servers.vllm_process import ServerProcess, Serving

VARIABLE = "PALATE_ENGINE_KEY"
"""Holds the token, if the user has set it; by this name the printed lines call it."""


def run_engine(
    model: Path | str,
    *,
    port: int,
    host: str,
    dtype: str,
    max_length: int,
    num_slots: int,
    environment: Path,
    python: Path | None = None,
    more: Sequence[str] = (),
) -> None:
    """Serve until Ctrl-C.

    Args:
        model: a directory, or a name on the hub.
        environment: of vLLM; made if it is not there.
        python: an interpreter that has vLLM; no environment is made then.
        more: arguments for vLLM.

    Raises:
        RunError: vLLM cannot be installed or started.
        KeyboardInterrupt: a stop was asked for; the server has ended.
    """
    on_gpu = has_gpu()
    given = os.environ.get(VARIABLE, "").strip()
    token = given or secrets.token_urlsafe(32)
    if python is not None and not python.exists():
        raise RunError(f"--python: {python} is not there")
    serving = Serving(
        python=python or python_of(environment, on_gpu=on_gpu, say=say),
        model=str(model),
        host=host,
        port=port,
        token=token,
        dtype=dtype if dtype != "auto" else "bfloat16" if on_gpu else "float32",
        max_length=max_length,
        num_slots=num_slots,
        log=environment.parent / f"engine-{port}.log",
        more=tuple(more) if on_gpu or "--enforce-eager" in more else (*more, "--enforce-eager"),
    )
    process = ServerProcess(serving, say)
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        process.start()
        print(lines_for_a_recipe(serving.address), flush=True)
        if not given:
            print(f"and where the run is started:\n\n  export {VARIABLE}={token}\n", flush=True)
        say("Ctrl-C ends it")
        process.watch()
    finally:
        process.end()
        signal.signal(signal.SIGTERM, before)


def lines_for_a_recipe(address: str) -> str:
    """What a recipe says to use the server."""
    return f'\n  [engine]\n  kind = "vllm"\n  servers = ["{address}"]\n  key_variable = "{VARIABLE}"\n'


def say(message: str) -> None:
    """A line for whoever watches; standard output has what is to be copied."""
    print(message, file=sys.stderr, flush=True)


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt("stopped")
