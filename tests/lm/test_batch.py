from __future__ import annotations

from dataclasses import fields
from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from palate.lm.batch import Layout, Sequences, per_token
from palate.lm.kernels.uneven import Segments


@st.composite
def batches(draw: st.DrawFn) -> Sequences:
    """One to five prompts with one to four responses each, in any order."""
    ids = st.lists(st.integers(1, 99), min_size=1, max_size=6)
    prompts = draw(st.lists(ids, min_size=1, max_size=5))
    names = draw(st.permutations(range(10, 10 + len(prompts))))
    rows = [
        (prompt, draw(ids), name)
        for prompt, name in zip(prompts, names, strict=True)
        for _ in range(draw(st.integers(1, 4)))
    ]
    rows = draw(st.permutations(rows))
    return Sequences.pack([p for p, _, _ in rows], [r for _, r, _ in rows], group_ids=[name for *_, name in rows])


def computed_tokens(part: Sequences) -> int:
    """Every response, and each distinct prompt once."""
    prompts = dict(zip(part.group_ids.tolist(), part.prompt_lengths.tolist(), strict=True))
    return int((part.lengths - part.prompt_lengths).sum()) + sum(prompts.values())


def same(part: Sequences, whole: Sequences) -> bool:
    """Every row of the part is that row of the whole."""
    for place, row in enumerate(part.rows.tolist()):
        length = int(whole.lengths[row])
        equal = all(
            torch.equal(getattr(part, f.name)[place], getattr(whole, f.name)[row])
            for f in fields(part)
            if f.name not in ("tokens", "mask")
        )
        if not (
            equal
            and torch.equal(part.tokens[place, :length], whole.tokens[row, :length])
            and torch.equal(part.mask[place, :length], whole.mask[row, :length])
            and not part.mask[place, length:].any()
        ):
            return False
    return part.tokens.shape[1] == int(part.lengths.max())


def test_packed_by_hand() -> None:
    got = Sequences.pack([[5, 6], [7]], [[1], [2, 3, 4]], masks=[[True], [True, False, True]])
    assert got.tokens.tolist() == [[5, 6, 1, 0], [7, 2, 3, 4]]
    assert got.mask.tolist() == [[False, False, True, False], [False, True, False, True]]
    assert got.prompt_lengths.tolist() == [2, 1]
    assert got.lengths.tolist() == [3, 4]
    assert got.group_ids.tolist() == got.rows.tolist() == [0, 1]
    assert got.responses() == [[1], [2, 3, 4]]


@settings(max_examples=20)
@given(batches(), st.data())
def test_selected_rows_are_trimmed_and_remember_where_they_were(batch: Sequences, data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, len(batch) - 1), min_size=1, max_size=6))
    part = batch.select(torch.tensor(index))
    assert part.rows.tolist() == index
    assert same(part, batch)
    again = part.select(torch.tensor([len(index) - 1]))
    assert again.rows.tolist() == index[-1:]
    assert same(again, batch)


@settings(max_examples=20)
@given(batches(), st.integers(1, 60), st.booleans())
def test_parts_hold_every_row_once_and_keep_to_the_budget(batch: Sequences, budget: int, whole_groups: bool) -> None:
    parts = list(batch.microbatches(budget, whole_groups=whole_groups))
    assert sorted(row for part in parts for row in part.rows.tolist()) == list(range(len(batch)))
    for part in parts:
        assert same(part, batch)
        unit = len(set(part.group_ids.tolist())) if whole_groups else len(part)
        assert computed_tokens(part) <= budget or unit == 1
    if whole_groups:
        seen = [group for part in parts for group in set(part.group_ids.tolist())]
        assert len(seen) == len(set(seen))


@settings(max_examples=20)
@given(batches(), st.integers(1, 60))
def test_parts_are_as_few_as_filling_in_order_gives(batch: Sequences, budget: int) -> None:
    parts = list(batch.microbatches(budget))
    for part, following in pairwise(parts):
        rows = torch.cat([part.rows, following.rows[:1]])
        assert computed_tokens(batch.select(rows)) > budget


def test_parts_by_hand() -> None:
    batch = Sequences.pack([[1, 1, 1]] * 2 + [[2]], [[5, 5], [6], [7, 7]], group_ids=[1, 1, 0])
    assert [part.rows.tolist() for part in batch.microbatches(9)] == [[2, 0, 1]]
    assert [part.rows.tolist() for part in batch.microbatches(8)] == [[2, 0], [1]]
    assert [part.rows.tolist() for part in batch.microbatches(8, whole_groups=True)] == [[2], [0, 1]]
    assert [part.rows.tolist() for part in batch.microbatches(1)] == [[2], [0], [1]]


@settings(max_examples=20)
@given(batches())
def test_a_layout_has_a_row_for_every_token_and_each_prompt_once(batch: Sequences) -> None:
    layout = Layout.of(batch)
    assert len(layout.tokens) == computed_tokens(batch)
    sequence, position = (torch.arange(batch.tokens.shape[1]) < batch.lengths[:, None]).nonzero(as_tuple=True)
    rows = layout.row_of(sequence, position, batch.prompt_lengths)
    assert torch.equal(layout.tokens[rows], batch.tokens[sequence, position])
    assert torch.equal(layout.positions[rows], position)
    assert set(rows.tolist()) == set(range(len(layout.tokens)))
    for group in set(batch.group_ids.tolist()):
        shared = (batch.group_ids == group)[sequence] & (position < batch.prompt_lengths[sequence])
        assert len(set(rows[shared].tolist())) == len(set(position[shared].tolist()))
    assert torch.equal(layout.groups[layout.prompt_of], batch.group_ids[layout.order])


@settings(max_examples=20)
@given(batches())
def test_a_response_sees_its_prompt_and_itself_so_far(batch: Sequences) -> None:
    layout = Layout.of(batch)
    places = [(each, row) for each in layout.responses for row in range(len(each.segments.lengths))]
    starts = layout.prompt_starts.tolist()
    rows = torch.arange(len(layout.tokens)).split([len(run.real) for run in layout.runs])
    for (each, row), sequence in zip(places, layout.order.tolist(), strict=True):
        prompt, length = int(batch.prompt_lengths[sequence]), int(batch.lengths[sequence])
        segments = layout.prompts[each.prompts]
        first = segments.pad(rows[each.prompts])[each.prompt_of[row]]
        assert first[:prompt].tolist() == [*range(starts[sequence], starts[sequence] + prompt)]
        for place in range(length - prompt):
            seen = (each.mask[row if len(each.mask) > 1 else 0, 0, place] == 0).nonzero()[:, 0].tolist()
            assert seen == [*range(prompt), *range(segments.width, segments.width + place + 1)]


@settings(max_examples=20)
@given(batches())
def test_a_run_is_of_one_length_on_a_processor_and_of_about_one_on_a_gpu(batch: Sequences) -> None:
    layout = Layout.of(batch)
    lengths = [[*zip(run.lengths.tolist(), strict=True)] for run in layout.prompts]
    lengths += [[*zip(e.segments.lengths.tolist(), e.prompt_lengths.tolist(), strict=True)] for e in layout.responses]
    assert all(len(set(run)) == 1 for run in lengths)
    assert len({run[0] for run in lengths}) == len(lengths), "two runs could have been one"
    assert all(len(each.mask) == 1 for each in layout.responses)
    layout = Layout.of(batch, kind="cuda")
    for segments in (*layout.prompts, *(each.segments for each in layout.responses)):
        assert segments.width < 2 * max(1, int(segments.lengths.min()))


runs = st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any)


@settings(max_examples=20)
@given(runs)
def test_unpadding_undoes_padding(lengths: list[int]) -> None:
    segments = Segments.of(torch.tensor(lengths))
    x = torch.randn(sum(lengths), 2, 3)
    padded = segments.pad(x)
    assert padded.shape == (len(lengths), max(lengths), 2, 3)
    assert torch.equal(segments.unpad(padded), x)
    real = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    assert not padded[~real].any()


def test_gradients_of_padding_and_unpadding() -> None:
    segments = Segments.of(torch.tensor([2, 0, 3]))
    rows = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    places = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)

    def pad(x: Tensor) -> Tensor:
        return segments.pad(x)

    def unpad(x: Tensor) -> Tensor:
        return segments.unpad(x)

    assert torch.autograd.gradcheck(pad, rows)
    assert torch.autograd.gradcheck(unpad, places)


@given(batch=batches(), budget=st.integers(1, 40))
def test_what_is_computed_part_by_part_comes_back_in_order_and_carries_no_gradient(
    batch: Sequences, budget: int
) -> None:
    weight = torch.ones((), requires_grad=True)
    found = per_token(batch, budget, lambda part: weight * torch.where(part.mask, part.tokens, 0))
    assert torch.equal(found, torch.where(batch.mask, batch.tokens, 0).float())
    assert not found.requires_grad
