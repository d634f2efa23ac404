"""What is shown beside the record of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from palate.run.trackers import TensorBoard


def test_tensorboard_shows_samples_without_the_numbers_of_their_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    told: list[Any] = []

    class Writer:
        def add_text(self, *what: object) -> None:
            told.append(what)

    board = TensorBoard(tmp_path)
    monkeypatch.setattr(board, "_open", lambda step: Writer())
    board.text(3, [{"prompt": "p", "response": "r", "score": 0.5, "credit": {"tokens": ["r"], "kl": [0.1]}}])
    assert told == [("samples", '    {"prompt": "p", "response": "r", "score": 0.5}', 3)]
