"""The first page, and prompts in: files, lines, what is left out and what is refused."""

from __future__ import annotations

import gzip
import json

import pytest
from sqlalchemy import select
from tests.studio.conftest import ClientOf, Studio

from palate.errors import ConflictError
from palate.feedback.store import rounds
from palate.feedback.store.tables import Model, PromptRow
from palate.lm.sources.builtin import BUILTIN
from palate.records import Prompt
from palate.studio.training import choosing


def test_an_empty_workspace_leads_by_the_hand(client_of: ClientOf) -> None:
    html = client_of("admin").get("/start", headers={"accept": "text/html"}).text
    titles = ["Import prompts", "Pick a model", "Let it answer", "Invite labelers", "Watch judgements arrive"]
    places = [html.index(title) for title in titles]
    assert places == sorted(places)
    assert "(done)" not in html
    assert "There are no prompts yet." in html


def test_prompts_pasted_as_lines_are_there_once(client_of: ClientOf, studio: Studio) -> None:
    client = client_of("researcher")
    first = client.post("/api/prompts", json={"lines": "How are you?\n\n  What is tea?  \nHow are you?\n"})
    assert first.json() == {"added": 2, "known": 0, "rejected": []}
    assert client.post("/api/prompts", json={"lines": "What is tea?\nNew"}).json()["known"] == 1
    with studio.store.read() as session:
        rows = session.scalars(select(PromptRow)).all()
        assert {Prompt.model_validate(row.record).text for row in rows} == {"How are you?", "What is tea?", "New"}
    assert client.get("/api/counts").json()["unanswered"] == 3


def test_a_line_that_is_too_long_is_counted_with_its_number(client_of: ClientOf) -> None:
    got = client_of("admin").post("/api/prompts", json={"lines": "fine\n" + "x" * 20_001}).json()
    assert got["added"] == 1
    assert [(each["count"], each["lines"]) for each in got["rejected"]] == [(1, [2])]


@pytest.mark.parametrize(
    ("name", "content", "prompts"),
    [
        ("lines.txt", b"one\ntwo\n", {"one", "two"}),
        ("pairs.csv", b"prompt,chosen,rejected\nq1,yes,no\nq2,a,b\n", {"q1", "q2"}),
        ("prompts.jsonl", b'{"prompt": "p1"}\n{"prompt": "p2"}\n', {"p1", "p2"}),
        ("texts.jsonl", b'{"text": "t1"}\n', {"t1"}),
        ("chat.json", json.dumps([{"messages": [{"role": "user", "content": "m1"}]}]).encode(), {"m1"}),
        ("packed.jsonl.gz", gzip.compress(b'{"prompt": "z1"}\n', mtime=0), {"z1"}),
        ("../../odd name;.tsv", b"prompt\tchosen\trejected\nq\ta\tb\n", {"q"}),
    ],
)
def test_files_of_many_formats(
    client_of: ClientOf, studio: Studio, name: str, content: bytes, prompts: set[str]
) -> None:
    got = client_of("admin").post("/api/prompts/file", files={"file": (name, content)})
    assert got.status_code == 200, got.text
    assert got.json()["added"] == len(prompts)
    with studio.store.read() as session:
        rows = session.scalars(select(PromptRow)).all()
        assert {Prompt.model_validate(row.record).text for row in rows} == prompts


def test_broken_rows_are_counted_with_their_lines_and_stop_nothing(client_of: ClientOf) -> None:
    rows = ['{"prompt": "good"}', '{"prompt": 7}', "{broken", '{"prompt": "also good"}', "{broken"]
    got = client_of("admin").post("/api/prompts/file", files={"file": ("rows.jsonl", "\n".join(rows).encode())}).json()
    assert got["added"] == 2
    assert sorted(line for each in got["rejected"] for line in each["lines"]) == [2, 3, 5]
    assert sum(each["count"] for each in got["rejected"]) == 3


@pytest.mark.parametrize(
    ("name", "content", "status", "message"),
    [
        ("image.png", b"\x89PNG", 400, "image.png: cannot be read: its name should end in"),
        ("broken.txt", b"\xff\xfe\x00", 400, "not UTF-8"),
        ("empty.jsonl", b"", 400, "holds no rows"),
        ("odd.jsonl", b'{"colour": "red"}\n', 400, "no known format has the fields colour"),
    ],
)
def test_files_that_cannot_be_read_say_so_in_one_line(
    client_of: ClientOf, name: str, content: bytes, status: int, message: str
) -> None:
    got = client_of("admin").post("/api/prompts/file", files={"file": (name, content)})
    assert got.status_code == status
    assert message in got.json()["error"]
    assert "/tmp" not in got.json()["error"]


def test_without_a_file_there_is_nothing_to_read(client_of: ClientOf) -> None:
    got = client_of("admin").post("/api/prompts/file", files={"other": ("a.txt", b"x")})
    assert (got.status_code, got.json()["error"]) == (422, "choose a file first")
    assert client_of("admin").post("/api/prompts", json={"lines": " \n"}).status_code == 409


def test_a_file_above_the_workspaces_limit_is_refused(client_of: ClientOf, studio: Studio) -> None:
    studio.workspace.settings = studio.workspace.settings.model_copy(update={"upload_megabytes": 1})
    large = b"x" * (1 << 20) + b"y"
    got = client_of("admin").post("/api/prompts/file", files={"file": ("large.txt", large)})
    assert got.status_code == 413
    assert "1 MB" in got.json()["error"]


def test_nobody_uploads_without_being_signed_in_and_allowed(client_of: ClientOf, studio: Studio) -> None:
    files = {"file": ("a.txt", b"one\n")}
    assert client_of("labeler").post("/api/prompts/file", files=files).status_code == 403
    client = client_of("admin")
    del client.headers["X-CSRF-Token"]
    assert client.post("/api/prompts/file", files=files).status_code == 403
    client.cookies.clear()
    assert client.post("/api/prompts/file", files=files).status_code == 401
    with studio.store.read() as session:
        assert session.scalars(select(PromptRow)).all() == []


def test_choosing_a_model_begins_the_first_round(client_of: ClientOf, studio: Studio) -> None:
    client = client_of("admin")
    assert client.post("/api/rounds/policy", json={"model": "tiny"}).json()["name"] == "tiny"
    assert client.post("/api/rounds/policy", json={"model": "smollm2-135m"}).status_code == 200
    with studio.store.read() as session:
        current = rounds.current(session)
        assert current is not None
        assert current.number == 1
        assert session.get_one(Model, current.policy_id).path == "smollm2-135m"
    assert client_of("researcher").post("/api/rounds/policy", json={"model": "tiny"}).status_code == 403


def test_a_model_is_a_name_of_ours_a_directory_or_a_name_on_the_hub(studio: Studio) -> None:
    home = studio.workspace.directory
    (home / "runs" / "mine" / "model").mkdir(parents=True)
    (home / "runs" / "mine" / "model" / "config.json").write_text("{}")
    assert choosing.check(home, "tiny") == "tiny"
    assert choosing.check(home, str(home / "runs" / "mine")) == "runs/mine"
    assert choosing.check(home, "some-owner/some.model") == "some-owner/some.model"
    for wrong in ("nothing", "runs/other", "../../etc", "/etc", "a/b/c", "owner/name; rm", "x" * 400, "x\0y"):
        with pytest.raises(ConflictError, match="no model there"):
            choosing.check(home, wrong)


def test_the_names_of_our_own_models_are_those_there_are() -> None:
    assert choosing.ZOO.keys() == BUILTIN.keys()
