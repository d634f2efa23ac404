"""Queries meet the keys of their own prompt and response alone, whether prompts are read once or by every slot."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from palate.lm.families import Rule
from palate.lm.kernels.attention import attention
from palate.rollout import cache as module
from palate.rollout.cache import Cache, Prefilled, Sharing

KEYS, HEADS, SIZE, NEW = 2, 6, 8, 5
LENGTHS = {4: 3, 7: 9, 9: 6}
"""Of the prompts, by number."""


@pytest.fixture(autouse=True)
def _long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of a few tokens are long enough."""
    monkeypatch.setattr(module, "LEAST_LONG", 9)


def decoder(dtype: torch.dtype) -> Any:
    return SimpleNamespace(shape=SimpleNamespace(num_layers=1, num_kv_heads=KEYS, head_dim=SIZE), dtype=dtype)


def numbers(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def past_of(prompt: int) -> Prefilled:
    keys, values = numbers(2, 1, KEYS, LENGTHS[prompt], SIZE, seed=prompt)
    return Prefilled(keys, values, torch.zeros(0))


def filled(prompts: list[int], dtype: torch.dtype = torch.float32) -> Cache:
    cache = Cache(decoder(dtype), len(prompts), longest=10, new=NEW, device=torch.device("cpu"))
    for slot, prompt in enumerate(prompts):
        cache.admit(slot, prompt, past_of(prompt))
    return cache


def step(cache: Cache, seed: int, rule: Rule = Rule(), *, whole: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:  # noqa: B008
    """What comes of one new token in every slot, and its queries, keys and values."""
    new = [numbers(len(cache.prompts), heads, SIZE, seed=seed + heads) for heads in (HEADS, KEYS)]
    operands = (*new, numbers(len(cache.prompts), KEYS, SIZE, seed=seed + 1))
    out = cache.attend(whole=whole)(0, rule, *operands)
    cache.positions += 1
    return out, operands


def by_hand(prompt: int, new: list[tuple[Tensor, ...]], slot: int, rule: Rule) -> Tensor:
    """[HEADS, SIZE] of the last token in a slot, from its whole past."""
    past = past_of(prompt)
    keys = torch.cat([past.keys[0], torch.stack([k[slot] for _, k, _ in new], 1)], 1)
    values = torch.cat([past.values[0], torch.stack([v[slot] for *_, v in new], 1)], 1)
    if rule.window is not None:
        keys, values = keys[:, -rule.window :], values[:, -rule.window :]
    query, seen = new[-1][0][slot][None, :, None], torch.zeros(1, 1, 1, keys.shape[1])
    return attention(
        query, keys[None], values[None], mask=seen, scale=rule.scale, cap=rule.cap, dtype=torch.float32
    ).flatten(0, 2)


@pytest.mark.parametrize("rule", [Rule(), Rule(scale=0.3), Rule(window=4), Rule(cap=2.0)], ids=str)
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("widened", [1, 2**18])
def test_every_slot_sees_its_own_past(
    rule: Rule, whole: bool, dtype: torch.dtype, widened: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WIDENED", widened)  # one slot at a time, and all
    prompts = [4, 7, 4, 9, 7, 7, 7]
    cache, new = filled(prompts, dtype), []
    for number in range(3):
        out, operands = step(cache, 10 * number, rule, whole=whole)
        new.append(operands)
        expected = torch.stack([by_hand(prompt, new, slot, rule) for slot, prompt in enumerate(prompts)])
        torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_slots_are_refilled_and_closed_up(dtype: torch.dtype) -> None:
    cache = filled([4, 4, 7, 7, 9, 9], dtype)
    step(cache, 0)
    cache.admit(1, 9, past_of(9))  # longer than what was there, and now the third of its prompt
    out, operands = step(cache, 10)
    torch.testing.assert_close(out[1], by_hand(9, [operands], 1, Rule()), atol=1e-6, rtol=1e-5)
    cache.keep([1, 2, 4, 5])
    kept = [part[[1, 2, 4, 5]] for part in operands]
    out, operands = step(cache, 20)
    assert cache.prompts == [9, 7, 9, 9]
    torch.testing.assert_close(out[0], by_hand(9, [(*kept,), operands], 0, Rule()), atol=1e-6, rtol=1e-5)


def test_prompts_are_read_once_where_they_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    meet = module.attention_and_sums

    def watched(q: Tensor, k: Tensor, v: Tensor, **how: Any) -> tuple[Tensor, Tensor]:
        read.append(k[..., 0].numel() // KEYS)
        return meet(q, k, v, **how)

    monkeypatch.setattr(module, "attention_and_sums", watched)
    step(filled([4, 4, 4, 7, 7, 7]), 0)
    assert read == [2 * 9, 6 * 1], "two prompts as long as the longer, and six new tokens"
    read.clear()
    step(filled([4, 7, 9, 4]), 0)
    step(filled([9, 9, 4, 4]), 0)
    assert not read, "four slots of three prompts, short prompts: every slot reads its own"


def test_who_shares_a_prompt() -> None:
    sharing = Sharing.of([7, 4, 7, 7, 9, 4])
    assert sharing.leaders == [0, 1, 4]
    assert sharing.members.tolist() == [[0, 2, 3], [1, 5, 5], [4, 4, 4]]
    assert sharing.places.tolist() == [0, 3, 1, 2, 6, 4]


def test_two_parts_of_the_keys_give_the_same_bits_as_all_of_them() -> None:
    """Where products are bf16: what is drawn does not depend on who shares a prompt."""
    apart, together = filled([7, 4, 9], torch.bfloat16), filled([7, 7, 4, 4, 9, 9], torch.bfloat16)
    q, k, v = (numbers(3, heads, SIZE, seed=seed) for seed, heads in enumerate((HEADS, KEYS, KEYS)))
    one = apart.attend(whole=False)(0, Rule(), q, k, v)
    two = together.attend(whole=False)(0, Rule(), *(x.repeat_interleave(2, 0) for x in (q, k, v)))
    assert int((two[::2] != one).sum()) <= 1
    assert torch.equal(two[::2], two[1::2])
