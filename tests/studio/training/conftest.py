"""A shop for every test, in which no process is left over."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from tests.studio.conftest import Studio
from tests.studio.shops import Shop


@pytest.fixture
def shop(studio: Studio) -> Iterator[Shop]:
    shop = Shop(studio.workspace)
    yield shop
    for runner in shop.runners:
        for child in runner._children.values():
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        runner.stop()
