"""Import and check: the report, what is written when, and memory."""

from __future__ import annotations

import errno
import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from palate.corpus.check import ImportReport, check_data, import_data
from palate.corpus.reading import read_rankings, read_texts
from palate.corpus.writing import output
from palate.errors import DataError, DiskFullError
from palate.recipe import Data

Write = Callable[..., Path]
GOOD = [
    {"prompt": "one two", "chosen": "a b c", "rejected": "a"},
    {"prompt": "one", "chosen": "a", "rejected": "b c"},
    {"prompt": "one", "chosen": "a", "rejected": "b"},
]


def test_the_report(write: Write) -> None:
    empty, same, odd = {**GOOD[0], "chosen": ""}, {**GOOD[0], "chosen": "a"}, {**GOOD[0], "rejected": 3}
    path = write("rows.jsonl", [*GOOD, GOOD[2], empty, same, odd, {**GOOD[0], "chosen": "d", "page": 3}])
    report = check_data([path])
    assert str(report) == (
        "format     trl-explicit: it has chosen, prompt, rejected in 8 of the 8 rows looked at\n"
        "           could also be trl-implicit (chosen, rejected): say so with --format\n"
        "used       prompt, chosen, rejected\n"
        "not used   page (1 row)\n"
        "records    5 rankings\n"
        "words      prompt 1.4, response 1.3 (means)\n"
        "pairs      5; the longer response is preferred in 0.500\n"
        f"malformed 1: field 'rejected' is a number, not a list of turns ({path}:7)\n"
        f"unusable 1: empty chosen ({path}:5)\n"
        "unusable 1: identical responses: whatever was said of them, there is nothing to tell them apart by "
        f"({path}:6)\n"
        "repeated 1: judgements that nobody signed and that say what an earlier one says; each is kept as a vote: "
        "name the labelers\n"
        "malformed rows: mend them, or import with --skip-bad to leave them out"
    )
    assert report.failed


def test_import_writes_nothing_with_malformed_rows_unless_told_to(write: Write, tmp_path: Path) -> None:
    path, out = write("rows.jsonl", [*GOOD, {"prompt": "x"}]), tmp_path / "out.jsonl"
    report = import_data([path], out=out)
    assert (report.failed, report.out, out.exists()) == (True, None, False)
    report = import_data([path], out=out, skip_bad=True)
    assert (report.failed, report.out) == (False, out)
    assert str(report).endswith(f"written    {out}")
    assert read_rankings(Data(path=str(out))).records == read_rankings(Data(path=str(write("a.jsonl", GOOD)))).records
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "out.jsonl", "rows.jsonl"]


def test_several_files_and_kinds_with_tags(write: Write, tmp_path: Path) -> None:
    both = {"instruction": "i", "output": "a", "chosen": "a", "rejected": "b", "topic": "tea"}
    paths = [write("a.jsonl", [both]), write("b.csv", "question,answer,topic\nq,a,pie\n")]
    report = import_data(paths, out=tmp_path / "out.jsonl.gz", tags=["topic"])
    assert dict(report.counts) == {"demonstrations": 2, "rankings": 1}
    lines = gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes()).decode().splitlines()
    assert [('"topic":"tea"' in line, '"topic":"pie"' in line) for line in lines] == [
        (True, False),
        (True, False),
        (False, True),
    ]


def test_the_same_rows_give_the_same_bytes(write: Write, tmp_path: Path) -> None:
    path = write("rows.jsonl", GOOD)
    for name in ("one.jsonl.gz", "two.jsonl.gz"):
        import_data([path], out=tmp_path / name)
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "two.jsonl.gz").read_bytes()


def test_raw_text_is_imported_too(write: Write, tmp_path: Path) -> None:
    report = import_data([write("tale.txt", "Once upon é.")], out=tmp_path / "out.jsonl")
    assert "\nrecords    1 texts\nwords      text 3.0 (means)" in str(report)
    assert read_texts(Data(path=str(tmp_path / "out.jsonl"))).records == ("Once upon é.",)


def test_nothing_found_is_a_failure(write: Write) -> None:
    report = check_data([write("rows.jsonl", [{"prompt": "p", "response": ""}])])
    assert report.failed
    assert "\nrecords    none\nunusable 1: empty response" in str(report)
    assert ImportReport().longer_preferred.value is None


@pytest.mark.parametrize("out", ["out.txt", "rows.jsonl"])
def test_outputs_that_cannot_be(write: Write, tmp_path: Path, out: str) -> None:
    path = write("rows.jsonl", GOOD)
    with pytest.raises(DataError, match=r"something\.jsonl|overwritten"):
        import_data([path], out=tmp_path / out)


def test_an_error_leaves_no_half_written_file(write: Write, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("as it was")
    with pytest.raises(DataError, match="no such file"):
        import_data([write("rows.jsonl", GOOD), tmp_path / "missing.jsonl"], out=out)
    with pytest.raises(DiskFullError, match="disk is full"), output(out):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert out.read_text() == "as it was"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "rows.jsonl"]


def test_memory_is_a_row_and_a_fingerprint_each(write: Write, tmp_path: Path) -> None:
    long = ("wordy" * 100 + " ") * 20
    rows = [{"prompt": f"{number}", "chosen": long, "rejected": f"{long}{number}"} for number in range(300)]
    path = write("rows.jsonl", rows)
    del rows
    tracemalloc.start()
    try:
        report = import_data([path], out=tmp_path / "out.jsonl")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.counts["rankings"] == 300
    assert path.stat().st_size > 6_000_000
    assert peak < 1_500_000
