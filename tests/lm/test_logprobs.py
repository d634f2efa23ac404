from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from palate import recipe
from palate.lm import logprobs as module
from palate.lm.batch import Sequences
from palate.lm.logprobs import chosen_logprobs
from palate.lm.model import LanguageModel
from palate.lm.optim import Optimizer
from palate.lm.sources.zoo import Loaded, locate

Fresh = Callable[[], LanguageModel]


@torch.no_grad()
def brute_force(sequences: Sequences, temperature: float) -> Tensor:
    """Sequence by sequence and token by token, through transformers' model."""
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(locate("tiny"), dtype=torch.float32)
    out = torch.zeros(sequences.mask.shape)
    for row in range(len(sequences)):
        tokens = sequences.tokens[row, : sequences.lengths[row]]
        logits = network(input_ids=tokens[None]).logits[0] / temperature
        for t in range(1, len(tokens)):
            if sequences.mask[row, t]:
                out[row, t] = torch.log_softmax(logits[t - 1], dim=0)[tokens[t]]
    return out


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_a_brute_force_loop(
    tiny: Loaded[LanguageModel], sequences: Sequences, temperature: float
) -> None:
    got = tiny.model.logprobs(sequences, temperature=temperature)
    torch.testing.assert_close(got, brute_force(sequences, temperature), atol=1e-5, rtol=0)
    assert not got[~sequences.mask].any()
    assert (got[sequences.mask] < 0).all()


def test_alone_batched_grouped_and_selected_agree(tiny: Loaded[LanguageModel], sequences: Sequences) -> None:
    together = tiny.model.logprobs(sequences, temperature=1.0)
    ungrouped = Sequences(
        **{name: getattr(sequences, name) for name in ("tokens", "mask", "prompt_lengths", "lengths", "rows")},
        group_ids=torch.arange(len(sequences)),
    )
    torch.testing.assert_close(tiny.model.logprobs(ungrouped, temperature=1.0), together, atol=1e-5, rtol=0)
    for row in range(len(sequences)):
        alone = tiny.model.logprobs(sequences.select(torch.tensor([row])), temperature=1.0)[0]
        torch.testing.assert_close(alone, together[row, : len(alone)], atol=1e-5, rtol=0)
    for limit in (1, 9, 14, 1000):
        for part in sequences.microbatches(limit):
            got = tiny.model.logprobs(part, temperature=1.0)
            torch.testing.assert_close(got, together[part.rows, : got.shape[1]], atol=1e-5, rtol=0)


def test_what_comes_later_or_lies_in_the_padding_does_not_matter(
    tiny: Loaded[LanguageModel], sequences: Sequences
) -> None:
    before = tiny.model.logprobs(sequences, temperature=1.0)
    tokens = sequences.tokens.clone()
    tokens[torch.arange(tokens.shape[1]) >= sequences.lengths[:, None]] = 77
    tokens[2, int(sequences.lengths[2]) - 1] = 99
    changed = Sequences(
        **{name: getattr(sequences, name) for name in ("mask", "prompt_lengths", "lengths", "group_ids", "rows")},
        tokens=tokens,
    )
    after = tiny.model.logprobs(changed, temperature=1.0)
    same = torch.ones_like(before, dtype=torch.bool)
    same[2, int(sequences.lengths[2]) - 1] = False
    torch.testing.assert_close(after[same], before[same], atol=1e-6, rtol=0)


def weighted_gradients(model: LanguageModel, sequences: Sequences, *, trunk: bool) -> tuple[Tensor, dict[str, Tensor]]:
    weights = torch.linspace(-1, 2, sequences.mask.numel()).view(sequences.mask.shape)
    total = torch.zeros(sequences.mask.shape)
    kept = model.trunk(sequences, max_tokens=12) if trunk else None
    for part in sequences.microbatches(12):
        logprobs = model.logprobs(part, temperature=0.7, trunk=kept)
        (logprobs * weights[part.rows, : logprobs.shape[1]]).sum().backward()
        total[part.rows, : logprobs.shape[1]] = logprobs.detach()
    return total, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_cached_trunk_changes_neither_values_nor_gradients(fresh: Fresh, sequences: Sequences, layers: int) -> None:
    with_trunk, without = fresh(), fresh()
    with_trunk.freeze(layers)
    without.freeze(layers)
    values, gradients = weighted_gradients(with_trunk, sequences, trunk=True)
    plain_values, plain_gradients = weighted_gradients(without, sequences, trunk=False)
    torch.testing.assert_close(values, plain_values, atol=1e-5, rtol=0)
    assert gradients.keys() == plain_gradients.keys()
    assert len(gradients) == 9 * (3 - layers) + 1  # what is in a layer, and the last norm
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, plain_gradients[name], atol=1e-5, rtol=1e-4)


def test_gradients_are_those_of_transformers(fresh: Fresh, sequences: Sequences) -> None:
    from transformers import AutoModelForCausalLM

    model, network = fresh(), AutoModelForCausalLM.from_pretrained(locate("tiny"), dtype=torch.float32)
    model.logprobs(sequences, temperature=0.7).sum().backward()
    for row in range(len(sequences)):
        tokens = sequences.tokens[row, : sequences.lengths[row]]
        logprobs = (network(input_ids=tokens[None]).logits[0, :-1] / 0.7).log_softmax(-1)
        chosen = logprobs.gather(1, tokens[1:, None])[:, 0]
        (chosen * sequences.mask[row, 1 : len(tokens)]).sum().backward()
    theirs = dict(network.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-4, rtol=1e-3)


def test_no_trunk_without_frozen_layers_or_of_other_weights(fresh: Fresh, sequences: Sequences) -> None:
    model, other = fresh(), fresh()
    assert model.trunk(sequences) is None
    model.freeze(2)
    with torch.no_grad():
        dict(other.named_parameters())["model.layers.0.mlp.down_proj.weight"].mul_(2)
    other.freeze(2)
    assert model.trunk_key != other.trunk_key
    expected = other.logprobs(sequences, temperature=1.0)
    ignored = other.logprobs(sequences, temperature=1.0, trunk=model.trunk(sequences))
    assert torch.equal(ignored, expected)


def test_adopted_layers_are_held_once(fresh: Fresh, sequences: Sequences) -> None:
    policy, reference = fresh(), fresh()
    policy.freeze(2)
    reference.freeze(2)
    expected = reference.logprobs(sequences, temperature=1.0)
    reference.freeze_all()
    reference.adopt(policy)
    shared = [
        [mine is its for mine, its in zip(a.parameters(), b.parameters(), strict=True)]
        for a, b in zip(reference.model.lower(3), policy.model.lower(3), strict=True)
    ]
    assert [set(of_one) for of_one in shared] == [{True}, {True}, {True}, {False}]
    assert torch.equal(reference.logprobs(sequences, temperature=1.0, trunk=policy.trunk(sequences)), expected)
    assert any(parameter.requires_grad for parameter in policy.parameters())


def test_weights_that_a_reference_shares_are_in_memory_once(fresh: Fresh) -> None:
    """The tied unembedding too: it is the largest of them."""
    policy, reference = fresh(), fresh()
    policy.freeze(2)
    reference.freeze_all(2)
    reference.adopt(policy)
    storages = {p.untyped_storage().data_ptr(): p.numel() for m in (policy, reference) for p in m.parameters()}
    own = sum(p.numel() for layer in reference.model.lower(3)[3:] for p in layer.parameters())
    own += reference.model.shape.hidden_size  # the last norm
    assert sum(storages.values()) == sum(p.numel() for p in policy.parameters()) + own
    head = dict(reference.named_parameters(remove_duplicate=False))["lm_head.weight"]
    assert head.data_ptr() == dict(policy.named_parameters())["model.embed_tokens.weight"].data_ptr()


def test_there_is_no_training_mode(fresh: Fresh) -> None:
    model = fresh()
    model.train()
    assert not any(module.training for module in model.modules())


def test_kept_products_follow_the_weights(fresh: Fresh, sequences: Sequences) -> None:
    model = fresh()
    with torch.no_grad():
        before = model.logprobs(sequences, temperature=1.0)
    optimizer = Optimizer(model, recipe.Optimizer(learning_rate=0.1), 10, name="policy")
    model.logprobs(sequences, temperature=1.0).sum().backward()
    with torch.no_grad():
        assert torch.equal(model.logprobs(sequences, temperature=1.0), before)
    optimizer.step(0)
    with torch.no_grad():
        sampling = model.logprobs(sequences, temperature=1.0)
    training = model.logprobs(sequences, temperature=1.0)
    assert not torch.allclose(sampling, before, atol=0.1)
    torch.testing.assert_close(sampling, training.detach(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("width", [1, 3, 5, 17, 100])
@pytest.mark.parametrize("unit", [1, 4])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chosen_logprobs_and_their_gradients_are_those_of_log_softmax(
    monkeypatch: pytest.MonkeyPatch, width: int, unit: int, temperature: float
) -> None:
    monkeypatch.setattr(module, "LOGITS", 11 * width)
    monkeypatch.setattr(module, "WIDTH", unit)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(11, 6, generator=generator, requires_grad=True)
    weight = torch.randn(17, 6, generator=generator, requires_grad=True)
    tokens = torch.randint(17, (11,), generator=generator)
    outer = torch.randn(11, generator=generator)

    got = chosen_logprobs(hidden, weight, tokens, temperature=temperature)
    expected = torch.log_softmax(hidden @ weight.T / temperature, dim=-1)[torch.arange(11), tokens]
    torch.testing.assert_close(got, expected)
    for ours, plain in zip(
        torch.autograd.grad(got, (hidden, weight), outer),
        torch.autograd.grad(expected, (hidden, weight), outer),
        strict=True,
    ):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("cap", [None, 1.5])
def test_logits_that_are_one_part_are_made_once(monkeypatch: pytest.MonkeyPatch, cap: float | None) -> None:
    """Their slopes stay, the same whoever asks how often; those of several parts are made again."""
    made: list[int] = []
    plain = module._parts_of_logits
    monkeypatch.setattr(module, "_parts_of_logits", lambda *given: made.append(1) or plain(*given))
    hidden, weight = torch.randn(11, 6), torch.randn(17, 6)
    tokens, outer = torch.arange(11), torch.linspace(-1, 2, 11)
    learning = [x.clone().requires_grad_(True) for x in (hidden, weight)]
    logits = learning[0] @ learning[1].T
    logits = logits if cap is None else cap * (logits / cap).tanh()
    expected = (logits / 0.7).log_softmax(-1)[torch.arange(11), tokens]
    found = [torch.autograd.grad(expected, learning, outer)]
    for width, times in ((17, 1), (5, 3)):
        monkeypatch.setattr(module, "LOGITS", 11 * width)
        monkeypatch.setattr(module, "WIDTH", 1)
        made.clear()
        learning = [x.clone().requires_grad_(True) for x in (hidden, weight)]
        got = chosen_logprobs(*learning, tokens, temperature=0.7, cap=cap)
        found += [torch.autograd.grad(got, learning, outer, retain_graph=True) for _ in range(2)]
        assert len(made) == times
    for gradients in found[1:]:
        torch.testing.assert_close(gradients, found[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("budget", "width"), [(1, 4), (11 * 4, 4), (11 * 7, 4), (11 * 8, 8), (11 * 1000, 17)])
def test_parts_of_the_vocabulary_are_whole_units(monkeypatch: pytest.MonkeyPatch, budget: int, width: int) -> None:
    monkeypatch.setattr(module, "LOGITS", budget)
    monkeypatch.setattr(module, "WIDTH", 4)
    parts = [part for part, _ in module._parts_of_logits(torch.randn(11, 6), torch.randn(17, 6))]
    assert [part.start for part in parts] == list(range(0, 17, width))
    assert [part.stop for part in parts] == [*range(width, 17, width), 17]


def test_chosen_logprobs_when_only_one_side_learns() -> None:
    hidden, weight, tokens = torch.randn(4, 3), torch.randn(5, 3), torch.tensor([0, 4, 2, 2])
    for learns in (hidden, weight):
        learns.requires_grad_(True)
        chosen_logprobs(hidden, weight, tokens, temperature=1.0).sum().backward()
        assert learns.grad is not None
        learns.requires_grad_(False)
    assert chosen_logprobs(hidden, weight, tokens, temperature=1.0).grad_fn is None


def test_chosen_logprobs_of_bf16_products_are_fp32() -> None:
    hidden = torch.randn(4, 3)
    weight = torch.randn(5, 3).bfloat16().requires_grad_(True)
    got = chosen_logprobs(hidden, weight, torch.tensor([0, 1, 2, 3]), temperature=1.0)
    got.sum().backward()
    assert got.dtype == torch.float32
    assert weight.grad is not None
    assert weight.grad.dtype == torch.bfloat16
    assert chosen_logprobs(hidden[:0], weight, torch.tensor([], dtype=torch.long), temperature=1.0).shape == (0,)
