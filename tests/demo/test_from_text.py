"""From plain text to a model with a taste, on made-up tales: what is held out, killed and resumed, and what is said."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from palate.cli import main
from palate.demo.from_text import TINY, FromText, estimate, text_files
from palate.demo.from_text_page import from_text
from palate.demo.passages import ASK, Passage, drawn, passages
from palate.errors import DataError, RunError
from palate.lm.batch import Sequences
from palate.lm.model import Model
from palate.lm.sources.zoo import load_chat
from palate.records import Demonstration, Prompt, Ranking
from palate.stages import pretrain

ADJECTIVES = ("old", "green", "merry", "quiet", "bold", "little", "golden", "lame", "wise", "hungry")
NOUNS = ("mill", "river", "bell", "forest", "bread", "castle", "rope", "witch", "kettle", "goose", "ring", "bridge")
VERBS = ("carried", "followed", "hid", "found", "sold", "praised", "feared", "loved", "buried", "painted")
SMALL = ("the", "a", "that", "his", "her", "one")
JOINED = ("and", "or", "but never", "to", "of those who")
NUM_TALES = 28


def hero(number: int) -> str:
    """A name that is in one tale alone, in every sentence of it."""
    return "Q" + "".join(chr(ord("a") + int(digit)) for digit in f"{number:03d}") + "ix"


def tale(number: int) -> str:
    chance, name = random.Random(number), hero(number)

    def sentence() -> str:
        first, second, third = (" ".join(map(chance.choice, (SMALL, ADJECTIVES, NOUNS))) for _ in range(3))
        words = [chance.choice(VERBS), first, chance.choice(JOINED), chance.choice(VERBS), second, "and", third]
        return f"{name} {' '.join(words)}."

    return "\n\n".join(" ".join(sentence() for _ in range(4)) for _ in range(4))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as a user has it: documents, plain text, and a file that holds neither."""
    folder = tmp_path_factory.mktemp("data") / "tales"
    folder.mkdir()
    rows = [json.dumps({"text": tale(number)}) + "\n" for number in range(NUM_TALES)]
    (folder / "tales.jsonl").write_text("".join(rows), encoding="utf-8")
    (folder / "last.txt").write_text(tale(NUM_TALES), encoding="utf-8")
    (folder / "cover.png").write_bytes(b"no text")
    return folder


def names_in(text: str) -> set[str]:
    return {hero(number) for number in range(NUM_TALES + 1) if hero(number).casefold() in text.casefold()}


def weights(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("model.safetensors"))
    }


class Watched:
    """What was learned from: the text of every sequence that had a gradient, and what the tokenizer was trained on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sequences: list[Sequences] = []
        self.told: list[str] = []
        hidden, trains = Model.hidden, pretrain.train_tokenizer

        def watched(model: Model, sequences: Sequences, *args: Any, **more: Any) -> Any:
            if torch.is_grad_enabled():
                self.sequences.append(sequences)
            return hidden(model, sequences, *args, **more)

        def trained(given: list[str], size: int) -> Any:
            self.told.extend(given)
            return trains(given, size)

        monkeypatch.setattr(Model, "hidden", watched)
        monkeypatch.setattr(pretrain, "train_tokenizer", trained)

    def text(self, chat: Any) -> str:
        return " ".join(
            chat.tokenizer.decode(ids[:length])
            for batch in self.sequences
            for ids, length in zip(batch.tokens.tolist(), batch.lengths.tolist(), strict=True)
        )


@pytest.fixture(scope="module")
def whole(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[str]]:
    """The chain run once: its directory, all text that was learned from, and the tokenizer's."""
    out = tmp_path_factory.mktemp("runs") / "text"
    with pytest.MonkeyPatch.context() as patch:
        watched = Watched(patch)
        from_text(out, texts=texts, scale=TINY, precision="fp32")
    return out, watched.text(load_chat(str(out / "pretrained"))), watched.told


def numbers(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "report.json").read_text(encoding="utf-8")))


def documents(out: Path, name: str) -> list[str]:
    return [json.loads(line)["text"] for line in (out / name).read_text(encoding="utf-8").splitlines()]


def test_nothing_that_trains_sees_a_held_out_document(whole: tuple[Path, str, list[str]]) -> None:
    """Neither a tokenizer, nor weights in any phase, nor a prompt that responses are learned from."""
    out, seen, told = whole
    learned, held_out = (names_in(" ".join(documents(out, f"{name}.jsonl"))) for name in ("learned", "held_out"))
    assert len(learned) + len(held_out) == NUM_TALES + 1
    assert not learned & held_out
    assert held_out
    assert names_in(seen)  # what is looked for can be found
    assert not names_in(seen) & held_out
    assert names_in(" ".join(told)) == learned
    for name in ("demonstrations", "ranked_prompts", "prompts", "rankings"):
        assert names_in((out / f"{name}.jsonl").read_text(encoding="utf-8")) <= learned, name
    for name in ("held_out_prompts", "held_out_passages", "measured"):
        assert names_in((out / f"{name}.jsonl").read_text(encoding="utf-8")) <= held_out, name


def test_no_passage_is_in_two_phases(whole: tuple[Path, str, list[str]]) -> None:
    out, _, _ = whole
    chain = FromText(out, 0, TINY, Path("unused"))
    shown = [item.prompt.id for item in chain.read("demonstrations.jsonl", Demonstration)]
    others = [
        item.id
        for name in ("ranked_prompts", "prompts", "held_out_prompts")
        for item in chain.read(f"{name}.jsonl", Prompt)
    ]
    assert len(shown) + len(others) == 16 + 12 + 8 + 6
    assert len({*shown, *others}) == len(shown) + len(others)


def test_every_model_comes_from_the_one_before(whole: tuple[Path, str, list[str]]) -> None:
    out, _, _ = whole
    parents = {
        name: [parent["path"] for parent in json.loads((out / name / "lineage.json").read_text())["parents"]]
        for name in ("pretrained", "sft", "reward", "ppo", "evaluation")
    }
    assert parents["pretrained"] == []
    assert parents["sft"] == [str(out / "pretrained")]
    assert parents["reward"] == [str(out / "sft")]
    assert set(parents["ppo"]) == {str(out / "sft"), str(out / "reward")}
    assert set(parents["evaluation"]) == {str(out / "ppo"), str(out / "sft")}


def test_the_page_says_what_came_of_it(whole: tuple[Path, str, list[str]]) -> None:
    out, _, _ = whole
    found, page = numbers(out), (out / "report.html").read_text(encoding="utf-8")
    evaluation = json.loads((out / "evaluation" / "report.json").read_text(encoding="utf-8"))
    assert found["win_rate"] == evaluation["win_rate"]
    assert list(found["phases"]) == ["pretrained", "sft", "ppo"]
    pretrained = json.loads((out / "pretrained" / "report.json").read_text(encoding="utf-8"))
    assert found["phases"]["pretrained"]["bits_per_byte"] == pytest.approx(pretrained["bits_per_byte"], rel=1e-5)
    assert len({phase["bits_per_byte"] for phase in found["phases"].values()}) == 3
    row = found["texts"][0]
    assert list(row) == ["opening", "the text itself", "pretrained", "sft", "ppo"]
    shown = [item["after"] for item in evaluation["texts"] if item["prompt"] == ASK + row["opening"]]
    assert shown == [row["ppo"]]  # what `palate eval` judged is what is shown
    assert "not read: cover.png" in page
    assert f"The filter kept {NUM_TALES + 1} of {NUM_TALES + 1} documents" in page
    assert page.count("<svg") == 3


KILLED = """
import os, signal, sys
from pathlib import Path
from palate.demo.from_text import TINY, FromText
from palate.run.directory import Run
logs = Run.log
def killed(run, step, told):
    logs(run, step, told)
    if run.directory.name == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
Run.log = killed
FromText(Path(sys.argv[1]), 0, TINY, Path(sys.argv[2]), "fp32").run()
"""
"""A process of the chain that ends after the first step of a stage."""


def test_killed_anywhere_the_same_command_goes_on_with_the_same_bits(
    texts: Path, whole: tuple[Path, str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the documents are divided, in the middle of pretraining, and in the middle of PPO."""
    out = tmp_path / "text"

    def torn(chain: FromText, name: str, texts: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FromText, "_write_texts", torn)
        with pytest.raises(KeyboardInterrupt):
            from_text(out, texts=texts, scale=TINY, precision="fp32")
    for at in ("pretrained", "ppo"):
        command = [sys.executable, "-c", KILLED, str(out), str(texts), at]
        ended = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
        assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    from_text(out, texts=texts, scale=TINY, precision="fp32")
    assert [path.split("/")[0] for path in weights(out)] == ["ppo", "pretrained", "reward", "sft"]
    assert weights(out) == weights(whole[0])
    ranked, first = (FromText(place, 0, TINY, texts).read("rankings.jsonl", Ranking) for place in (out, whole[0]))
    assert [(item.id, item.ranks) for item in ranked] == [(item.id, item.ranks) for item in first]
    once, again = numbers(whole[0]), numbers(out)
    for name in ("win_rate", "kl", "texts"):
        assert again[name] == once[name], name


def test_what_is_finished_is_not_run_again_and_other_texts_are_refused(
    texts: Path, whole: tuple[Path, str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, before = whole[0], weights(whole[0])
    capsys.readouterr()
    from_text(out, texts=texts, scale=TINY, precision="fp32")
    assert "==" not in capsys.readouterr().err
    assert weights(out) == before
    other = tmp_path / "other.txt"
    other.write_text(tale(99), encoding="utf-8")
    with pytest.raises(RunError, match="was begun with other texts"):
        from_text(out, texts=other, scale=TINY, precision="fp32")


def test_too_little_text_and_none_are_one_line(texts: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps({"text": tale(number)}) + "\n" for number in range(8)), encoding="utf-8")
    with pytest.raises(DataError, match=r"too little text: .* sentences to learn from"):
        from_text(tmp_path / "out", texts=few, scale=TINY, precision="fp32")
    assert not (tmp_path / "out" / "pretrained").exists()
    with pytest.raises(DataError, match="no texts: name a file, or a directory"):
        text_files(tmp_path / "nowhere")
    read, left = text_files(texts)
    assert ([path.name for path in read], [path.name for path in left]) == (
        ["last.txt", "tales.jsonl"],
        ["cover.png"],
    )


def test_a_passage_is_two_sentences_of_one_paragraph() -> None:
    text = (
        'The king said to Mr. Fox, "Go home at once." The fox did not\nwant to go home. Then he ran away at last.\n\n'
        "A lone sentence about the sea is here.\r\n\r\n# Chapter two of the book began.\n"
    )
    assert list(passages(text)) == [
        Passage(opening='The king said to Mr. Fox, "Go home at once."', continuation="The fox did not want to go home.")
    ]
    prompt = passages(text).__next__().prompt()
    assert prompt.text == 'Tell on: The king said to Mr. Fox, "Go home at once."'
    assert prompt.tags == {"subject": "king said home"}


def test_no_document_outweighs_the_others_and_the_seed_decides() -> None:
    book = "\n\n".join(tale(number) for number in range(10))
    few = drawn([book, tale(20)], most=3, seed=0)
    assert [sum(hero(20) in passage.opening for passage in few), len(few)] == [3, 6]
    assert few == drawn([book, tale(20)], most=3, seed=0)
    assert few != drawn([book, tale(20)], most=3, seed=1)


def test_the_command_says_what_it_will_take_and_what_it_needs(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = estimate(seed=0, scale=TINY, texts=texts, precision="fp32")
    assert "pretraining: time, from two steps here" in said
    assert "the phases after it: about" in said
    called: list[tuple[str, str, int]] = []
    monkeypatch.setattr(
        "palate.demo.from_text_page.from_text",
        lambda out, *, texts, seed, **_: called.append((str(out), str(texts), seed)),
    )
    assert main(["demo", "text", "--text", str(texts), "--seed", "3"]) == 0
    assert called == [("runs/text", str(texts), 3)]
    for wrong, words in (
        (["demo", "text"], "text needs --text"),
        (["demo", "--text", "x"], "--text and --estimate go with"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(wrong)
        assert stop.value.code == 2
        assert words in capsys.readouterr().err
