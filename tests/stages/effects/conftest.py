"""The small files and the base recipes that the runs of this folder are variations of."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.stages.effects import agents
from tests.stages.effects.runs import Runs

from palate.lm.batch import Sequences
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded, load_language_model, load_scalar_model, save
from palate.records import Demonstration, Prompt, Ranking, Response
from palate.rewards.heads import NORMALIZATION_FILE, Head, Normalization, files_of

SUBJECTS = (
    *("the sea", "mills", "rain in May", "old bread", "a clean desk", "trains", "moss", "the moon"),
    *("apples", "ink", "long walks", "snow", "a quiet street", "bees", "rope", "the north wind"),
    *("salt", "clocks", "wool", "a second cup of tea", "chalk", "rivers", "a letter", "the last bus"),
)
"""Of their own: what is counted and compared here must not move with the demonstration's prompts."""
PROMPTS = tuple(Prompt.from_text(f"What do you think of {subject}?") for subject in SUBJECTS)
ANSWERS = ("It is good.", "It is bad and goes on for rather too long.", "Hm.", "What?")


def records(prompts: list[Prompt], kind: str) -> Iterable[str]:
    """Lines of a file of one kind about these prompts; the third and the eighth are long."""
    said = ["and so on " * 20 if number in (2, 7) else "" for number in range(len(prompts))]
    for number, (prompt, more) in enumerate(zip(prompts, said, strict=True)):
        if kind == "prompts":
            yield Prompt.from_text(prompt.text + more).to_json()
        elif kind == "demonstrations":
            response = Response(text="Yes, it is fine." + " Very." * (number % 3) + more)
            yield Demonstration(prompt=prompt, response=response).to_json()
        elif kind == "thumbs":
            response, rating = Response(text="Yes, it is fine." + more), 7.0 if number % 3 else 1.0
            yield Ranking(prompt=prompt, responses=(response,), ranks=(1,), ratings=(rating,)).to_json()
        elif kind == "strong_rankings":
            for labeler, ranks, strength in (("ann", (1, 2), 1.0), ("bob", (2, 1, 3), 2.5), ("cat", (1, 1), None)):
                responses = tuple(Response(text=text) for text in ANSWERS[: len(ranks)])
                yield Ranking(
                    prompt=prompt, responses=responses, ranks=ranks, labeler=labeler, strength=strength
                ).to_json()
        elif kind == "told_rankings":  # ratings, flags and what the prompt is about
            about = {"topic": "tea" if number % 2 else "mills", "mood": "tea" if number % 3 else "mills"}
            yield Ranking(
                prompt=prompt.model_copy(update={"tags": about}),
                responses=tuple(Response(text=text) for text in ANSWERS[:3]),
                ranks=(1, 3, 2),
                ratings=(6 + number % 2, 1 + number % 3, 4.5),
                flags=((), ("hallucination",), ("opinion",) if number % 2 else ()),
            ).to_json()
        elif kind == "rankings":
            texts = (ANSWERS[0] + more, *ANSWERS[1:])
            for labeler, ranks in (("ann", (1, 3, 2, 2)), ("bob", (1, 4, 3, 2))):
                responses = tuple(Response(text=text) for text in texts)
                yield Ranking(prompt=prompt, responses=responses, ranks=ranks, labeler=labeler).to_json()
        else:
            yield json.dumps({"text": f"{prompt.text} It turned all day, and nobody knew why. " * 3})


def rows_of_others() -> dict[str, list[dict[str, Any]]]:
    """Files in other people's columns, each of which needs one key of a data section to be read."""
    numbers = range(12)
    tags = [{"topic": "tea" if number % 2 else "mills", "mood": "tea" if number % 3 else "mills"} for number in numbers]
    pairs = [{"prompt": f"What of {n}?", "chosen": f"Much of {n}.", "rejected": f"Not {n}."} for n in numbers]
    columns = {
        "rankings": [
            {"q": f"What of {n}?", "x": f"Much of {n}.", "y": f"Not {n}.", "better": "a", **tags[n]} for n in numbers
        ],
        "demonstrations": [{"q": f"What of {n}?", "x": f"Much of {n}.", **tags[n]} for n in numbers],
        "texts": [{"q": f"What of {n}? " * 15 + "Much.", **tags[n]} for n in numbers],
    }
    plain = {
        "rankings": pairs,
        "demonstrations": [{"prompt": row["prompt"], "response": row["chosen"]} for row in pairs],
        "texts": [{"text": row["chosen"] * 20} for row in pairs],
    }
    found = {f"columns_{kind}": rows for kind, rows in columns.items()}
    found |= {f"labelled_{kind}": [row | {"label": "good"} for row in rows] for kind, rows in plain.items()}
    found |= {f"halves_{kind}": [{"id": n, **row} for n, row in enumerate(rows)] for kind, rows in plain.items()}
    for kind in plain:
        for row in found[f"halves_{kind}"]:
            del row["prompt" if kind != "texts" else "text"]
    found["columns_thumbs"] = [
        {"prompt": f"What of {n}?", "completion": f"Much of {n}.", "label": n % 3 > 0, **tags[n]} for n in numbers
    ]
    found["questions"] = [{"id": n, "prompt": f"What of {n}?"} for n in numbers]
    found["passages"] = [{"id": n, "text": f"This of {n}. " * 20} for n in numbers]
    found["choices"] = [
        {"query": f"What of {n}?", "choices": [f"Much of {n}.", "Not so.", f"It is {n * n}."], "gold": n % 3}
        for n in range(110)
    ]
    found["marked_answers"] = [
        {"user_query": f"What of {n}?", "chatgpt_response": f"{'Much' * (n % 4)} of {n}.", "hallucination": mark}
        for n, mark in enumerate(["yes", "no"] * 6)
    ]
    found["other_choices"] = [row | {"query": f"And {row['query']}"} for row in found["choices"][:50]]
    found["long_prompts"] = [{"prompt": f"What of {n}? " * (200 if n == 7 else 1)} for n in numbers]
    found["long_candidates"] = [row | {"prompt": row["prompt"] * (200 if n == 7 else 1)} for n, row in enumerate(pairs)]
    found["judged"] = [
        {"prompt": row["prompt"], "response_a": row["chosen"], "response_b": row["rejected"], "winner": "lft"}
        for row in pairs[:-1]
    ] + [{"prompt": "What of it?", "response_a": "Much.", "response_b": "Little.", "winner": "rgt"}]
    return found


CONSTITUTION = """
[[principles]]
name = "calm"
compare = "Which answer is calmer?"
critique = "Say where your last answer is excited."
revise = "Write it anew, calmly."

[[principles]]
name = "short"
compare = "Which answer is shorter?"
critique = "Say where your last answer is too long."
revise = "Write it anew, shorter."

[[principles]]
name = "long"
compare = "Which answer is longer?"
"""


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths by name: data of every kind, and models."""
    directory = tmp_path_factory.mktemp("effects")
    found = {}
    for kind in ("prompts", "demonstrations", "rankings", "thumbs", "texts"):
        for name, part in (("records", PROMPTS[:12]), ("others", PROMPTS[12:])):
            found[f"{name}_{kind}"] = "".join(line + "\n" for line in records(list(part), kind))
    found["strong_rankings"] = "".join(line + "\n" for line in records(list(PROMPTS[:12]), "strong_rankings"))
    found["told_rankings"] = "".join(line + "\n" for line in records(list(PROMPTS[:12]), "told_rankings"))
    found |= {name: "".join(json.dumps(row) + "\n" for row in rows) for name, rows in rows_of_others().items()}
    found["clip_rankings"] = agents.clip_rankings(directory / "people")
    for name, text in found.items():
        (directory / f"{name}.jsonl").write_text(text, encoding="utf-8")
    for name, text in (("constitution", CONSTITUTION), ("other_constitution", CONSTITUTION.replace("a", "e"))):
        (directory / f"{name}.toml").write_text(text.replace("neme", "name").replace("compere", "compare"))
    write_models(directory, list(PROMPTS[:12]))
    models = ("model", "teacher", "other_teacher", "scorer", "calibrated", "zero", "two_heads", "several")
    others = {name: str(directory / f"{name}.toml") for name in ("constitution", "other_constitution")}
    others |= {name: str(directory / name) for name in (*models, "answers")}
    return {name: str(directory / f"{name}.jsonl") for name in found} | others


def write_models(directory: Path, prompts: list[Prompt]) -> None:
    """A tiny model that ends now and then, a reward model, the same in other units, and one that gives 0 to all.

    And two of several heads: an ensemble of two, and two ensembles, of a score and of a flag; and two models that would
    say other things, to learn from.
    """
    model = load_language_model("tiny", precision="fp32")
    says_enough(model, prompts)
    save(model.model, model.chat, directory / "model")
    for seed, name in enumerate(("teacher", "other_teacher")):
        numbers = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.model.parameters():
                parameter += 0.2 * parameter.std() * torch.randn(parameter.shape, generator=numbers)
        save(model.model, model.chat, directory / name)
    scorer = load_scalar_model(str(directory / "model"), precision="fp32", seed=1)
    for name, units in (("scorer", Normalization()), ("calibrated", Normalization(mean=0.3, scale=0.5))):
        save(scorer.model, scorer.chat, directory / name, extra_files={NORMALIZATION_FILE: units.to_json()})
    with torch.no_grad():
        scorer.model.score.weight.zero_()
    save(scorer.model, scorer.chat, directory / "zero")
    units = (Normalization(mean=0.02, scale=0.1), Normalization(scale=0.3))
    pair = [Head(objective="good", normalization=unit) for unit in units]
    for name, heads in (
        ("two_heads", [Head(), Head()]),
        ("several", [*pair, *2 * [Head(objective="made_up", flag="x")]]),
    ):
        several = load_scalar_model(str(directory / "model"), precision="fp32", seed=2, heads=len(heads))
        save(several.model, several.chat, directory / name, extra_files=files_of(heads))


@torch.no_grad()
def says_enough(loaded: Loaded[LanguageModel], prompts: list[Prompt]) -> None:
    """Let every other response end: the stop token's embedding points to where the hidden states lie on average."""
    tokens = [loaded.chat.prompt_tokens(prompt) for prompt in prompts]
    sequences = Sequences.pack([each[:-8] for each in tokens], [each[-8:] for each in tokens])
    sequence, position = sequences.mask.nonzero(as_tuple=True)
    mean = loaded.model.hidden(sequences, sequence, position, None).mean(0)
    loaded.model.get_parameter("lm_head.weight")[loaded.chat.stop_id] = 3 * mean / mean.square().sum()


@pytest.fixture(scope="session")
def runs(files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Runs of every stage, each made once."""
    base: dict[str, Any] = {"model": "$model", "precision": "fp32", "frozen_layers": 1}
    rl = base | {
        "prompts": {"path": "$records_prompts"},
        "rewards": [{"function": "tests.stages.effects.judges:lower_case"}],
        "sampling": {"max_new_tokens": 6},
        "prompts_per_step": 3,
        "responses_per_prompt": 3,
        "steps": 2,
        "optimizer": {"learning_rate": 1e-2, "schedule": "constant"},
    }
    learning = base | {"optimizer": rl["optimizer"]}
    drawing = {key: rl[key] for key in ("model", "precision", "prompts", "sampling")}
    bases = {
        "pretrain": learning
        | {"data": {"path": "$records_texts"}, "held_out_fraction": 0.3, "sequence_length": 32, "num_samples": 0},
        "sft": learning | {"data": {"path": "$records_demonstrations"}},
        "reward": learning | {"data": {"path": "$records_rankings"}},
        "dpo": learning | {"data": {"path": "$records_rankings"}},
        "kto": learning | {"data": {"path": "$records_thumbs"}},
        "sample": drawing,
        "best-of-n": drawing | {"rewards": rl["rewards"], "n": 2},
        "judge": {key: base[key] for key in ("model", "precision")}
        | {name: {"path": "$records_rankings"} for name in ("candidates", "people")}
        | {"constitution": "$constitution"},
        "revise": drawing | {"constitution": "$constitution"},
        "eval": drawing | {"baseline": "tiny", "judge": rl["rewards"][0]},
        "card": {key: drawing[key] for key in ("model", "precision", "sampling")}
        | {
            "baseline": "tiny",
            "sections": [
                {"protocol": "openbookqa", "path": "$choices"},
                {"protocol": "held_out_text", "path": "$records_texts"},
                {"protocol": "form", "path": "$records_prompts"},
            ],
        },
        "reinforce": rl,
        "online-dpo": rl,
        "raft": rl,
        "distill": {key: value for key, value in rl.items() if key != "rewards"} | {"teachers": ["$teacher"]},
        "agent": agents.BASE,
        "ppo": rl | {"value_model": "$scorer", "value_optimizer": rl["optimizer"]},
    }
    return Runs(bases, files, tmp_path_factory.mktemp("runs"))
