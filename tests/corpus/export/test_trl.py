"""Every export that claims a format of TRL's passes TRL's own checks and trains with TRL's own trainers.

TRL needs an environment of its own: `python -m venv /somewhere && /somewhere/bin/pip install trl==1.16`, and name its
interpreter in PALATE_TRL_PYTHON.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from palate.corpus.export import EXPORTERS, export_records
from palate.records import Demonstration, Message, Prompt, Ranking, Record, Response

PYTHON = os.environ.get("PALATE_TRL_PYTHON", "")
FORMATS = [name for name in EXPORTERS if name.startswith("trl-")] + ["messages"]
ODD = ["=1+1", "@a", 'say "no"\r\nb', "a\u2028b", "é中🙂", "  pad ", "\x00 nul", "{{ braces }}"]


def records() -> list[Record]:
    """Single turns and dialogues, system turns, ties, three responses, strengths, ratings, odd characters."""
    one = [Prompt.from_text(f"Question {number} {text}") for number, text in enumerate(ODD)]
    talk = [
        Prompt(
            messages=(
                Message(role="system", content="Be brief."),
                Message(role="user", content=text),
                Message(role="assistant", content="Ask."),
                Message(role="user", content="So?"),
            )
        )
        for text in ODD
    ]
    found: list[Record] = []
    for number, (prompt, text) in enumerate(zip([*one, *talk], [*ODD, *ODD], strict=True)):
        texts = (f"Yes, {text}", f"No, {text}", f"Maybe, {text}")
        responses = tuple(Response(text=each) for each in texts)
        up = Ranking(prompt=prompt, responses=responses[:1], ranks=(1,), ratings=(1.0 if number % 2 else 7.0,))
        joint = Ranking(prompt=prompt, responses=responses, ranks=(2, 1, 2), ratings=(2, 6, 2), labeler="ann")
        pair = Ranking(prompt=prompt, responses=responses[:2], ranks=(1, 2), strength=(number + 1) % 3 or None)
        found += [pair, joint, up, Demonstration(prompt=prompt, response=responses[0])]
    return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What TRL saw in one file of each format."""
    if not PYTHON:
        pytest.skip("PALATE_TRL_PYTHON names no Python that has trl")
    folder = tmp_path_factory.mktemp("trl")
    for name in FORMATS:
        export_records(records(), format=name, out=folder / f"{name}.jsonl")
    script = Path(__file__).parent / "trl_check.py"
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run([PYTHON, script, folder], env=kept | offline, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


ROWS = {  # 16 records of each kind: a pair, a ranking with two pairs and a tie, a thumb, a demonstration
    "trl-explicit": (8 * 3, ["chosen", "margin", "prompt", "rejected"], ["DPO", "KTO", "Reward"]),
    "trl-conversational": (16 * 3, ["chosen", "margin", "prompt", "rejected"], ["DPO", "KTO", "Reward"]),
    "trl-implicit": (16 * 3, ["chosen", "margin", "rejected"], ["DPO", "KTO", "Reward"]),
    "trl-implicit-text": (8 * 3 - 3, ["chosen", "margin", "rejected"], ["DPO", "KTO", "Reward"]),
    "trl-kto": (16 * 6, ["completion", "label", "prompt"], ["KTO"]),
    "trl-kto-text": (8 * 6, ["completion", "label", "prompt"], ["KTO"]),
    "trl-prompt-completion": (16, ["completion", "prompt"], ["SFT"]),
    "trl-prompt-completion-text": (8, ["completion", "prompt"], ["SFT"]),
    "messages": (16, ["messages"], ["SFT"]),
}


@pytest.mark.parametrize("name", FORMATS)
def test_trl_takes_it(seen: dict[str, Any], name: str) -> None:
    rows, columns, trained = ROWS[name]
    assert seen[name] == {"rows": rows, "columns": columns, "trained": trained}
