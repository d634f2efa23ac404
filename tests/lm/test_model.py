from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from palate.errors import ModelError
from palate.lm import model as lm_model
from palate.lm.adapters import adapt
from palate.lm.batch import Sequences
from palate.lm.model import LanguageModel, ScalarModel
from palate.lm.sources.builtin import byte_tokenizer
from palate.lm.sources.zoo import Loaded, load_language_model, load_scalar_model, save, sketch_model
from palate.recipe import Adapter, Sampling
from palate.records import Prompt
from palate.rollout.local import LocalEngine

FreshScalar = Callable[[], ScalarModel]


@torch.no_grad()
def raw_by_hand(loaded: Loaded[ScalarModel], sequences: Sequences) -> list[Tensor]:
    """The head's output after every token of every sequence alone."""
    model, out = loaded.model, []
    for row in range(len(sequences)):
        alone = sequences.select(torch.tensor([row]))
        position = torch.arange(int(alone.lengths[0]))
        out.append(model.score(model.hidden(alone, torch.zeros_like(position), position, None))[:, 0])
    return out


def test_a_score_is_read_at_the_last_real_token(tiny_scalar: Loaded[ScalarModel], sequences: Sequences) -> None:
    expected = torch.stack([raw[-1] for raw in raw_by_hand(tiny_scalar, sequences)])
    torch.testing.assert_close(tiny_scalar.model.scores(sequences)[:, 0].detach(), expected, atol=1e-6, rtol=1e-5)
    assert len(set(expected.tolist())) == len(sequences)


def test_a_score_depends_on_its_sequence_alone(tiny_scalar: Loaded[ScalarModel], sequences: Sequences) -> None:
    model = tiny_scalar.model
    together = model.scores(sequences).detach()
    for row in range(len(sequences)):
        alone = model.scores(sequences.select(torch.tensor([row])))
        torch.testing.assert_close(alone[0].detach(), together[row], atol=1e-6, rtol=1e-5)
    padded = torch.nn.functional.pad(sequences.tokens, (0, 5), value=2)  # padding that looks like EOS
    widened = Sequences(
        tokens=padded,
        mask=torch.nn.functional.pad(sequences.mask, (0, 5)),
        prompt_lengths=sequences.prompt_lengths,
        lengths=sequences.lengths,
        group_ids=sequences.group_ids,
        rows=sequences.rows,
    )
    torch.testing.assert_close(model.scores(widened).detach(), together, atol=1e-6, rtol=1e-5)


def test_values_are_read_before_each_token(tiny_scalar: Loaded[ScalarModel], sequences: Sequences) -> None:
    values = tiny_scalar.model.values(sequences).detach()
    for row, raw in enumerate(raw_by_hand(tiny_scalar, sequences)):
        for t in range(sequences.tokens.shape[1]):
            expected = float(raw[t - 1]) if sequences.mask[row, t] else 0.0
            assert float(values[row, t]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_trunk_changes_no_score_and_no_value(fresh_scalar: FreshScalar, sequences: Sequences, layers: int) -> None:
    model = fresh_scalar()
    scores, values = model.scores(sequences), model.values(sequences)
    model.freeze(layers)
    trunk = model.trunk(sequences)
    torch.testing.assert_close(model.scores(sequences, trunk=trunk), scores, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model.values(sequences, trunk=trunk), values, atol=1e-6, rtol=1e-5)


def test_a_policys_trunk_serves_a_value_model(
    tiny: Loaded[LanguageModel], fresh_scalar: FreshScalar, sequences: Sequences
) -> None:
    policy, value_model = copy.deepcopy(tiny.model), fresh_scalar()
    policy.freeze(2)
    value_model.freeze(2)
    assert policy.trunk_key == value_model.trunk_key
    plain = value_model.values(sequences)
    torch.testing.assert_close(value_model.values(sequences, trunk=policy.trunk(sequences)), plain)


def test_rescaled_models_give_normalised_numbers(fresh_scalar: FreshScalar, sequences: Sequences) -> None:
    model = fresh_scalar()
    raw = model.scores(sequences).detach()
    model.average_heads({0: (0.3, 0.02)})
    torch.testing.assert_close(model.scores(sequences).detach(), (raw - 0.3) / 0.02, atol=1e-4, rtol=1e-4)
    with pytest.raises(AssertionError):
        save(model, None, Path("nowhere"))  # type: ignore[arg-type]


def test_of_several_heads_the_chosen_ones_are_averaged_each_in_its_units(sequences: Sequences) -> None:
    model = load_scalar_model("tiny", precision="fp32", heads=3).model
    raw, values = model.scores(sequences).detach(), model.values(sequences).detach()
    assert raw.shape == (len(sequences), 3)
    assert values.shape == sequences.mask.shape
    model.average_heads({2: (0.3, 0.02), 0: (-1.0, 4.0)})
    expected = ((raw[:, 2] - 0.3) / 0.02 + (raw[:, 0] + 1.0) / 4.0) / 2
    torch.testing.assert_close(model.scores(sequences).detach(), expected[:, None], atol=1e-4, rtol=1e-4)
    assert model.num_heads == model.config.num_labels == 1


def test_a_value_is_the_mean_of_the_heads(sequences: Sequences) -> None:
    several = load_scalar_model("tiny", precision="fp32", heads=3).model
    values = several.values(sequences).detach()
    several.average_heads(dict.fromkeys(range(3), (0.0, 1.0)))
    torch.testing.assert_close(several.values(sequences).detach(), values, atol=1e-6, rtol=1e-5)
    assert float(values.abs().max()) > 0


def test_every_head_has_a_seed_of_its_own_and_the_first_is_the_one_alone() -> None:
    one, three, same = (load_scalar_model("tiny", precision="fp32", heads=heads).model for heads in (1, 3, 3))
    assert torch.equal(three.score.weight[:1], one.score.weight)
    assert torch.equal(three.score.weight, same.score.weight)
    for other in three.score.weight[1:]:
        assert not torch.isclose(other, three.score.weight[0]).any()
        assert (other.detach().abs() < 0.2).all()


def test_several_heads_are_several_labels_in_transformers(sequences: Sequences, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    loaded = load_scalar_model("tiny", precision="fp32", heads=3)
    save(loaded.model, loaded.chat, tmp_path / "model")
    network: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert network.config.num_labels == 3
    with torch.no_grad():
        theirs = network(**padded(sequences, network.config.pad_token_id, "right")).logits
    torch.testing.assert_close(theirs, loaded.model.scores(sequences).detach(), atol=1e-5, rtol=0)
    for heads in (None, 3):
        again = load_scalar_model(str(tmp_path / "model"), precision="fp32", seed=9, heads=heads)
        assert torch.equal(again.model.scores(sequences), loaded.model.scores(sequences))
    with pytest.raises(ModelError, match="is a reward model of 3 heads, not 2: start from a language model"):
        load_scalar_model(str(tmp_path / "model"), heads=2)


def test_a_sketch_has_as_many_heads_as_the_model_will_have(tmp_path: Path) -> None:
    """What a run will take is told from it."""
    loaded = load_scalar_model("tiny", precision="fp32", heads=3)
    save(loaded.model, loaded.chat, tmp_path / "model")
    for name, wanted, expected in (("tiny", None, 1), ("tiny", 5, 5), (str(tmp_path / "model"), None, 3)):
        sketch = sketch_model(name, ScalarModel, heads=wanted)
        assert sketch.model.score.weight.shape == sketch.anew().score.weight.shape == (expected, 32)
    with pytest.raises(ModelError, match="of 3 heads, not 5"):
        sketch_model(str(tmp_path / "model"), ScalarModel, heads=5)


def test_a_new_head_is_small_seeded_and_has_no_bias(sequences: Sequences) -> None:
    first, same, other = (load_scalar_model("tiny", precision="fp32", seed=seed).model for seed in (1, 1, 2))
    assert torch.equal(first.score.weight, same.score.weight)
    assert not torch.equal(first.score.weight, other.score.weight)
    assert first.score.bias is None
    assert (first.scores(sequences).detach().abs() < 0.5).all()


def padded(sequences: Sequences, pad: int, side: str) -> dict[str, Tensor]:
    """What transformers is given: ids padded with the pad token, and a mask."""
    width = sequences.tokens.shape[1]
    rows, masks = [], []
    for tokens, length in zip(sequences.tokens.tolist(), sequences.lengths.tolist(), strict=True):
        fill, real = [pad] * (width - length), tokens[:length]
        rows.append(fill + real if side == "left" else real + fill)
        absent, present = [0] * len(fill), [1] * length
        masks.append(absent + present if side == "left" else present + absent)
    mask = torch.tensor(masks)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": torch.tensor(rows), "attention_mask": mask, "position_ids": positions}


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_saved_reward_model_gives_transformers_the_same_scores(
    tiny_scalar: Loaded[ScalarModel], sequences: Sequences, tmp_path: Path, side: str
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    save(tiny_scalar.model, tiny_scalar.chat, tmp_path / "model")
    network: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert network.config.num_labels == 1
    assert network.dtype == torch.float32
    assert network.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    with torch.no_grad():
        theirs = network(**padded(sequences, network.config.pad_token_id, side)).logits[:, 0]
    torch.testing.assert_close(theirs, tiny_scalar.model.scores(sequences)[:, 0].detach(), atol=1e-5, rtol=0)
    again = load_scalar_model(str(tmp_path / "model"), precision="fp32", seed=99)
    assert torch.equal(again.model.scores(sequences), tiny_scalar.model.scores(sequences))


def test_a_saved_policy_gives_transformers_the_same_logprobs(
    tiny: Loaded[LanguageModel], sequences: Sequences, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model = copy.deepcopy(tiny.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.05)
    save(model, tiny.chat, tmp_path / "model")
    network: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        logits = network(**padded(sequences, 0, "right")).logits
    theirs = logits[:, :-1].log_softmax(-1).gather(-1, sequences.tokens[:, 1:, None])[..., 0]
    ours = model.logprobs(sequences, temperature=1.0).detach()[:, 1:]
    mask = sequences.mask[:, 1:]
    torch.testing.assert_close(theirs[mask], ours[mask], atol=1e-4, rtol=0)
    assert network.config.eos_token_id == tiny.chat.stop_id


@pytest.mark.parametrize("act", ["logprobs", "scores", "values", "trunk", "sampling"])
def test_every_pass_is_seen_by_hooks(
    tiny: Loaded[LanguageModel], fresh_scalar: FreshScalar, sequences: Sequences, act: str
) -> None:
    """On the model, what is below its head, a layer, a projection of a fused product and the head."""
    model = fresh_scalar() if act in ("scores", "values") else copy.deepcopy(tiny.model)
    model.freeze(1)
    head = "score" if isinstance(model, ScalarModel) else "lm_head"
    watched = ["", "model", "model.layers.0", "model.layers.0.self_attn.k_proj", "model.layers.0.mlp.down_proj", head]
    calls: Counter[str] = Counter()
    depth: list[str] = []
    for name in watched:
        module = model.get_submodule(name)
        module.register_forward_pre_hook(lambda *_, name=name: depth.append(name))
        module.register_forward_hook(lambda *_, name=name: calls.update([name]) or depth.remove(name))
        if name:  # what is called is called from inside the model
            module.register_forward_pre_hook(lambda *_: calls.update(["outside"] if "" not in depth else []))
    match act:
        case "logprobs":
            model.logprobs(sequences, temperature=1.0)
        case "scores":
            model.scores(sequences)
        case "values":
            model.values(sequences)
        case "trunk":
            model.trunk(sequences)
        case "sampling":
            sampling = Sampling(max_new_tokens=4)
            LocalEngine(model, tiny.chat).generate([Prompt.from_text("Hi")], sampling, num_responses=2, key=(1,))
    assert {name for name in watched if calls[name]} == set(watched) - ({head} if act == "trunk" else set())
    assert not calls["outside"]
    if act == "sampling":  # a prompt, and four tokens of which the last is not read
        assert calls["model"] == calls["model.layers.0.self_attn.k_proj"] == 4
        assert calls[head] == 4


@pytest.mark.parametrize("learns", ["weights", "adapters"])
@pytest.mark.parametrize("network", ["tiny", "gpt2"])
def test_recomputed_activations_are_not_kept(network: str, learns: str, sequences: Sequences, tmp_path: Path) -> None:
    """The same bits from less memory, in both kinds of network."""
    if network == "gpt2":
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        tokens = {"vocab_size": 259, "eos_token_id": 2, "bos_token_id": None, "pad_token_id": 0}
        GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=3, n_head=4, **tokens)).save_pretrained(tmp_path)
        byte_tokenizer().save_pretrained(tmp_path)

    def computed(*, again: bool) -> tuple[Tensor, int, list[Tensor]]:
        model = load_language_model(str(tmp_path) if network == "gpt2" else network, precision="fp32").model
        if again:
            model.model.recompute()
        if learns == "adapters":
            adapt(model, Adapter(rank=2), seed=0)
            model = copy.deepcopy(model)  # as when it is written
        kept: dict[int, int] = {}
        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

        def keeps(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keeps, lambda tensor: tensor):
            logprobs = model.logprobs(sequences, temperature=1.0)
        size = sum(nbytes for pointer, nbytes in kept.items() if pointer not in own)
        logprobs.sum().backward()
        with torch.no_grad():
            torch.testing.assert_close(model.logprobs(sequences, temperature=1.0), logprobs)
        return logprobs.detach(), size, [p.grad for p in model.parameters() if p.grad is not None]

    plain, size, gradients = computed(again=False)
    same, less, again = computed(again=True)
    assert torch.equal(same, plain)
    assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True))
    assert less < 0.6 * size


def test_a_trunk_is_limited_in_bytes(fresh_scalar: FreshScalar, sequences: Sequences, monkeypatch: Any) -> None:
    """Of what is kept: of two prompts that are shared one copy."""
    model = fresh_scalar()
    model.freeze(1)
    trunk = model.trunk(sequences)
    assert trunk is not None
    kept = sum(rows.numel() * 4 for rows in (*trunk.prompts.values(), *trunk.responses.values()))
    monkeypatch.setattr(lm_model, "TRUNK_BYTES", kept)
    assert model.trunk(sequences) is not None
    monkeypatch.setattr(lm_model, "TRUNK_BYTES", kept - 1)
    assert model.trunk(sequences) is None


def test_what_never_learns_is_stored_as_it_is_multiplied(sequences: Sequences) -> None:
    """In half the memory and with the same numbers; but what a model that learns shares will be written, and stays."""
    policy, reference, third = (load_language_model("tiny", precision="bf16").model for _ in range(3))
    policy.freeze(2)
    for other in (reference, third):
        with torch.no_grad():
            dict(other.named_parameters())["model.layers.2.mlp.up_proj.weight"].mul_(1.01)
        other.freeze_all(2)
    before = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
    expected = reference.logprobs(sequences, temperature=1.0)
    reference.join([policy])
    third.join([policy, reference])
    assert torch.equal(reference.logprobs(sequences, temperature=1.0), expected)
    kept = dict(policy.named_parameters())
    assert all(kept[name].dtype == weight.dtype and torch.equal(kept[name], weight) for name, weight in before.items())
    for name, weight in reference.named_parameters():
        is_product = name.startswith("model.layers.") and name.endswith("_proj.weight")
        is_own = is_product and int(name.split(".")[2]) >= 2
        assert weight.dtype == (torch.bfloat16 if is_own else torch.float32), name
    assert all(mine is its for mine, its in zip(third.parameters(), reference.parameters(), strict=True))
