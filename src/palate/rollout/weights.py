"""Weights on their way to servers: a directory for each version, whole or not there, and never used again.

A version is a fingerprint of the weights themselves. So no directory ever holds other weights than before (a server
that reads the same path again may keep the old ones), a run that goes on names the same weights alike, and what a log
says of a response can be checked.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path

import torch

from palate import disk
from palate.lm.chat import Chat
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import save

KEPT = 2
"""Versions that stay: a server that comes back is given the newest, and one before it may still be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One version.

    Attributes:
        version: fingerprint of what is in the directory.
    """

    version: str
    directory: Path


class WeightsFolder:
    """Versions of one model's weights, the newest last; the folder is gone when the process ends.

    Args:
        inside: a folder that the readers see too; empty: the machine's folder for temporary files.
    """

    def __init__(self, inside: str) -> None:
        self.inside = inside
        self._folder: Path | None = None
        self._written: list[Weights] = []

    def put(self, model: LanguageModel, chat: Chat) -> Weights:
        """The model as it is now; what is there already is not written again, and the oldest goes.

        Raises:
            DiskFullError, RunError: it cannot be written.
        """
        version = fingerprint(model)
        known = next((each for each in self._written if each.version == version), None)
        if known is None:
            known = Weights(version=version, directory=self._made() / version)
            save(model, chat, known.directory)
        self._written = [*(each for each in self._written if each != known), known]
        for old in self._written[:-KEPT]:
            shutil.rmtree(old.directory, ignore_errors=True)
        self._written = self._written[-KEPT:]
        return known

    def _made(self) -> Path:
        if self._folder is None:
            with disk.disk_errors(Path(self.inside or tempfile.gettempdir())):
                if self.inside:
                    Path(self.inside).mkdir(parents=True, exist_ok=True)
                self._folder = Path(tempfile.mkdtemp(prefix="palate-weights-", dir=self.inside or None)).resolve()
                self._folder.chmod(0o755)  # servers may belong to somebody else
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder


def fingerprint(model: LanguageModel) -> str:
    """Of all its weights, adapters among them: names, shapes and bits."""
    digest = hashlib.blake2b(digest_size=8)
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype} ".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
