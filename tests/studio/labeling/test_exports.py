"""Exports through HTTP: every format comes back as it was said, nobody is named, and what is not in a file is told."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.studio.collected import Collected, collect, texts_and_preferences
from tests.studio.conftest import Client, ClientOf, Studio

from palate.cli import main
from palate.corpus.export import EXPORTERS
from palate.corpus.reading import iterate
from palate.corpus.rows.rejections import Rejections
from palate.feedback.store.tables import Event, User
from palate.feedback.tasks import judgements
from palate.records import Message, Prompt, Ranking, Response

NAMES = ("Ann Example", "=Bob", "Zoë 中")


@pytest.fixture
def people(studio: Studio, client_of: ClientOf) -> list[User]:
    return [client_of("labeler", name).user for name in NAMES]


@pytest.fixture
def collected(studio: Studio, people: list[User]) -> Collected:
    return collect(studio.store, people)


@pytest.fixture
def researcher(client_of: ClientOf) -> Client:
    return client_of("researcher")


def read(text: str, format: str, tmp_path: Path) -> list[object]:
    """By recognition, strictly."""
    path = tmp_path / f"export{'.csv' if format == 'csv' else '.jsonl'}"
    path.write_text(text, encoding="utf-8", newline="")
    return [item for _, item in iterate(path, rejections=Rejections(), strict=True)]


def fetch(client: Client, format: str, **wish: object) -> str:
    answer = client.get(f"/api/exports/{format}", params=wish)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_our_own_format_has_everything_that_may_teach(researcher: Client, collected: Collected, tmp_path: Path) -> None:
    said = texts_and_preferences(read(fetch(researcher, "palate"), "palate", tmp_path))
    question = "ranking question 0"
    first, second, third, fourth = (f"answer number {index}" for index in range(4))
    assert {pair for pair in said if pair[0] == question} == {
        *((question, first, worse) for worse in (second, third, fourth)),
        *((question, better, fourth) for better in (second, third)),
        *((question, second, worse) for worse in (first, third, fourth)),
        (question, first, third),
    }
    assert ("demonstration question 0", "my way, number 0", "shown") in said
    assert ("what people ask in the chat", "what the model said", "up") in said
    assert ("what people ask in the chat", "my version", "what the model said") in said
    assert ("what people ask in the chat", "my version", "shown") in said
    assert not any("test" in prompt or "private" in prompt for prompt, _, _ in said)


def test_every_format_loads_back_says_nothing_else_and_names_nobody(
    researcher: Client, collected: Collected, people: list[User], tmp_path: Path
) -> None:
    whole = texts_and_preferences(read(fetch(researcher, "palate"), "palate", tmp_path))
    known = {(prompt, better) for prompt, better, _ in whole} | {(prompt, worse) for prompt, _, worse in whole}
    for format in EXPORTERS:
        answer = researcher.get(f"/api/exports/{format}")
        assert answer.status_code == 200, (format, answer.text)
        back = texts_and_preferences(read(answer.text, format, tmp_path))
        # a thumb is read from a pair, and the best of a tree as a demonstration: what they are said of was said
        own = {said for said in back if said[2] in ("up", "down") or (format == "oasst" and said[2] == "shown")}
        assert back, format
        assert back - own <= whole, format
        assert {said[:2] for said in own} <= known, format
        report = json.loads(answer.headers["x-palate-report"])
        assert report["rows"] > 0
        assert back >= whole or sum(report["left_out"].values()) > 0, format
        check_names_nobody(answer.text + str(answer.headers), people)
        check_names_nobody(fetch(researcher, format, view="all"), people)


def check_names_nobody(text: str, people: list[User]) -> None:
    for user in people:
        assert user.name not in text
        assert json.dumps(user.name)[1:-1] not in text
        assert user.id not in text


def test_pseudonyms_are_the_same_in_every_format_and_export_and_can_be_left_off(
    researcher: Client, studio: Studio, collected: Collected, tmp_path: Path
) -> None:
    labelers = {item.labeler for item in read(fetch(researcher, "palate", kind="ranking"), "palate", tmp_path)}  # type: ignore[attr-defined]
    again = {item.labeler for item in read(fetch(researcher, "rankings", kind="pair"), "rankings", tmp_path)}  # type: ignore[attr-defined]
    assert labelers == again
    assert len(labelers) == len(NAMES)
    named = read(fetch(researcher, "palate", kind="ranking", names=True), "palate", tmp_path)
    assert {item.labeler for item in named} == set(NAMES)  # type: ignore[attr-defined]


def test_parts_can_be_chosen(researcher: Client, collected: Collected, tmp_path: Path) -> None:
    def prompts(**wish: object) -> set[str]:
        return {item.prompt.text for item in read(fetch(researcher, "palate", **wish), "palate", tmp_path)}  # type: ignore[attr-defined]

    assert prompts(batch=collected.pair) == {"pair question 0"}
    assert prompts(kind="demonstration") == {"demonstration question 0"}
    assert prompts(kind="edit") == {"what people ask in the chat"}
    assert prompts(view="all") - prompts() == {"ranking test question 0"}


def test_counts_are_told_before_and_after(researcher: Client, studio: Studio, collected: Collected) -> None:
    before = researcher.get("/api/exports/trl-conversational/preview").json()
    answer = researcher.get("/api/exports/trl-conversational")
    report = json.loads(answer.headers["x-palate-report"])
    assert before["rows"] == report["rows"] == len(answer.text.splitlines())
    assert before["left_out"] == report["left_out"]
    # three people: two tied pairs of the first, or one of the second, in each of two items; one thumb alone
    ties = 2 * 3
    assert before["left_out"]["a tie: the format has none"] == ties
    assert before["no_consent"] == 1
    assert before["not_in_view"] == len(NAMES)
    assert int(answer.headers["content-length"]) == len(answer.content)
    with studio.store.read() as session:
        (event,) = session.scalars(select(Event).where(Event.action == "exported")).all()
    assert event.user_id == researcher.user.id
    assert event.detail["rows"] == report["rows"]
    assert event.detail["names"] is False
    assert researcher.get("/api/exports").json()["latest"][0]["by"] == researcher.user.name


def test_an_export_of_nothing_says_so(researcher: Client, studio: Studio) -> None:
    answer = researcher.get("/api/exports/palate")
    assert answer.status_code == 409
    assert "no judgements" in answer.json()["error"]
    assert researcher.get("/api/exports/no-such-format").status_code == 404
    assert researcher.get("/exports").status_code == 200
    with studio.store.read() as session:
        assert not session.scalars(select(Event).where(Event.action == "exported")).all()


def test_cells_that_look_like_formulas_are_escaped(researcher: Client, studio: Studio, people: list[User]) -> None:
    evil = ["=HYPERLINK(1)", "+1", "-2+3", "@SUM(A1)"]
    collect(studio.store, people, texts=evil)
    text = fetch(researcher, "csv")
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert any("HYPERLINK" in cell for cell in cells)
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_the_page_shows_the_counts_and_who_took_what(researcher: Client, collected: Collected) -> None:
    fetch(researcher, "trl-kto")
    html = researcher.get("/exports", params={"format": "hh", "batch": collected.ranking}).text
    assert "a tie: the format has none" in html
    assert f'value="{collected.ranking}" selected' in html
    assert "trl-kto" in html
    assert researcher.user.name in html
    piece = researcher.get("/exports/counts", params={"format": "hh"}).text
    assert "Rows in the file" in piece
    assert "<nav" not in piece


@pytest.mark.parametrize("format", ["palate", "trl-kto"])
def test_thumbs_of_the_chat_are_learned_from_as_they_are_exported(
    format: str, researcher: Client, studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file goes to `palate kto` as it came, several turns and reasons included; all of its thumbs are read."""
    with studio.store.write() as session:
        user = session.get_one(User, researcher.user.id)
        for number in range(12):
            turns = (f"Hello, I am {number}.", "Hi.", "How are you?")
            roles = ("user", "assistant", "user")
            thumb = Ranking(
                prompt=Prompt(messages=tuple(map(_turn, roles, turns))),
                responses=(Response(text="Fine, thanks." if number % 3 else "Go away."),),
                ranks=(1,),
                ratings=(7.0 if number % 3 else 1.0,),
                labeler=user.name,
            )
            judgements.append(session, "thumb", thumb.model_dump(mode="json", exclude_defaults=True), user)
    file = tmp_path / "from-the-chat.jsonl"
    file.write_text(fetch(researcher, format, kind="thumb"), encoding="utf-8")
    recipe = tmp_path / "kto.toml"
    recipe.write_text('model = "tiny"\nprecision = "fp32"\nfrozen_layers = 1\nbatch_size = 8\nholdout.fraction = 0.3\n')
    out = tmp_path / "run"
    assert main(["kto", str(recipe), "--set", f"data.path={file}", "--out", str(out)]) == 0, capsys.readouterr().err
    read_again = [item for _, item in iterate(file, rejections=Rejections(), strict=True)]
    ups = [item.ratings == (7.0,) for item in read_again if isinstance(item, Ranking)]
    assert sorted(ups) == [False] * 4 + [True] * 8
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["left_out"] == 0
    assert 0 < report["thumbs_up"] < report["thumbs"] < 12, "some are held out"


def _turn(role: str, content: str) -> Message:
    return Message.model_validate({"role": role, "content": content})
