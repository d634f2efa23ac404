"""Every test on one thread, with a cache of its own and the same examples every time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings
from tests.postgres import postgres as postgres

settings.register_profile("palate", derandomize=True, deadline=None)
settings.load_profile("palate")


@pytest.fixture(scope="session", autouse=True)
def _repeatable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())  # as in a run: see `deterministic`
    torch.utils.deterministic.fill_uninitialized_memory = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALATE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("os.fsync", lambda _: None)  # no test pulls the plug, and disks are slow
        yield


@pytest.fixture(scope="module", autouse=True)
def _modest() -> Iterator[None]:
    """What one module's tests freed is given back: runs keep it, and all modules share a process."""
    yield
    from palate.lm.memory import give_back_freed_memory

    give_back_freed_memory()
