"""A user's mistake: one clear line, exit status 2, and nothing lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palate.cli import main

Toml = Callable[[dict[str, Any]], Path]
Settings = dict[str, dict[str, Any]]


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that the command ends with."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("palate:")]
    assert len(lines) == 1
    return lines[0]


def run(settings: Settings, toml: Toml, stage: str, out: Path, *extra: str, **changes: Any) -> list[str]:
    return [stage, str(toml(settings[stage] | changes)), "--out", str(out), *extra]


def test_unknown_key(settings: Settings, toml: Toml, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, *run(settings, toml, "sft", tmp_path / "run", epoch=2))
    assert "unknown key 'epoch'; did you mean 'epochs'?" in line
    assert not (tmp_path / "run").exists()


def test_missing_file(settings: Settings, toml: Toml, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, *run(settings, toml, "sft", tmp_path / "run", data={"path": "nowhere.jsonl"}))
    assert "nowhere.jsonl" in line


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"prompt": "a", "response": "b"}\n{"prompt": "c", \n', "bad.jsonl:2"),
        ("", "bad.jsonl"),
    ],
    ids=["broken", "empty"],
)
def test_bad_file(
    content: str, expected: str, settings: Settings, toml: Toml, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content, encoding="utf-8")
    line = fails(capsys, *run(settings, toml, "sft", tmp_path / "run", data={"path": str(path)}))
    assert expected in line


def test_identical_answers(settings: Settings, toml: Toml, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": "d", "chosen": "same", "rejected": "same"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    line = fails(capsys, *run(settings, toml, "reward", tmp_path / "run", data={"path": str(path)}))
    assert "pairs.jsonl" in line


def test_prompt_longer_than_the_context(
    settings: Settings, toml: Toml, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "long " * 600}]}) + "\n", encoding="utf-8")
    tree = {"model": "tiny", "precision": "fp32", "prompts": {"path": str(path)}, "sampling": {"max_new_tokens": 8}}
    line = fails(capsys, "sample", str(toml(tree)), "--out", str(tmp_path / "run"))
    assert "the model's context - max_new_tokens = 2040 tokens" in line


def test_template_that_changes_what_is_said(
    settings: Settings, toml: Toml, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    from palate.lm.sources.zoo import locate

    model = tmp_path / "model"
    shutil.copytree(locate("tiny"), model)
    (model / "chat_template.jinja").write_text(
        "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] | upper }}{{ eos_token }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}[go]{% endif %}",
        encoding="utf-8",
    )
    line = fails(capsys, *run(settings, toml, "sft", tmp_path / "run", model=str(model)))
    assert "changes its words" in line


@pytest.mark.parametrize("stage", ["reinforce", "online-dpo"])
def test_a_reference_with_another_vocabulary(
    stage: str, settings: Settings, toml: Toml, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    from palate.lm.sources.zoo import locate

    other = tmp_path / "other"
    shutil.copytree(locate("tiny"), other)
    tree = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tree["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(tree), encoding="utf-8")
    line = fails(capsys, *run(settings, toml, stage, tmp_path / "run", reference=str(other)))
    assert "has another vocabulary than the policy" in line


def test_resume_with_a_changed_recipe(
    settings: Settings, toml: Toml, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(run(settings, toml, "sft", out)) == 0
    model = (out / "model" / "model.safetensors").read_bytes()
    line = fails(capsys, *run(settings, toml, "sft", out, "--resume", seed=1))
    assert "seed" in line
    assert (out / "model" / "model.safetensors").read_bytes() == model
    assert "--resume" in fails(capsys, *run(settings, toml, "sft", out))


def test_full_disk(settings: Settings, toml: Toml, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "metrics.jsonl").symlink_to("/dev/full")
    line = fails(capsys, *run(settings, toml, "sft", out))
    assert "full" in line


def test_unreadable_checkpoints(
    settings: Settings, toml: Toml, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from palate.stages import sft

    out = tmp_path / "run"
    arguments = run(settings, toml, "sft", out, epochs=4, batch_size=8, checkpoint_every=2)
    with monkeypatch.context() as patch:  # the run is lost after its last checkpoint, before it is finished
        patch.setattr(sft, "write_model", _crash)
        with pytest.raises(MemoryError):
            main(arguments)
    torn = list((out / "checkpoints").glob("*/*.safetensors"))
    assert torn
    for file in torn:
        file.write_bytes(file.read_bytes()[:100])
    line = fails(capsys, *arguments, "--resume")
    assert "checkpoint" in line


def _crash(*_: Any, **__: Any) -> None:
    raise MemoryError


def test_a_model_that_is_not_there(
    settings: Settings, toml: Toml, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "runs/nothing" in fails(capsys, *run(settings, toml, "sft", tmp_path / "run", model="runs/nothing"))


def test_non_finite_gradient_names_step_and_cause(
    settings: Settings, toml: Toml, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"optimizer": {"learning_rate": 1e30, "schedule": "constant", "warmup": 0.0}, "epochs": 4}
    line = fails(capsys, *run(settings, toml, "sft", tmp_path / "run", **changes))
    assert "step" in line
    assert "learning rate" in line
