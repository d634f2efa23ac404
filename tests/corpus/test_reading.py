"""What the training stages read: kinds, strictness, duplicates, limits, several files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.corpus import read_demonstrations, read_prompts, read_rankings, read_texts
from palate.corpus.containers.files import sha256
from palate.corpus.reading import _limited
from palate.errors import DataError
from palate.recipe import Data
from palate.records import Demonstration, Prompt, Response

Write = Callable[..., Path]
PAIR = {"prompt": "Which?", "chosen": "this", "rejected": "that"}
BOTH = {"instruction": "Which?", "output": "this", "chosen": "this", "rejected": "that"}


def test_each_kind_from_one_file(write: Write) -> None:
    data = Data(path=str(write("rows.jsonl", [BOTH, {**BOTH, "output": ""}])))
    assert [shown.response.text for shown in read_demonstrations(data).records] == ["this"]
    assert dict(read_demonstrations(data).rejected.unusable) == {"holds no demonstrations": 1}
    assert [ranking.ranks for ranking in read_rankings(data).records] == [(1, 2), (1, 2)]
    assert read_rankings(data).rejected.repeated.total() == 1, "two votes, since nobody is named"
    assert [prompt.text for prompt in read_prompts(data).records] == ["Which?"]
    with pytest.raises(DataError, match=r"holds demonstrations and rankings \(format alpaca-preference\), not texts"):
        read_texts(data)


def test_an_identical_pair_is_no_obstacle_to_reading_its_prompt(write: Write) -> None:
    data = Data(path=str(write("rows.jsonl", [{**BOTH, "rejected": "this"}])))
    assert len(read_prompts(data).records) == len(read_demonstrations(data).records) == 1
    with pytest.raises(DataError, match="no rankings in it\nunusable 1: identical responses"):
        read_rankings(data)


def test_the_first_malformed_row_stops_training_with_its_place(write: Write) -> None:
    path = write("rows.jsonl", '{"prompt": "a", "chosen": "b", "rejected": "c"}\n\n{"prompt": "a", "chosen": "b"}\n{\n')
    with pytest.raises(DataError) as error:
        read_rankings(Data(path=str(path)))
    assert (error.value.path, error.value.line) == (path, 3)
    assert str(error.value).startswith(f"{path}:3: no field 'rejected'; `palate data check {path}` lists all")
    with pytest.raises(DataError, match=r"rows\.jsonl:4: broken JSON"):
        read_prompts(Data(path=str(path), fields={"prompt": "prompt"}))


def test_unusable_rows_are_counted_and_shown(write: Write) -> None:
    rows = [PAIR, *[{**PAIR, "chosen": " "}] * 5, {**PAIR, "prompt": ""}]
    path = write("rows.jsonl", rows)
    read = read_rankings(Data(path=str(path)))
    assert len(read.records) == 1
    assert read.rejected.total == 6
    assert str(read.rejected) == (
        f"unusable 5: empty chosen ({path}:2, {path}:3, {path}:4, ...)\nunusable 1: empty prompt ({path}:7)"
    )


def test_nothing_left_is_an_error_that_says_why(write: Write) -> None:
    path = write("rows.jsonl", [{**PAIR, "chosen": " "}])
    with pytest.raises(DataError, match=r"no rankings in it\nunusable 1: empty chosen"):
        read_rankings(Data(path=str(path)))


def test_several_files_one_of_them_twice(write: Write) -> None:
    first, second = write("a.jsonl", [PAIR]), write("b.csv", "prompt,chosen,rejected\nWho?,me,you\n")
    read = read_rankings(Data(path=f"{first}, {second}"))
    assert [ranking.prompt.text for ranking in read.records] == ["Which?", "Who?"]
    with pytest.raises(DataError, match=r"a\.jsonl: is named twice"):
        read_rankings(Data(path=f"{first}, {second},{first}"))
    assert read.files == {str(first): sha256(first), str(second): sha256(second)}
    with pytest.raises(DataError, match="no file is named"):
        read_rankings(Data(path=" ,"))


def test_a_record_left_out_later_is_counted_with_its_file_and_line(write: Write) -> None:
    first, second = write("a.jsonl", [PAIR]), write("b.csv", "prompt,chosen,rejected\nWhich?,me,you\nWho?,me,you\n")
    read = read_rankings(Data(path=f"{first}, {second}"))
    assert read.places == ((first, 1), (second, 2), (second, 3))
    read.leave_out(read.records[2], "does not suit")
    assert str(read.rejected) == f"unusable 1: does not suit ({second}:3)"
    assert len(read_rankings(Data(path=f"{first}, {second}", limit=2)).places) == 2


def test_texts_from_every_kind_of_file(write: Write) -> None:
    for path in (write("t.txt", "once\n\nupon"), write("t.jsonl", [{"text": "once\n\nupon"}])):
        assert read_texts(Data(path=str(path))).records == ("once\n\nupon",)


def records(counts: list[int]) -> list[Demonstration]:
    return [
        Demonstration(prompt=Prompt.from_text(f"prompt {i}"), response=Response(text=f"response {j}"))
        for j in range(max(counts, default=0))
        for i, count in enumerate(counts)
        if j < count
    ]


def limited(given_order: list[Demonstration], limit: int) -> list[Demonstration]:
    return [given_order[index] for index in _limited(given_order, limit)]


@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=8), limit=st.integers(0, 20), data=st.data())
def test_a_limit_takes_whole_prompts_and_does_not_depend_on_order(
    counts: list[int], limit: int, data: st.DataObject
) -> None:
    given_order = records(counts)
    kept = limited(given_order, limit)
    assert len(kept) == (min(limit, len(given_order)) or len(given_order))
    assert kept == [record for record in given_order if record in kept]
    whole = Counter(record.prompt.id for record in given_order)
    cut = [prompt for prompt, count in Counter(record.prompt.id for record in kept).items() if count < whole[prompt]]
    assert len(cut) <= 1
    shuffled = data.draw(st.permutations(given_order))
    assert {record.prompt.id for record in limited(shuffled, limit)} == {record.prompt.id for record in kept}


def test_a_larger_limit_keeps_what_a_smaller_one_took() -> None:
    given_order = records([2] * 20)
    kept = [{record.id for record in limited(given_order, limit)} for limit in (4, 10, 30)]
    assert kept[0] < kept[1] < kept[2]


def test_importing_the_corpus_is_light() -> None:
    code = "import sys, palate.corpus; print({'torch', 'pandas', 'pyarrow', 'transformers'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "set()\n"
