"""`palate data check --model`: what is shown is what is encoded."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from tests.lm.templates.families import family

from palate.cli import main
from palate.lm.templates.layout import PROBE
from palate.records import Demonstration, Message, Prompt, Ranking, Response
from palate.stages import inspection as module
from palate.stages.inspection import Preview, show


def test_tokens_of_a_demonstration_and_what_is_learned_of_it() -> None:
    chat = family("mistral-v0.3")
    preview = Preview(chat, max_length=100)
    item = Demonstration(prompt=Prompt(messages=PROBE[:1]), response=Response(text="Köln\x1b"))
    preview.add(item, "rows.jsonl:4")
    (shown,) = preview.shown
    tokens, mask = chat.dialogue_tokens(item.messages)
    assert shown.title == f"rows.jsonl:4 demonstration: {len(tokens)} tokens, {sum(mask)} learned"
    assert shown.learned == tuple(mask)
    assert shown.tokens[:4] == ("<s>", "[INST]", " ", "W")
    assert shown.tokens[-9:] == ("[/INST]", " ", "K", "Ã", "¶", "l", "n", "\\x1b", "</s>")
    assert [learned for learned, _ in shown.runs()] == [False, True]


def test_every_record_is_counted_and_the_first_are_shown() -> None:
    preview = Preview(family("gemma"), max_length=120, count=2)
    system = Message(role="system", content="Be kind.")
    twice = Prompt(messages=(PROBE[0], PROBE[2]))
    responses = (Response(text="Roses are."), Response(text="Blood is."))
    preview.add(Ranking(prompt=Prompt(messages=(system, PROBE[0])), responses=responses, ranks=(2, 1)), "rows.jsonl:1")
    refused = preview.add(Demonstration(prompt=twice, response=responses[0]), "rows.jsonl:2")
    assert refused.endswith("refuses a conversation of user, user: turns must alternate between user and assistant")
    assert not preview.add("Raw text.", "rows.jsonl:3")
    assert preview.add(Prompt.from_text("x" * 200), "rows.jsonl:4") == "longer than max_length = 120 tokens"
    assert [shown.title.partition(":")[2] for shown in preview.shown] == [
        "1 response 1 of 2, rank 2: 49 tokens, 11 learned",
        "1 response 2 of 2, rank 1: 48 tokens, 10 learned",
        "3 text: 10 tokens, 10 learned",
    ]
    merged, tokens = preview.lines()
    assert merged.startswith("merged     1: ")
    assert tokens.startswith("tokens     4 sequences of ")


def test_of_a_long_text_the_beginning_is_shown_and_how_much_is_left() -> None:
    preview = Preview(family("chatml"), max_length=2000)
    preview.add("x" * 700, "rows.jsonl:1")
    (shown,) = preview.shown
    assert shown.title == "rows.jsonl:1 text: 701 tokens, 701 learned"  # with the stop token
    assert shown.tokens == ("x",) * 600 + (" ... 101 more tokens",)
    assert list(shown.runs()) == [(True, ["x"] * 600), (False, [" ... 101 more tokens"])]
    exact = Preview(family("chatml"), max_length=2000)
    exact.add("x" * 599, "rows.jsonl:1")
    assert exact.shown[0].tokens == ("x",) * 599 + ("<|im_end|>",)
    assert exact.lines() == ["tokens     1 sequences of 600.0 (mean), the longest of 600"]


def test_colours_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, color_system="256", no_color=False, soft_wrap=True)
    monkeypatch.setattr(module, "Console", lambda **_: terminal)
    preview = Preview(family("chatml"), max_length=100)
    preview.add(Demonstration(prompt=Prompt(messages=PROBE[:1]), response=Response(text="Hi")), "rows.jsonl:1")
    show(preview)
    text = stream.getvalue()
    assert "⟦" not in text
    given, learned = text.index("48;5;"), text.index("38;5;16;48;5;" if "38;5;16" in text else "30;48;5;")
    assert given < learned


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me.\n"}]
    path.write_text(json.dumps({"messages": turns}) + "\n", encoding="utf-8")
    assert main(["data", "check", str(path), "--model", "tiny"]) == 0
    out = capsys.readouterr().out
    assert "records    1 demonstrations" in out
    assert f"{path}:1 demonstration: " in out
    assert "|a|s|s|i|s|t|a|n|t|⏎\n⟦M|e|.|" in out
    assert main(["data", "check", str(path), "--model", "tiny", "--max-length", "20"]) == 0
    assert f"left out 1: longer than max_length = 20 tokens ({path}:1)" in capsys.readouterr().out
    assert main(["data", "check", str(path), "--model", "tiny", "--chat-template", "zefyr"]) == 2
    assert "did you mean 'zephyr'?" in capsys.readouterr().err
