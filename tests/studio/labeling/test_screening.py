"""Screening tests in the app: made from judged items or a file, taken by a labeler, corrected, taken again."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select
from tests.studio import judged
from tests.studio.conftest import Client, ClientOf, Studio
from tests.studio.judged import Judged

from palate.feedback.store.tables import Item, Task, User
from palate.studio.web.workspace import Settings


def pairs_file(*ranks: list[int]) -> bytes:
    rows = [
        {
            "prompt": {"messages": [{"role": "user", "content": f"known {n}"}]},
            "responses": [{"text": f"text {i}"} for i in range(len(each))],
            "ranks": each,
        }
        for n, each in enumerate(ranks)
    ]
    return "\n".join(json.dumps(row) for row in rows).encode()


def upload(client: Client, content: bytes, name: str = "known.jsonl", **form: str):  # type: ignore[no-untyped-def]
    return client.post("/api/screening/import", files={"file": (name, content)}, data={"name": "entrance", **form})


def test_who_may(client_of: ClientOf) -> None:
    for role in ("reviewer", "labeler", "chat"):
        somebody = client_of(role)
        for path in ("/screening", "/screening/new", "/screening/x", "/api/screening", "/api/screening/candidates"):
            assert somebody.get(path).status_code == 403
        assert upload(somebody, pairs_file([1, 2])).status_code == 403
        assert somebody.post("/api/screening", json={"name": "x", "items": []}).status_code == 403
        assert somebody.put("/api/screening/items/x", json={"ranks": [1, 2]}).status_code == 403


@pytest.fixture
def agreed(client_of: ClientOf, studio: Studio) -> Judged:
    ann, bob = client_of("labeler", "Ann"), client_of("labeler", "Bob")
    return judged.two_items(studio.store, ann.user, bob.user)


def test_a_test_from_what_people_agree_on(agreed: Judged, client_of: ClientOf) -> None:
    kim = client_of("researcher")
    (candidate,) = kim.get("/api/screening/candidates").json()
    assert (candidate["id"], candidate["ranks"], candidate["agreement"]) == (agreed.items[0].id, [1, 2, 3], 1.0)
    assert len(kim.get("/api/screening/candidates?everything=true").json()) == 2
    page = kim.get("/screening/new").text
    assert "question 0" in page
    assert "question 1" not in page
    assert "question 1" in kim.get("/screening/new?everything=true").text
    wish = {"name": "entrance", "items": [{"item_id": candidate["id"], "ranks": [1, 2, 2]}]}
    made = kim.post("/api/screening", json=wish)
    assert made.status_code == 201
    test = made.json()
    assert (test["threshold"], test["num_items"], test["is_open"]) == (0.75, 1, True)
    assert kim.get(f"/api/screening/{test['id']}").json()["items"][0]["known_ranks"] == [1, 2, 2]
    assert "entrance" in kim.get("/screening").text
    for wrong in (
        {"name": "", "items": wish["items"]},
        {"name": "x", "items": []},
        {"name": "x", "threshold": 1.5, "items": wish["items"]},
    ):
        assert kim.post("/api/screening", json=wrong).status_code == 422
    lost = {"name": "x", "items": [{"item_id": "nothing", "ranks": [1, 2]}]}
    assert kim.post("/api/screening", json=lost).status_code == 404
    flat = {"name": "x", "items": [{"item_id": candidate["id"], "ranks": [1, 1, 1]}]}
    assert kim.post("/api/screening", json=flat).status_code == 409


def answer(client: Client, known: dict[str, list[int]], right: bool) -> str | None:
    """Take one task of the test and answer it like the known ranks (by text) or the other way round."""
    task = client.post("/api/tasks/claim", json={}).json()["task"]
    ranks = [known[text][0] for text in task["responses"]]
    ranks = ranks if right else [max(ranks) + 1 - rank for rank in ranks]
    form = {"ranks": ranks, "seconds": 60, "confirmed": True}
    outcome: str | None = client.post(f"/api/tasks/{task['id']}/submit", json=form).json()["screening"]
    return outcome


KNOWN = {"text 0": [1], "text 1": [2]}


def test_from_a_file_to_a_decision_and_back(client_of: ClientOf, studio: Studio) -> None:
    admin, eve, fay = client_of("admin"), client_of("labeler", "Eve"), client_of("labeler", "Fay")
    made = upload(admin, pairs_file([1, 2], [1, 2], [1, 1], [1, 2]), threshold="0.6")
    assert made.status_code == 201
    test = made.json()
    assert (test["kind"], test["num_items"], test["left_out"]) == ("pair", 3, {"all responses tied": 1})
    task = eve.post("/api/tasks/claim", json={}).json()["task"]
    assert task["is_screening"]
    assert "gold" not in json.dumps(task)
    assert [answer(eve, KNOWN, right) for right in (True, True, False)] == [None, None, "passed"]
    assert [answer(fay, KNOWN, right) for right in (False, True, False)] == [None, None, "failed"]
    result = admin.get(f"/api/screening/{test['id']}").json()
    assert [(p["name"], p["agreement"], p["reaches_threshold"]) for p in result["people"]] == [
        ("Eve", pytest.approx(2 / 3), True),
        ("Fay", pytest.approx(1 / 3), False),
    ]
    assert [(item["agreement"], item["is_suspect"]) for item in result["items"]] == [
        (0.5, False), (1.0, False), (0.0, True),
    ]  # fmt: skip
    page = admin.get(f"/screening/{test['id']}").text
    assert "probably wrong" in page
    assert "67%" in page
    suspect = result["items"][2]
    assert suspect["usual_ranks"] == [2, 1]
    fixed = admin.put(f"/api/screening/items/{suspect['id']}", json={"ranks": [2, 1]}).json()
    assert [p["agreement"] for p in fixed["people"]] == [1.0, pytest.approx(2 / 3)]
    assert [p["screening"] for p in fixed["people"]] == ["passed", "failed"]
    assert admin.post(f"/api/screening/{test['id']}/decide").json() == {"changed": 1}
    assert screening_of(studio, fay) == "passed"
    assert admin.post(f"/api/people/{fay.user.id}/retake").json() == {"screening": None}
    assert fay.post("/api/tasks/claim", json={}).json()["task"]["is_screening"]
    assert (
        admin.patch(f"/api/screening/{test['id']}", json={"is_open": False, "threshold": 0.9}).json()["is_open"]
        is False
    )
    assert fay.get("/api/tasks/mine").json()["piles"] == []


def screening_of(studio: Studio, client: Client) -> str | None:
    with studio.store.read() as session:
        return session.get_one(User, client.user.id).screening


def test_the_forms_of_the_pages(client_of: ClientOf, studio: Studio) -> None:
    kim = client_of("researcher")
    as_script = {"Accept": "application/json"}
    form = {"name": "entrance", "threshold": "80"}
    made = kim.post(
        "/screening/import", files={"file": ("a.jsonl", pairs_file([1, 2], [1, 1]))}, data=form, headers=as_script
    )
    where = made.json()["location"]
    assert where.endswith("?left_out=1")
    assert "1 ranking of the file could not be used" in kim.get(where).text
    path = where.partition("?")[0]
    kim.post(f"{path}/change", data={"threshold": "50"})
    kim.post(f"{path}/change", data={"is_open": "false"})
    with studio.store.read() as session:
        item = session.scalars(select(Item)).one()
    kim.post(f"/screening/items/{item.id}", data={"ranks": ["2", "1"]})
    assert kim.post(f"{path}/decide", headers=as_script).json() == {"location": path}
    found = kim.get(f"/api{path}").json()
    assert (found["threshold"], found["is_open"], found["items"][0]["known_ranks"]) == (0.5, False, [2, 1])


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"not json", "known.jsonl", "known.jsonl:1"),
        (b'{"text": "no ranking"}', "known.jsonl", "rankings"),
        (b"", "known.jsonl", "known.jsonl"),
        (pairs_file([1, 2]), "known.jsonl.gz", "gzip"),
        (pairs_file([1, 2]), "known.exe", "should end in"),
        (pairs_file([1, 2]), "../../etc/passwd", "should end in"),
        (pairs_file([1]), "known.jsonl", "no ranking in it"),
        (b"\xff\xfe\x00", "known.csv", "known.csv"),
        (pairs_file(*([1, 2] for _ in range(201))), "known.jsonl", "at most 200"),
    ],
)
def test_files_that_cannot_be_used_get_one_clear_line(
    client_of: ClientOf, studio: Studio, content: bytes, name: str, said: str
) -> None:
    kim = client_of("researcher")
    response = upload(kim, content, name)
    assert response.status_code == 400
    assert said in response.json()["error"]
    assert "/tmp" not in response.json()["error"]
    assert kim.get("/api/screening").json() == []


def test_a_file_that_is_too_large_is_refused(client_of: ClientOf, studio: Studio) -> None:
    kim = client_of("researcher")
    studio.workspace.settings = Settings(upload_megabytes=1)
    assert upload(kim, b"x" * (5 << 20)).status_code == 413


def test_a_file_in_columns_of_its_own_is_told_how_to_be_read(client_of: ClientOf) -> None:
    kim = client_of("researcher")
    content = b"frage,links,rechts,urteil\nWarum?,Darum.,Egal.,linke Seite\n"
    how = {
        "fields": {"prompt": "frage", "a": "links", "b": "rechts", "preferred": "urteil"},
        "verdicts": {"linke Seite": "a"},
    }
    refused = upload(kim, content, "test.csv").json()["error"]
    assert refused.endswith("say how it is to be read, its format or which of its columns holds what")
    sent = kim.post("/api/uploads", files={"file": ("test.csv", content)}).json()["id"]
    form = {"name": "entrance", "upload": sent, "how": json.dumps(how)}
    made = kim.post("/api/screening/import", files={name: (None, value) for name, value in form.items()})
    assert made.status_code == 201, made.text
    (item,) = kim.get(f"/api/screening/{made.json()['id']}").json()["items"]
    assert (item["prompt"], item["known_ranks"]) == ("Warum?", [1, 2])


def test_other_batches_are_no_tests(agreed: Judged, client_of: ClientOf, studio: Studio) -> None:
    kim = client_of("researcher")
    for path in (f"/screening/{agreed.batch.id}", f"/api/screening/{agreed.batch.id}"):
        assert kim.get(path).status_code == 404
    answer = kim.put(f"/api/screening/items/{agreed.items[0].id}", json={"ranks": [1, 2, 3]})
    assert answer.status_code == 404
    assert kim.patch(f"/api/screening/{agreed.batch.id}", json={"is_open": False}).status_code == 404
    with studio.store.read() as session:
        assert session.scalars(select(Task)).first() is not None
        assert session.get_one(Item, agreed.items[0].id).gold is None
