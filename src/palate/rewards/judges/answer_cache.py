"""Answers that were given before, by the hash of what was asked: nobody pays twice for the same question.

A file of JSON lines that is appended to as answers come. A process may be killed at any instant: a torn line is
skipped, and its question asked again. What was asked is not kept, only its hash.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palate.disk import append_text, disk_errors, json_text


class AnswerCache:
    """Answers in a file; threads may use it together.

    Raises:
        RunError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._known: dict[str, Mapping[str, Any]] = {}
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        for line in text.split("\n"):
            try:
                row = json.loads(line)
                self._known[row["key"]] = dict(row["answer"])
            except (ValueError, KeyError, TypeError):  # torn, or empty
                continue
        if text and not text.endswith("\n"):
            append_text(path, "\n")

    def get(self, key: str) -> Mapping[str, Any] | None:
        """What was answered; None if that was not asked yet."""
        return self._known.get(key)

    def put(self, key: str, answer: Mapping[str, Any]) -> None:
        """Keep an answer."""
        with self._lock:
            self._known[key] = answer
            append_text(self.path, json_text({"key": key, "answer": answer}, ensure_ascii=False) + "\n")
