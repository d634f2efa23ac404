"""How long a large file takes to import, and how much memory: it must not depend on the file's size.

Writes a file of pairs of dialogues of so many megabytes, imports it in a process of its own and prints seconds,
megabytes a second and the most memory that the process held. The file is deleted afterwards.

    .venv/bin/python benchmarks/import_file.py --megabytes 1000
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_TEXT = "tea grows on hills where mist lies in the morning and people walk between rows with baskets "
_WORDS = (8 * _TEXT).split()


def write(path: Path, size: int) -> int:
    """Rows of about three kilobytes until the file has this size; returns how many."""
    rows = written = 0
    with path.open("w", encoding="utf-8") as stream:
        while written < size:
            said = [" ".join(_WORDS[(rows * step) % 60 :][:90]) for step in (3, 5, 7)]
            turns = [("user", f"Number {rows}: {said[0]}"), ("assistant", said[1]), ("user", "And then?")]
            prompt = [{"role": role, "content": content} for role, content in turns]
            answers = [[{"role": "assistant", "content": f"{word} {said[2]}"}] for word in ("Gladly:", "No:")]
            row = {
                "prompt": prompt,
                "chosen": answers[0],
                "rejected": answers[1],
                "id": rows,
                "meta": {"page": rows % 7},
            }
            written += stream.write(json.dumps(row) + "\n")
            rows += 1
    return rows


def main() -> None:
    """Measure one size, or one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[1000])
    for megabytes in parser.parse_args().megabytes:
        with tempfile.TemporaryDirectory() as folder:
            path, out = Path(folder) / "pairs.jsonl", Path(folder) / "out.jsonl"
            rows = write(path, megabytes * 1_000_000)
            began = time.monotonic()
            command = [sys.executable, "-m", "palate", "data", "import", str(path), "--out", str(out)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds = time.monotonic() - began
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            speed = f"{megabytes / seconds:.1f} MB/s, {rows / seconds:.0f} rows/s"
            print(
                f"{megabytes} MB, {rows} rows: {seconds:.0f} s ({speed}), at most {peak:.0f} MiB of memory", flush=True
            )


if __name__ == "__main__":
    main()
