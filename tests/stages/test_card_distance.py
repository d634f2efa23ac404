"""The KL beside a card's win rate: held against an exact sum over everything that could be said, and kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from palate.errors import ModelError, RecipeError
from palate.evals.asking import start_reading
from palate.evals.card.distances import Distances, Gone, allowed, gone
from palate.evals.protocols.items import Said
from palate.intervals import Estimate
from palate.lm import batch
from palate.lm.batch import Sequences
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded, load_language_model, locate, save
from palate.recipe import CardRecipe, parse_recipe
from palate.records import Message, Prompt
from palate.run.directory import Run
from palate.stages.measuring.card import report_card

PROMPTS = tuple(Prompt(messages=(Message(role="user", content=f"{word}?"),)) for word in ("Tea", "A mill", "Rain"))
HEAT = 0.7


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))


def moved(tmp_path: Path, name: str, seed: int, spread: float) -> str:
    """The tiny model with noise on its weights."""
    loaded, numbers = load_language_model("tiny", precision="fp32"), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.add_(spread * parameter.std() * torch.randn(parameter.shape, generator=numbers))
    save(loaded.model, loaded.chat, tmp_path / name)
    return str(tmp_path / name)


def carded(tmp_path: Path, run: str = "run", **settings: Any) -> dict[str, Any]:
    """The numbers of a card with a win rate alone, of responses of two tokens at most."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": each.messages[0].content}) + "\n" for each in PROMPTS))
    tree = {
        "stage": "card",
        "precision": "fp32",
        "sections": [{"protocol": "win_rate", "path": str(path)}],
        "judge": {"length": 9.0},
        "sampling": {"max_new_tokens": 2, "temperature": HEAT, "num_slots": 512},
        "responses_per_prompt": 600,
    }
    recipe = parse_recipe(CardRecipe, tree | settings)
    report_card(recipe, Run.open(tmp_path / run, recipe))
    found: dict[str, Any] = json.loads((tmp_path / run / "report.json").read_text())
    return found


@torch.no_grad()
def next_tokens(loaded: Loaded[LanguageModel], context: list[list[int]]) -> torch.Tensor:
    """[N, V] log-probabilities of whatever may follow, for contexts of one length."""
    rows = Sequences.pack([each[:1] for each in context], [[*each[1:], 0] for each in context])
    last = torch.full((len(context),), len(context[0]) - 1)
    hidden = loaded.model.hidden(rows, torch.arange(len(context)), last, None)
    return (loaded.model.logits(hidden).double() / HEAT).log_softmax(-1)


def exact(model: Loaded[LanguageModel], start: Loaded[LanguageModel]) -> tuple[float, float]:
    """KL of a response, and of a token, over all responses of two tokens at most."""
    nats, tokens = [], []
    for prompt in PROMPTS:
        context = model.chat.prompt_tokens(prompt)
        p, q = next_tokens(model, [context]), next_tokens(start, [context])
        every = [[*context, token] for token in range(p.shape[1])]
        p2, q2 = next_tokens(model, every), next_tokens(start, every)
        goes_on = p[0].exp().clone()
        goes_on[model.chat.stop_id] = 0.0
        of_second = (p2.exp() * (p2 - q2)).sum(-1)
        nats.append(float((p.exp() * (p - q)).sum() + (goes_on * of_second).sum()))
        tokens.append(1 + float(goes_on.sum()))
    return float(np.mean(nats)), float(np.sum(nats) / np.sum(tokens))


def test_both_kls_are_the_exact_ones(tmp_path: Path) -> None:
    near, far = moved(tmp_path, "near", 1, 0.4), moved(tmp_path, "far", 2, 1.0)
    found = carded(tmp_path, model=far, baseline=near, reference="tiny")["kl"]
    start = load_language_model("tiny", precision="fp32")
    for key, name in (("model", far), ("baseline", near)):
        whole, token = exact(load_language_model(name, precision="fp32"), start)
        assert found[key]["kl"] == pytest.approx(whole, rel=0.1), key
        assert found[key]["kl_per_token"] == pytest.approx(token, rel=0.1), key
        assert found[key]["kl_low"] < found[key]["kl"] < found[key]["kl_high"]
    assert found["model"]["kl"] > 2 * found["baseline"]["kl"] > 0
    assert found["difference"] == pytest.approx(found["model"]["kl"] - found["baseline"]["kl"])
    assert (found["start"], found["estimator"], found["items"]) == ("tiny", "k1", 3)


def test_the_baseline_is_the_start_unless_another_is_named(tmp_path: Path) -> None:
    far = moved(tmp_path, "far", 2, 1.0)
    found = carded(tmp_path, model=far, baseline="tiny", responses_per_prompt=20)["kl"]
    assert (found["baseline"]["kl"], found["baseline"]["kl_low"], found["start"]) == (0, 0, "tiny")
    other = carded(tmp_path, "other", model=far, baseline="tiny", reference=far, responses_per_prompt=20)["kl"]
    assert (other["model"]["kl"], other["start"]) == (0, far)
    assert found["model"]["kl"] > 0 < other["baseline"]["kl"]
    assert found["model"]["kl"] != other["baseline"]["kl"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert ">KL from tiny</h2>" in page
    assert "0, the start itself" in page
    assert "this win rate is not at equal KL" in page


def test_what_was_read_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    per_token = batch.per_token

    def counts(sequences: Sequences, *rest: Any) -> Any:
        read.append(len(sequences))
        return per_token(sequences, *rest)

    monkeypatch.setattr(start_reading, "per_token", counts)
    settings: dict[str, Any] = {"model": moved(tmp_path, "far", 2, 1.0), "baseline": "tiny", "responses_per_prompt": 4}
    one, other = carded(tmp_path, **settings), carded(tmp_path, "again", **settings)
    assert read == [12]
    assert one["kl"] == other["kl"]
    start = load_language_model("tiny", precision="fp32")
    prompts, said = [start.chat.prompt_tokens(PROMPTS[0])], [[Said("a", True, (97,), -1.0)]]
    found = [
        start_reading.read_by_start(start, prompts, said, temperature=heat, max_tokens=99, cache=tmp_path / "kept")
        for heat in (0.7, 1.4, 0.7)
    ]
    assert read == [12, 1, 1]
    assert found[0] == found[2] != found[1]


def test_models_of_two_vocabularies(tmp_path: Path) -> None:
    strange = tmp_path / "strange"
    shutil.copytree(locate("tiny"), strange)
    tree = json.loads((strange / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tree["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (strange / "tokenizer.json").write_text(json.dumps(tree), encoding="utf-8")
    settings: dict[str, Any] = {"model": "tiny", "responses_per_prompt": 2}
    found = carded(tmp_path, **settings, baseline=str(strange))
    assert "kl" not in found
    assert any("another vocabulary" in note for note in found["notes"])
    with pytest.raises(ModelError, match="another vocabulary than the model"):
        carded(tmp_path, "named", **settings, baseline="tiny", reference=str(strange))


def test_a_reference_without_a_win_rate_is_a_mistake() -> None:
    tree = {
        "model": "tiny",
        "reference": "tiny",
        "sections": [{"protocol": "lambada", "path": "x.jsonl"}],
    }
    with pytest.raises(RecipeError, match="reference: KL is measured on the responses of `win_rate`"):
        parse_recipe(CardRecipe, tree)


def test_by_hand() -> None:
    said = [[Said("a", True, (1, 2), -1.0), Said("b", True, (1,), -2.0)], [Said("c", True, (1, 2, 3), -0.5)]]
    found = gone(said, [[-1.5, -4.0], [-1.0]])
    assert found.nats.tolist() == [1.25, 0.5]
    assert found.per_response(0).value == pytest.approx(0.875)
    assert found.per_token(0).value == pytest.approx(1.75 / 4.5)
    assert gone(said, None).per_token(0) == Estimate(0.0, 0.0, 0.0)


def test_what_may_be_said() -> None:
    """The further one's lead may be bought; the nearer one's is not; alike is not equal."""
    wide, little = np.array([3.0, 3.1, 2.9, 3.2]), np.array([1.0, 1.1, 0.9, 1.1])
    ones = np.ones(4)

    def said(model: Any, baseline: Any, won: float) -> str:
        ways = [Gone(nats=nats, tokens=ones, is_start=nats is None) for nats in (model, baseline)]
        found = Distances(start="s", model=ways[0], baseline=ways[1], temperature=1.0)
        return " ".join(allowed(found, Estimate(won), found.further(0)))

    assert "The model has gone further" in said(wide, little, 0.7)
    assert "may be what the additional nats bought" in said(wide, little, 0.7)
    assert "is not bought with nats" in said(wide, little, 0.3)
    assert "That the model has more of the wins is not bought" in said(little, wide, 0.7)
    assert "not been told apart in KL" in said(little, little + np.array([0.1, -0.1, 0.1, -0.1]), 0.7)
    assert "below zero" in said(-wide, little, 0.7)
