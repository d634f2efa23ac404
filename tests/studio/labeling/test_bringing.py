"""A file is sent once, looked at, and told how it is to be read; what is made of it is what was shown."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import pytest
from sqlalchemy import select
from tests.studio.conftest import Client, ClientOf, Studio

from palate.feedback.store.tables import Item, PromptRow, ResponseRow
from palate.studio.labeling.bringing import FIELDS

GERMAN = "frage;antwort\nWarum?;Darum.\nWozu?;Dazu.\n".replace(";", ",")
CROWD = "frage,links,rechts,urteil,wer\nWarum?,Darum.,Deshalb.,linke Seite,ida\nWozu?,Dazu.,Egal.,rechte Seite,max\n"


@pytest.fixture
def rae(client_of: ClientOf) -> Client:
    return client_of("researcher")


def send(client: Client, name: str, content: str) -> dict[str, Any]:
    answer = client.post("/api/uploads", files={"file": (name, content.encode())})
    assert answer.status_code == 201, answer.text
    seen: dict[str, Any] = answer.json()
    return seen


def look(client: Client, upload: str, **how: Any) -> dict[str, Any]:
    answer = client.post(f"/api/uploads/{upload}/preview", json=how)
    assert answer.status_code == 200, answer.text
    seen: dict[str, Any] = answer.json()
    return seen


def states(seen: dict[str, Any]) -> dict[str, str]:
    return {column["name"]: column["state"] for column in seen["columns"]}


def test_a_file_that_is_recognised_is_shown_as_it_will_be_read(rae: Client) -> None:
    rows = [{"prompt": f"Question {n}?", "chosen": "yes", "rejected": "no", "note": "x"} for n in range(9)]
    seen = send(rae, "pairs.jsonl", "\n".join(map(json.dumps, rows)))
    assert seen["problem"] == ""
    assert [record["line"] for record in seen["records"]] == [1, 2, 3, 4, 5]
    first = seen["records"][0]
    assert (first["kind"], first["prompt"][0]["content"]) == ("ranking", "Question 0?")
    assert dict(zip(first["responses"], first["ranks"], strict=True)) == {"yes": 1, "no": 2}
    assert states(seen) == {"prompt": "used", "chosen": "used", "rejected": "used", "note": "not used"}
    assert "Question 4?" in seen["html"]


def test_a_file_that_is_not_recognised_is_told_its_columns_and_not_sent_again(rae: Client, studio: Studio) -> None:
    seen = send(rae, "fragen.csv", GERMAN)
    assert "no known format has the fields frage, antwort" in seen["problem"]
    assert "/tmp" not in seen["problem"]
    assert [column["name"] for column in seen["columns"]] == ["frage", "antwort"]
    how = {"fields": {"prompt": "frage", "response": "antwort"}}
    told = look(rae, seen["id"], **how)
    assert (told["problem"], told["records"][1]["responses"]) == ("", ["Dazu."])
    answer = rae.post("/api/prompts/file", files={"upload": (None, seen["id"]), "how": (None, json.dumps(how))})
    assert (answer.status_code, answer.json()["added"]) == (200, 2)
    with studio.store.read() as session:
        prompts = session.scalars(select(PromptRow)).all()
        assert {row.record["messages"][0]["content"] for row in prompts} == {"Warum?", "Wozu?"}
        assert {row.source for row in prompts} == {"fragen.csv"}


def test_words_of_judgements_and_columns_that_are_left_out_make_a_batch(rae: Client, studio: Studio) -> None:
    fields = {"prompt": "frage", "a": "links", "b": "rechts", "preferred": "urteil", "labeler": "wer"}
    seen = send(rae, "urteile.csv", CROWD)
    unclear = look(rae, seen["id"], fields=fields)
    assert unclear["records"] == []
    assert "linke Seite" in unclear["problem"] + json.dumps(unclear["rejected"])
    how = {"fields": fields, "verdicts": {"linke Seite": "a", "rechte Seite": "b"}}
    told = look(rae, seen["id"], **how)
    assert [(record["ranks"], record["labeler"]) for record in told["records"]] == [([1, 2], "ida"), ([2, 1], "max")]
    form = {"name": "Urteile", "kind": "pair", "threshold": "0.7", "upload": seen["id"], "how": json.dumps(how)}
    answer = rae.post("/api/batches/file", files={name: (None, value) for name, value in form.items()})
    assert (answer.status_code, answer.json()["added"]) == (201, 2), answer.text
    with studio.store.read() as session:
        golds = []
        for item in session.scalars(select(Item).order_by(Item.position)):
            texts = [session.get_one(ResponseRow, id).record["text"] for id in item.response_ids]
            golds.append(dict(zip(texts, item.gold or (), strict=True)))
    assert golds == [{"Darum.": 1, "Deshalb.": 2}, {"Dazu.": 2, "Egal.": 1}]


def test_what_would_be_lost_is_said_and_can_be_left_out_or_kept(rae: Client) -> None:
    rows = [{"prompt": f"Question {n}?", "response": "yes", "stars": n} for n in range(3)]
    seen = send(rae, "stars.jsonl", "\n".join(map(json.dumps, rows)))
    assert {c["name"]: c["speaks_of"] for c in seen["columns"]}["stars"] == "a rating"
    refused = rae.post("/api/prompts/file", files={"upload": (None, seen["id"])})
    assert refused.status_code == 400
    assert "'stars' speaks of a rating" in refused.json()["error"]
    for how, state in (({"ignore": ["stars"]}, "left out"), ({"tags": ["stars"]}, "tag")):
        told = look(rae, seen["id"], **how)
        assert states(told)["stars"] == state
        assert not any(column["speaks_of"] for column in told["columns"])


def test_plain_text_is_a_prompt_on_each_line(rae: Client) -> None:
    seen = send(rae, "ideas.txt", "One?\n\nTwo?\n")
    assert (seen["format"], len(seen["records"]), seen["problem"]) == ("lines", 2, "")


def test_a_kept_file_is_its_owners_and_goes_away(rae: Client, client_of: ClientOf, studio: Studio) -> None:
    seen = send(rae, "fragen.csv", GERMAN)
    other = client_of("researcher")
    for upload in (seen["id"], "nothing", "..", "a/b"):
        assert other.post(f"/api/uploads/{upload}/preview", json={}).status_code == 404
        gone = other.post("/api/prompts/file", files={"upload": (None, upload)})
        assert (gone.status_code, gone.json()["error"]) == (404, "this file is no longer here: choose it again")
    kept = studio.workspace.directory / "uploads" / rae.user.id
    for number in range(5):
        send(rae, f"{number}.txt", "Why?")
    assert len(list(kept.iterdir())) == 3
    assert rae.post(f"/api/uploads/{seen['id']}/preview", json={}).status_code == 404
    yesterday = time.time() - 90_000
    for folder in kept.iterdir():
        os.utime(folder, (yesterday, yesterday))
    last = send(rae, "last.txt", "Why?")
    assert [folder.name for folder in kept.iterdir()] == [last["id"]]


@pytest.mark.parametrize(
    ("how", "named"),
    [("{", "how"), ('{"colour": 1}', "how.colour"), ('{"fields": ["a"]}', "how.fields"), ("[]", "how")],
)
def test_what_is_said_wrongly_of_a_file_is_named(rae: Client, how: str, named: str) -> None:
    answer = rae.post("/api/prompts/file", files={"file": ("a.txt", b"Why?"), "how": (None, how)})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(f"{named}: ")


def test_every_field_is_put_in_words() -> None:
    assert [name for name, words in FIELDS.items() if words == name] == []


def test_hostile_text_in_a_file_is_text(rae: Client) -> None:
    rows = [{"<img src=x onerror=alert(1)>": "<script>alert(1)</script>", "prompt": "<b onclick=alert(1)>b</b>"}]
    seen = send(rae, "x.jsonl", "\n".join(map(json.dumps, rows)))
    assert "<img" not in seen["html"]
    assert "<script" not in seen["html"]
    assert "&lt;b onclick" in seen["html"]
