"""Rows of documents: every token learned once, no document seen by another, and the numbers of documents alone."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.lm.batch import Sequences
from palate.lm.pretraining.packing import Documents, Rows
from palate.lm.sources.zoo import load_chat, load_language_model

STOP = 2


def documents(*ids: list[int]) -> Documents:
    parts = [[STOP, *each, STOP] for each in ids]
    return Documents(
        tokens=np.array([token for part in parts for token in part], dtype=np.int32),
        starts=np.cumsum([0, *map(len, parts)]),
        num_bytes=sum(map(len, ids)),
    )


def parts(sequences: Sequences) -> list[list[int]]:
    return [row[:length] for row, length in zip(sequences.tokens.tolist(), sequences.lengths.tolist(), strict=True)]


def test_rows_of_three_by_hand() -> None:
    rows = Rows(documents([10, 11, 12], [20, 21]), np.array([0, 1]), 3)
    assert len(rows) == 3
    assert [parts(rows.select([row])) for row in range(3)] == [
        [[STOP, 10, 11, 12]],
        [[12, STOP], [STOP, 20, 21]],
        [[21, STOP]],
    ]
    assert parts(rows.everything()) == [[STOP, 10, 11, 12], [12, STOP], [STOP, 20, 21], [21, STOP]]
    other = Rows(documents([10, 11, 12], [20, 21]), np.array([1, 0]), 3)
    assert parts(other.select([1])) == [[STOP, 10, 11, 12]]


@given(
    st.lists(st.lists(st.integers(3, 250), max_size=12), min_size=1, max_size=8),
    st.integers(1, 9),
    st.randoms(use_true_random=False),
)
def test_every_token_is_learned_once_behind_its_own(ids: list[list[int]], length: int, chance: object) -> None:
    order = np.array(chance.sample(range(len(ids)), len(ids)))  # type: ignore[attr-defined]
    corpus = documents(*ids)
    rows = Rows(corpus, order, length)
    sequences = rows.everything()
    told = Counter(
        pair
        for part, mask in zip(parts(sequences), sequences.mask.tolist(), strict=True)
        for pair, counts in zip(pairwise(part), mask[1:], strict=False)
        if counts
    )
    assert told == Counter(pair for each in ids for pair in zip([STOP, *each], [*each, STOP], strict=True))
    sizes = [int(rows.select([row]).mask.sum()) for row in range(len(rows))]
    assert sizes[:-1] == [length] * (len(rows) - 1)
    assert sum(sizes) == corpus.num_learned == sum(len(each) + 1 for each in ids)
    every = np.arange(len(rows))
    assert [corpus.num_learned_in(every[row : row + 1], length) for row in every] == sizes
    assert corpus.num_learned_in(every, length) == corpus.num_learned


def test_a_document_is_told_as_if_it_were_alone() -> None:
    """Whatever stands beside it in its row and in its batch: attention and positions begin anew."""
    model = load_language_model("tiny", precision="fp32").model
    ids = [[70, 71, 72], [80, 81, 82, 83, 84, 85], [90], [100, 101]]
    corpus = documents(*ids)
    together = Rows(corpus, np.array([2, 1, 3, 0]), 99).everything()
    logprobs = model.logprobs(together, temperature=1.0).detach()
    for row, number in enumerate([2, 1, 3, 0]):
        alone = Sequences.pack([[STOP]], [[*ids[number], STOP]])  # another way to lay it out, too
        expected = model.logprobs(alone, temperature=1.0).detach()[0]
        torch.testing.assert_close(logprobs[row, : len(expected)], expected, rtol=1e-5, atol=1e-6)
        assert not logprobs[row, len(expected) :].any()


def test_beginnings_of_documents() -> None:
    corpus = documents([10, 11, 12], [20])
    assert corpus.beginning(0, 2) == [STOP, 10, 11]
    assert corpus.beginning(1, 2) == [STOP, 20]


def test_texts_become_tokens_with_a_stop_token_on_both_sides() -> None:
    chat = load_chat("tiny")
    corpus = Documents.of(chat, ["ab", "<|im_end|>", "é"])
    spans = [corpus.tokens[a:b].tolist() for a, b in zip(corpus.starts, corpus.starts[1:], strict=False)]
    assert [span[0] == span[-1] == chat.stop_id for span in spans] == [True, True, True]
    assert [len(span) for span in spans] == [4, 12, 4]
    assert chat.stop_id not in spans[1][1:-1]  # what is written is no special token
    assert corpus.num_bytes == 2 + 10 + 2


def test_a_long_document_goes_over_several_rows() -> None:
    rows = Rows(documents(list(range(10, 20))), np.array([0]), 4)
    assert [len(part) for part in parts(rows.everything())] == [5, 5, 4]
    assert rows.everything().mask.sum() == 11


@pytest.mark.parametrize("size", [1, 33, 10_000])
def test_microbatches_are_whole_parts(size: int) -> None:
    rows = Rows(documents(*[[number + 10] * (number % 7) for number in range(30)]), np.arange(30), 16)
    batch = rows.everything()
    assert sum(int(part.mask.sum()) for part in batch.microbatches(size)) == int(batch.mask.sum())
