"""KTO: what a response has to be better than, and that what people liked becomes likelier."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from palate.corpus import read_rankings
from palate.corpus.splits import split
from palate.lm.batch import Sequences
from palate.lm.sources.zoo import load_language_model
from palate.recipe import KTORecipe, parse_recipe
from palate.records import Prompt, Ranking, Response, ToolCall
from palate.run.directory import Run
from palate.stages import kto

RATE = {"learning_rate": 1e-3, "schedule": "constant", "warmup": 0.0}


def trained(tree: dict[str, Any], out: Path) -> tuple[KTORecipe, list[dict[str, float]]]:
    """A run: its recipe and its metrics."""
    recipe = parse_recipe(KTORecipe, tree)
    kto.train(recipe, Run.open(out, recipe))
    return recipe, [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def logprobs(model: str, prompts: list[list[int]], responses: list[list[int]], temperature: float) -> Tensor:
    """[N] of whole responses, one after the other."""
    policy = load_language_model(model, precision="fp32").model
    with torch.no_grad():
        each = (Sequences.pack([a], [b]) for a, b in zip(prompts, responses, strict=True))
        return torch.stack([policy.logprobs(one, temperature=temperature).sum() for one in each])


def test_the_reference_point_is_the_mean_log_ratio_of_responses_to_other_prompts(
    settings: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Of a second step on all thumbs; the policy is then what a run of one step made."""
    tree = settings["kto"] | {"batch_size": 64, "epochs": 1, "optimizer": RATE}
    recipe, first = trained(tree, tmp_path / "one")
    _, both = trained(tree | {"epochs": 2}, tmp_path / "two")
    assert first[0]["kto/kl"] == pytest.approx(0.0, abs=1e-4)

    chat = load_language_model("tiny").chat
    learned, _ = split(read_rankings(recipe.data).records, recipe.holdout)
    prompts = [chat.prompt_tokens(thumb.prompt) for thumb in learned]
    responses = [chat.response_tokens(thumb.responses[0].text) for thumb in learned]
    others = kto.mismatched(prompts, Sequences.pack(prompts, responses), seed=0, max_length=recipe.max_length)
    following = [responses[row] for row in others if row is not None]
    assert len(following) == len(prompts)
    now, before = (logprobs(model, prompts, following, recipe.temperature) for model in (str(tmp_path / "one"), "tiny"))
    assert float((now - before).abs().max()) > 0.01
    kl = float((now - before).mean())
    assert both[1]["kto/kl"] == pytest.approx(kl, abs=2e-4)
    assert both[1]["kto/reference_point"] == pytest.approx(max(0.0, kl), abs=2e-4)


def test_liked_responses_become_likelier_and_disliked_ones_less_likely(
    settings: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    tree = settings["kto"] | {"epochs": 6, "optimizer": RATE}
    _, rows = trained(tree, tmp_path / "run")
    rows = [row for row in rows if {"kto/desirable_reward", "kto/undesirable_reward"} <= row.keys()]
    assert rows[-1]["kto/desirable_reward"] > 0.05 > rows[0]["kto/desirable_reward"]
    assert rows[-1]["kto/undesirable_reward"] < -0.05
    assert rows[-1]["kto/loss"] < 0.45 < rows[0]["kto/loss"]
    assert rows[-1]["kto/accuracy"] > 0.9
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["held_out_accuracy"] > 0.7
    assert 0 < report["thumbs_up"] < report["thumbs"]


def test_the_held_out_accuracy_by_hand(settings: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Of thumbs that are held out, after a run that has not learned them all; others' responses are of the learned."""
    tree = settings["kto"] | {"epochs": 2, "holdout": {"fraction": 0.6}, "optimizer": RATE}
    recipe, _ = trained(tree, tmp_path / "run")
    chat = load_language_model("tiny").chat
    parts = split(read_rankings(recipe.data).records, recipe.holdout)
    (among, theirs), (prompts, own) = (
        (
            [chat.prompt_tokens(thumb.prompt) for thumb in part],
            [chat.response_tokens(thumb.responses[0].text) for thumb in part],
        )
        for part in parts
    )
    others = kto.mismatched(prompts, Sequences.pack(among, theirs), seed=0, max_length=recipe.max_length)
    following = [theirs[row] for row in others if row is not None]
    (leads, kl) = (
        logprobs(str(tmp_path / "run"), prompts, responses, recipe.temperature)
        - logprobs("tiny", prompts, responses, recipe.temperature)
        for responses in (own, following)
    )
    ahead = leads > kl.mean().clamp(min=0)
    right = [bool(lead) == kto.is_up(thumb) for lead, thumb in zip(ahead, parts[1], strict=True)]
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["held_out_accuracy"] == pytest.approx(sum(right) / len(right))
    assert 0 < sum(right) < len(right)


def test_a_thumb_is_a_judgement_of_one_text_as_good_or_bad(tmp_path: Path) -> None:
    """Everything else is counted by what it is instead, also where it has ratings."""
    good, other = Response(text="Good."), Response(text="Other.")
    calls = Response(text="", tool_calls=(ToolCall(name="look"),))
    told: dict[str, list[tuple[tuple[Response, ...], tuple[float, ...] | None]]] = {
        "": [((good,), (7.0,)), ((good,), (4.5,)), ((good,), (1.0,))],
        "a comparison of several responses, not a thumb": [((good, other), (7.0, 1.0)), ((good, other), None)],
        "neither good nor bad: no thumb": [((good,), (4.0,)), ((good,), None)],
        "a response that calls a tool: only texts are learned": [((calls,), (7.0,))],
    }
    rankings = [
        Ranking(
            prompt=Prompt.from_text(f"{reason} {number}"),
            responses=responses,
            ranks=tuple(range(1, len(responses) + 1)),
            ratings=ratings,
        )
        for reason, each in told.items()
        for number, (responses, ratings) in enumerate(each)
    ]
    path = tmp_path / "thumbs.jsonl"
    path.write_text("".join(ranking.to_json() + "\n" for ranking in rankings), encoding="utf-8")
    data = read_rankings(data_of(path))
    kept = kto.thumbs(data)
    assert [ranking.ratings for ranking in kept] == [(7.0,), (4.5,), (1.0,)]
    assert [kto.is_up(thumb) for thumb in kept] == [True, True, False]
    assert data.rejected.unusable == {reason: len(each) for reason, each in told.items() if reason}


@pytest.mark.parametrize(
    ("name", "column", "words"),
    [
        ("thumbs.jsonl", "thumb", {"up": "up", "down": "down"}),
        ("thumbs.jsonl", "liked", {"up": True, "down": False}),
        ("thumbs.csv", "reaction", {"up": "👍", "down": "👎"}),
    ],
)
def test_a_row_of_prompt_response_and_thumb_is_learned_from_as_it_is(
    name: str, column: str, words: dict[str, object], settings: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """To the last bit what our own records teach, without a format being named or anything converted."""
    told = [
        each.model_copy(update={"prompt": Prompt.from_text(each.prompt.text)})
        for each in read_rankings(data_of(Path(settings["kto"]["data"]["path"]))).records
    ]
    (tmp_path / "ours.jsonl").write_text("".join(each.to_json() + "\n" for each in told), encoding="utf-8")
    rows = [
        {
            "prompt": each.prompt.text,
            "response": each.responses[0].text,
            column: words["up" if each.ratings == (7.0,) else "down"],
        }
        for each in told
    ]
    with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
        if name.endswith(".csv"):
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    tree = settings["kto"] | {"epochs": 2, "optimizer": RATE}
    _, ours = trained(tree | {"data": {"path": str(tmp_path / "ours.jsonl")}}, tmp_path / "ours")
    _, theirs = trained(tree | {"data": {"path": str(tmp_path / name)}}, tmp_path / "theirs")
    weights = "model/model.safetensors"
    assert (tmp_path / "theirs" / weights).read_bytes() == (tmp_path / "ours" / weights).read_bytes()
    assert [row["kto/loss"] for row in theirs] == [row["kto/loss"] for row in ours]
    reports = [json.loads((tmp_path / run / "report.json").read_text(encoding="utf-8")) for run in ("ours", "theirs")]
    assert reports[0]["thumbs_up"] == reports[1]["thumbs_up"] > 0
    assert reports[1]["left_out"] == 0


tokens = st.lists(st.integers(1, 3), min_size=1, max_size=3)


@given(prompts=st.lists(tokens, min_size=1, max_size=12), data=st.data())
def test_a_mismatched_response_answers_another_prompt_and_fits(prompts: list[list[int]], data: st.DataObject) -> None:
    """One is found for every prompt for which there is one."""
    responses = [data.draw(st.lists(st.integers(4, 9), min_size=1, max_size=4)) for _ in prompts]
    found = kto.mismatched(prompts, Sequences.pack(prompts, responses), seed=1, max_length=5)
    for prompt, row in zip(prompts, found, strict=True):
        fits = {
            number
            for number, (other, response) in enumerate(zip(prompts, responses, strict=True))
            if other != prompt and len(prompt) + len(response) <= 5
        }
        assert row in fits if fits else row is None


def test_every_response_is_taken_about_as_often_as_any_other() -> None:
    prompts = [[number] for number in range(40)]
    found = kto.mismatched(prompts, Sequences.pack(prompts, [[50]] * 40), seed=0, max_length=9)
    assert len(set(found)) > 35


def test_a_thumb_without_a_mismatched_response_is_left_out_and_counted(
    settings: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """A prompt so long that no other response fits behind it, though its own does."""
    path = Path(settings["kto"]["data"]["path"])
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["responses"][0]["text"] = "It is good, and it goes on."
    rows.append(
        {
            "prompt": {"messages": [{"role": "user", "content": "long " * 30}]},
            "responses": [{"text": "Hm."}],
            "ranks": [1],
            "ratings": [7.0],
        }
    )
    data = tmp_path / "thumbs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    chat = load_language_model("tiny").chat
    longest = max(len(chat.prompt_tokens(ranking.prompt)) for ranking in read_rankings(data_of(data)).records)
    tree = settings["kto"] | {"data": {"path": str(data)}, "max_length": longest + 8}
    _, metrics = trained(tree, tmp_path / "run")
    assert [row["data/left_out"] for row in metrics] == [1] * len(metrics)
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["left_out"] == 1
    assert any(kto.LONE in note for note in report["notes"])


def data_of(path: Path) -> Any:
    from palate.recipe import Data

    return Data(path=str(path))
