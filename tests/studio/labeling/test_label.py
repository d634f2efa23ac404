"""The labelling screens through HTTP: what they do, what they never tell, and what they make of hostile text."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from sqlalchemy import select
from tests.studio.conftest import Client, ClientOf, Studio

from palate.feedback.labelers import guidelines
from palate.feedback.store import people
from palate.feedback.store.tables import Item, Judgement, Model, ResponseRow, Task, User
from palate.feedback.tasks import batches, judgements, queue
from palate.feedback.tasks.batches import BatchPlan
from palate.records import Message, Prompt, Provenance, Ranking, Response

MODEL, CHECKPOINT = "smollm2-135m", "c0ffee15dead"
TEXTS = ("Plant it in the sun.", "Water it daily.", "Ask a gardener.", "Buy tomatoes.", "No.", "It is easy.")


def add_batch(
    studio: Studio, *, items: int = 3, k: int = 4, texts: tuple[str, ...] = TEXTS, prompt: str = "", **plan: Any
) -> str:
    """A batch of a kind with its items; returns its id."""
    gold = plan.pop("gold", None)
    with studio.store.write() as session:
        if session.scalars(select(Model).where(Model.name == MODEL)).first() is None:
            session.add(Model(id="secretmodelid", name=MODEL, path=MODEL, created_at=1.0))
        batch = batches.create_batch(session, BatchPlan(**{"name": "Round one", **plan}), by=None)
        for number in range(items):
            asked = Prompt.from_text(prompt or f"{batch.name}: question {number}?", tags={"secret": "tag"})
            batches.add_prompts(session, [asked], source="secret source")
            rows = [
                batches.add_response(
                    session,
                    asked.id,
                    Response(
                        text=text, provenance=Provenance(model=MODEL, checkpoint=CHECKPOINT, temperature=0.76543219)
                    ),
                    model_id="secretmodelid",
                )
                for text in texts[: 0 if batch.kind == "demonstration" else k]
            ]
            batches.add_item(session, batch, asked.id, [row.id for row in rows], gold=gold)
        return batch.id


def claim(client: Client, batch_id: str | None = None) -> dict[str, Any]:
    answer = client.post("/api/tasks/claim", json={"batch_id": batch_id})
    assert answer.status_code == 200, answer.text
    task: dict[str, Any] | None = answer.json()["task"]
    assert task is not None
    return task


def form(*ranks: int, **more: Any) -> dict[str, Any]:
    return {"ranks": ranks, "seconds": 60, **more}


def submit(client: Client, task: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(f"/api/tasks/{task['id']}/submit", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def lines(studio: Studio) -> list[Judgement]:
    with studio.store.read() as session:
        return list(session.scalars(select(Judgement).order_by(Judgement.number)))


def change(studio: Studio, table: type, key: str, **columns: Any) -> None:
    with studio.store.write() as session:
        row = session.get_one(table, key)
        for name, value in columns.items():
            setattr(row, name, value)


# ---- the way through a pile


def test_a_ranking_is_claimed_saved_and_handed_in(studio: Studio, client_of: ClientOf) -> None:
    add_batch(studio)
    lea = client_of("labeler")
    task = claim(lea)
    assert task["kind"] == "ranking"
    assert [(turn["role"], turn["content"]) for turn in task["prompt"]] == [("user", "Round one: question 0?")]
    assert sorted(task["responses"]) == sorted(TEXTS[:4])
    body = form(2, 1, 1, 3, ratings=[3, 7, 7, 1], flags=[[], ["opinion"], [], []], comment="the last one is lazy")
    assert submit(lea, task, body) == {"stored": True, "questions": [], "surplus": False, "screening": None}
    (line,) = lines(studio)
    ranking = Ranking.model_validate(line.record)
    ranked = dict(zip([response.text for response in ranking.responses], ranking.ranks, strict=True))
    assert ranked == dict(zip(task["responses"], (2, 1, 1, 3), strict=True))
    assert line.comment == "the last one is lazy"
    assert (line.seconds, ranking.labeler) == (60, lea.user.name)


def test_a_pair_keeps_its_strength(studio: Studio, client_of: ClientOf) -> None:
    add_batch(studio, kind="pair", k=2)
    lea = client_of("labeler")
    task = claim(lea)
    assert submit(lea, task, form(2, 1, strength=3))["stored"]
    assert lines(studio)[0].record["strength"] == 3
    task = claim(lea)
    assert submit(lea, task, form(1, 1, strength=0))["stored"]
    assert lines(studio)[1].record["ranks"] == [1, 1]


def test_a_demonstration_is_written(studio: Studio, client_of: ClientOf) -> None:
    add_batch(studio, kind="demonstration")
    lea = client_of("labeler")
    task = claim(lea)
    assert task["responses"] == []
    answer = lea.post(f"/api/tasks/{task['id']}/submit", json={"text": " \n ", "seconds": 9})
    assert (answer.status_code, answer.json()) == (409, {"error": "write an answer first"})
    assert submit(lea, task, {"text": "In a pot.", "seconds": 9})["stored"]
    assert lines(studio)[0].record["response"] == {"text": "In a pot."}


def test_the_queue_ends(studio: Studio, client_of: ClientOf) -> None:
    add_batch(studio, items=1)
    lea = client_of("labeler")
    submit(lea, claim(lea), form(2, 1, 3, 4))
    assert lea.post("/api/tasks/claim", json={}).json() == {"task": None}
    assert "All done" in lea.get("/label/done").text


def test_handing_in_twice_is_one_judgement(studio: Studio, client_of: ClientOf) -> None:
    add_batch(studio)
    lea = client_of("labeler")
    task = claim(lea)
    assert submit(lea, task, form(2, 1, 3, 4)) == submit(lea, task, form(2, 1, 3, 4))
    assert len(lines(studio)) == 1
    other = lea.post(f"/api/tasks/{task['id']}/submit", json=form(1, 2, 3, 3))
    assert other.status_code == 409
    assert len(lines(studio)) == 1


def test_a_lease_that_ran_out_loses_nothing(studio: Studio, client_of: ClientOf) -> None:
    """While somebody thinks, somebody else finishes the item: both judgements are kept, one is counted."""
    add_batch(studio, items=1)
    slow, quick = client_of("labeler"), client_of("labeler")
    task = claim(slow)
    change(studio, Task, task["id"], leased_until=time.time() - 1)
    submit(quick, claim(quick), form(1, 2, 2, 2))
    assert submit(slow, task, form(2, 1, 3, 4))["surplus"] is True
    first, second = lines(studio)
    assert (first.quality, second.quality) == ({}, {"surplus": True})


def test_a_draft_takes_an_expired_task_again(studio: Studio, client_of: ClientOf) -> None:
    add_batch(studio, items=1)
    lea = client_of("labeler")
    task = claim(lea)
    change(studio, Task, task["id"], leased_until=1.0)
    with studio.store.write() as session:
        queue.release_expired(session, time.time())
    assert lea.get(f"/api/tasks/{task['id']}").json()["state"] == "released"
    saved = lea.put(f"/api/tasks/{task['id']}/draft", json={"ranks": [1, None, None, None]}).json()
    assert saved["leased_until"] > time.time() + 1000
    assert lea.get(f"/api/tasks/{task['id']}").json()["state"] == "leased"


def test_a_draft_comes_back_with_the_page(studio: Studio, client_of: ClientOf) -> None:
    add_batch(studio)
    lea = client_of("labeler")
    task = claim(lea)
    draft = {
        "ranks": [2, None, 1, None],
        "ratings": [None, 7, None, 1],
        "flags": [["opinion"], [], [], []],
        "strength": None,
        "text": "",
        "comment": "half way",
        "seconds": 12.5,
    }
    lea.put(f"/api/tasks/{task['id']}/draft", json=draft)
    assert lea.get(f"/api/tasks/{task['id']}").json()["draft"] == draft
    assert data_of(lea.get(f"/label/{task['id']}").text)["draft"] == draft
    assert claim(lea)["id"] == task["id"], "what is in hand comes before what is new"


@pytest.mark.parametrize(
    "draft",
    [
        {"ranks": [0, 1]},
        {"ranks": [1] * 51},
        {"ratings": [8]},
        {"text": "x" * 20001},
        {"comment": "x" * 2001},
        {"seconds": -1},
        {"surprise": 1},
        {"ranks": "1234"},
        [],
    ],
)
def test_a_draft_has_limits(studio: Studio, client_of: ClientOf, draft: Any) -> None:
    add_batch(studio, items=1)
    lea = client_of("labeler")
    task = claim(lea)
    assert lea.put(f"/api/tasks/{task['id']}/draft", json=draft).status_code == 422


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (form(1, 2, 3), 409),
        (form(1, 2, 3, 0), 422),
        (form(1, 2, 3, 4, ratings=[1, 2, 3, None]), 422),
        (form(1, 2, 3, 4, flags=[["no such flag"], [], [], []]), 422),
        (form(1, 2, 3, 4, comment="x" * 2001), 422),
        (form(1, 2, 3, 4, surprise=True), 422),
        ({"text": "not a ranking"}, 409),
        ({}, 422),
    ],
)
def test_what_cannot_be_a_judgement_is_refused_in_one_line(
    studio: Studio, client_of: ClientOf, body: dict[str, Any], status: int
) -> None:
    add_batch(studio, items=1)
    lea = client_of("labeler")
    answer = lea.post(f"/api/tasks/{claim(lea)['id']}/submit", json=body)
    assert answer.status_code == status
    assert len(answer.json()["error"].splitlines()) == 1
    assert lines(studio) == []


# ---- gentle questions


@pytest.mark.parametrize(
    ("body", "question"),
    [
        (form(2, 1, 3, 4, ratings=[7, 2, 2, 1]), "You rated A higher than B but ranked it lower."),
        (form(1, 2, 4, 3, ratings=[4, 3, 6, 2]), "You rated C higher than D but ranked it lower."),
        (form(1, 1, 1, 1), "You put all responses into one rank."),
        (form(1, 2, 3, 4), "Your ranking is exactly the order in which the responses were shown."),
        (form(2, 1, 3, 4, seconds=3), "That took 3 seconds for 4 responses."),
    ],
)
def test_a_question_is_asked_once_and_recorded(
    studio: Studio, client_of: ClientOf, body: dict[str, Any], question: str
) -> None:
    add_batch(studio, items=1)
    lea = client_of("labeler")
    task = claim(lea)
    asked = submit(lea, task, body)
    assert asked["stored"] is False
    assert [text.startswith(question) for text in asked["questions"]] == [True]
    assert lines(studio) == []
    assert submit(lea, task, {**body, "confirmed": True})["stored"] is True
    assert len(lines(studio)[0].quality["nudges"]) == 1


def test_ratings_that_agree_with_the_ranking_raise_no_question(studio: Studio, client_of: ClientOf) -> None:
    add_batch(studio, items=1)
    lea = client_of("labeler")
    assert submit(lea, claim(lea), form(2, 1, 2, 3, ratings=[5, 6, 5, 5]))["stored"] is True
    assert lines(studio)[0].quality == {}


# ---- changing one's mind


def test_undo_brings_the_form_back(studio: Studio, client_of: ClientOf) -> None:
    add_batch(studio)
    lea = client_of("labeler")
    task = claim(lea)
    submit(lea, task, form(2, 1, 3, 4, comment="hm"))
    following = claim(lea)
    assert data_of(lea.get(f"/label/{following['id']}").text)["last"] == {"id": task["id"], "state": "submitted"}
    back = lea.post(f"/api/tasks/{task['id']}/undo").json()
    assert (back["state"], back["draft"]["ranks"], back["draft"]["comment"]) == ("leased", [2, 1, 3, 4], "hm")
    assert lea.post(f"/api/tasks/{task['id']}/undo").status_code == 409
    assert submit(lea, task, form(4, 1, 3, 2))["stored"]
    assert [line.kind for line in lines(studio)] == ["ranking", "withdrawal", "ranking"]


def test_a_correction_replaces_what_was_said(studio: Studio, client_of: ClientOf) -> None:
    add_batch(studio)
    lea = client_of("labeler")
    task = claim(lea)
    submit(lea, task, form(2, 1, 3, 4, ratings=[4, 5, 3, 2]))
    page = lea.get(f"/label/{task['id']}").text
    assert "You handed this in" in page
    assert data_of(page)["said"]["ranks"] == [2, 1, 3, 4]
    path = f"/api/tasks/{task['id']}/correction"
    assert lea.put(path, json=form(1, 1, 1, 1)).json()["questions"]
    assert lea.put(path, json=form(1, 1, 1, 1, confirmed=True)).json()["stored"] is True
    with studio.store.read() as session:
        (now,) = session.scalars(judgements.current())
    assert now.record["ranks"] == [1, 1, 1, 1]
    assert now.quality == {"nudges": ["all_tied"], "edited": True}


def test_nothing_is_corrected_before_it_is_said(studio: Studio, client_of: ClientOf) -> None:
    add_batch(studio)
    lea = client_of("labeler")
    assert lea.put(f"/api/tasks/{claim(lea)['id']}/correction", json=form(2, 1, 3, 4)).status_code == 409


def test_a_skipped_task_says_why_and_can_be_taken_up_again(studio: Studio, client_of: ClientOf) -> None:
    add_batch(studio, items=2)
    lea = client_of("labeler")
    task = claim(lea)
    why = {"reason": "knowledge", "note": "about  medicine"}
    assert lea.post(f"/api/tasks/{task['id']}/skip", json=why).json()["state"] == "skipped"
    with studio.store.read() as session:
        reason = session.get_one(Task, task["id"]).skip_reason
    assert reason == "I would need knowledge that I do not have: about medicine"
    assert "I would need knowledge" in lea.get(f"/label/{task['id']}").text
    assert claim(lea)["id"] != task["id"]
    assert lea.post(f"/api/tasks/{task['id']}/reopen").json()["state"] == "leased"
    assert lea.post(f"/api/tasks/{task['id']}/skip", json={"reason": "bored"}).status_code == 422


def test_the_first_page_undoes_and_reopens_by_form(studio: Studio, client_of: ClientOf) -> None:
    add_batch(studio, items=2)
    lea = client_of("labeler")
    done, skipped = claim(lea), None
    submit(lea, done, form(2, 1, 3, 4))
    skipped = claim(lea)
    lea.post(f"/api/tasks/{skipped['id']}/skip", json={"reason": "other"})
    page = lea.get("/label").text
    for task, action in ((done, "undo"), (skipped, "reopen")):
        assert f'action="/label/{task["id"]}/{action}"' in page
        assert lea.post(f"/label/{task['id']}/{action}").json() == {"location": f"/label/{task['id']}"}
        assert lea.get(f"/api/tasks/{task['id']}").json()["state"] == "leased"


def test_scripts_of_different_versions_never_meet(studio: Studio, client_of: ClientOf) -> None:
    """A page names the version of its script; what that imports by its plain name is asked for again each time."""
    add_batch(studio, items=1)
    lea = client_of("labeler")
    page = lea.get(f"/label/{claim(lea)['id']}")
    script = re.search(r"/static/labeling/label\.js\?v=\w+", page.text)
    assert script is not None
    assert lea.get(script.group()).headers["cache-control"] == "max-age=86400"
    assert lea.get("/static/labeling/label_ranking.js").headers["cache-control"] == "no-cache"
    assert page.headers["cache-control"] == "no-store"


# ---- what there is to do


def test_the_first_page_counts_what_is_left(studio: Studio, client_of: ClientOf) -> None:
    add_batch(studio, items=3)
    add_batch(studio, items=2, kind="demonstration", name="Poems")
    lea = client_of("labeler")
    submit(lea, claim(lea), form(2, 1, 3, 4))
    mine = lea.get("/api/tasks/mine").json()
    assert [(pile["name"], pile["done"], pile["to_do"]) for pile in mine["piles"]] == [
        ("Round one", 1, 2),
        ("Poems", 0, 2),
    ]
    assert (mine["done_today"], mine["seconds_today"], mine["piles"][0]["seconds_left"]) == (1, 60, 120)
    page = lea.get("/label").text
    assert "about 2 min left" in page
    assert "1 of 3" in page


def test_beginning_leads_to_the_task_or_to_the_end(studio: Studio, client_of: ClientOf) -> None:
    poems = add_batch(studio, items=1, kind="demonstration", name="Poems")
    add_batch(studio, items=1)
    lea = client_of("labeler")
    where = lea.post("/label", data={"batch_id": poems}).json()["location"]
    assert "Write a response" in lea.get(where).text
    assert lea.post("/label", data={"batch_id": "unknown"}).json() == {"location": "/label/done"}


@pytest.mark.parametrize(
    ("columns", "status", "text"),
    [
        ({"is_paused": True}, 403, "Your account is paused"),
        ({"screening": "failed"}, 403, "The test went another way"),
        ({"tasks_per_day": 0}, 429, "That is all for today"),
    ],
)
def test_who_gets_no_work_is_told_why(
    studio: Studio, client_of: ClientOf, columns: dict[str, Any], status: int, text: str
) -> None:
    add_batch(studio)
    lea = client_of("labeler")
    change(studio, User, lea.user.id, **columns)
    assert lea.post("/api/tasks/claim", json={}).status_code == status
    for path in ("/label", "/label/done"):
        page = lea.get(path)
        assert page.status_code == 200
        assert text in page.text
        assert "Begin" not in page.text


@pytest.mark.parametrize(("ranks", "outcome"), [((1, 2), "passed"), ((2, 1), "failed")])
def test_the_test_comes_first_and_its_outcome_is_told(
    studio: Studio, client_of: ClientOf, ranks: tuple[int, int], outcome: str
) -> None:
    add_batch(studio)
    gold = {"Plant it in the sun.": 0, "Water it daily.": 1}
    add_batch(studio, items=2, k=2, kind="pair", name="Test", is_screening=True, threshold=0.75, gold=[1, 2])
    lea = client_of("labeler")
    page = lea.get("/label").text
    assert "First a short test" in page
    assert "75%" in page
    assert "Round one" not in page
    outcomes = []
    for _ in range(2):
        task = claim(lea)
        assert task["is_screening"] is True
        refused = lea.post(f"/api/tasks/{task['id']}/skip", json={"reason": "other"})
        assert refused.status_code == 409
        by_place = [ranks[gold[text]] for text in task["responses"]]
        outcomes.append(submit(lea, task, form(*by_place))["screening"])
    assert outcomes == [None, outcome]
    done = lea.get("/label/done").text
    assert ("You passed the test" in done) == (outcome == "passed")
    assert ("The test went another way" in done) == (outcome == "failed")
    assert lea.post(f"/api/tasks/{task['id']}/undo").status_code == 409


def test_settings_of_a_batch_decide_what_is_asked(studio: Studio, client_of: ClientOf) -> None:
    add_batch(studio, items=1, settings={"ratings": False, "flags": ["hallucination"]})
    lea = client_of("labeler")
    task = claim(lea)
    assert task["asked"] == {"ratings": False, "flags": ["hallucination"]}
    page = lea.get(f"/label/{task['id']}").text
    assert "Makes things up" in page
    assert "Expresses an opinion" not in page
    assert 'name="rating-0"' not in page


def test_a_pair_asks_for_nothing_else_unless_told(studio: Studio, client_of: ClientOf) -> None:
    add_batch(studio, items=1, k=2, kind="pair")
    add_batch(studio, items=1, k=2, kind="arena", name="Arena", settings={"ratings": True})
    lea = client_of("labeler")
    pair = claim(lea)
    assert pair["asked"] == {"ratings": False, "flags": []}
    submit(lea, pair, form(1, 2, strength=1))
    assert claim(lea)["asked"] == {"ratings": True, "flags": []}


# ---- guidelines


def test_guidelines_are_written_by_researchers_and_read_by_all(studio: Studio, client_of: ClientOf) -> None:
    lea, rita = client_of("labeler"), client_of("researcher")
    assert "No guidelines yet" in lea.get("/guidelines").text
    new = {"text": "Be **kind**.", "after": 0}
    assert lea.post("/api/guidelines", json=new).status_code == 403
    assert lea.post("/guidelines", data=new).status_code == 403
    assert lea.get("/guidelines/new").status_code == 403
    assert rita.post("/api/guidelines", json=new).json()["version"] == 1
    assert rita.post("/guidelines", data={"text": "Be kind,\r\nand brief.", "after": 1}).json() == {
        "location": "/guidelines"
    }
    assert rita.post("/guidelines", data={"text": "Mine", "after": 1}).status_code == 409
    page = lea.get("/guidelines").text
    assert "Be kind,\nand brief." in page
    assert "Version 2 of" in page
    assert "Change them" not in page
    assert "<strong>kind</strong>" in lea.get("/guidelines?version=1").text
    assert lea.get("/guidelines?version=7").status_code == 404
    versions = lea.get("/api/guidelines").json()
    assert [(each["version"], each["text"]) for each in versions] == [(2, "Be kind,\nand brief."), (1, "Be **kind**.")]


def test_the_version_in_force_is_at_hand_and_in_the_log(studio: Studio, client_of: ClientOf) -> None:
    add_batch(studio)
    lea, rita = client_of("labeler"), client_of("researcher")
    rita.post("/api/guidelines", json={"text": "Be kind.", "after": 0})
    task = claim(lea)
    page = lea.get(f"/label/{task['id']}").text
    assert "version 1" in page
    assert "changed" not in page
    submit(lea, task, form(2, 1, 3, 4))
    assert lines(studio)[0].guideline_version == 1
    rita.post("/api/guidelines", json={"text": "Be brief.", "after": 1})
    page = lea.get(f"/label/{claim(lea)['id']}").text
    assert "version 2" in page
    assert '<span class="badge warn">changed</span>' in page


# ---- what belongs to somebody else


def requests_about(task_id: str) -> Iterator[tuple[str, str, Any]]:
    yield "GET", f"/label/{task_id}", None
    yield "POST", f"/label/{task_id}/undo", None
    yield "POST", f"/label/{task_id}/reopen", None
    yield "GET", f"/api/tasks/{task_id}", None
    yield "PUT", f"/api/tasks/{task_id}/draft", {"ranks": [1, 2, 3, 4]}
    yield "POST", f"/api/tasks/{task_id}/submit", form(2, 1, 3, 4)
    yield "PUT", f"/api/tasks/{task_id}/correction", form(2, 1, 3, 4)
    yield "POST", f"/api/tasks/{task_id}/skip", {"reason": "other"}
    yield "POST", f"/api/tasks/{task_id}/undo", None
    yield "POST", f"/api/tasks/{task_id}/reopen", None


@pytest.mark.parametrize("role", ["labeler", "admin"])
def test_somebody_elses_task_is_not_there(studio: Studio, client_of: ClientOf, role: str) -> None:
    add_batch(studio)
    lea, other = client_of("labeler"), client_of(role)
    task = claim(lea)
    lea.put(f"/api/tasks/{task['id']}/draft", json={"comment": "private"})
    for method, path, body in requests_about(task["id"]):
        theirs, nobodys = (
            other.request(method, where, json=body) for where in (path, path.replace(task["id"], "AAAABBBBCCCCDDDD"))
        )
        assert (theirs.status_code, theirs.text) == (404, nobodys.text), (method, path)
    assert lea.get(f"/api/tasks/{task['id']}").json()["draft"]["comment"] == "private"
    assert lines(studio) == []


def test_a_chat_user_labels_nothing(studio: Studio, client_of: ClientOf) -> None:
    add_batch(studio)
    task = claim(client_of("labeler"))
    chat = client_of("chat")
    paths = [("POST", "/api/tasks/claim", {}), ("GET", "/api/tasks/mine", None), ("GET", "/label", None)]
    paths += [("GET", "/guidelines", None), ("POST", "/api/tasks/preview", {"text": "x"}), *requests_about(task["id"])]
    for method, path, body in paths:
        assert chat.request(method, path, json=body).status_code == 403, path


def test_every_change_wants_the_sessions_proof(studio: Studio, client_of: ClientOf) -> None:
    add_batch(studio)
    lea = client_of("labeler")
    task = claim(lea)
    del lea.headers["X-CSRF-Token"]
    for method, path, body in requests_about(task["id"]):
        if method != "GET":
            assert lea.request(method, path, json=body).status_code == 403, path
    assert lines(studio) == []


# ---- blindness


def secrets_of(studio: Studio) -> set[str]:
    """Everything about items and responses that would tell one from another."""
    with studio.store.read() as session:
        items, rows = session.scalars(select(Item)).all(), session.scalars(select(ResponseRow)).all()
    ids = {item.id for item in items} | {item.prompt_id for item in items} | {row.id for row in rows}
    return ids | {
        MODEL,
        "secretmodelid",
        CHECKPOINT,
        "0.76543219",  # more digits than a time has
        "secret source",
        "secret",
        "provenance",
        "gold",
        "shown_order",
    }


@pytest.mark.parametrize(
    ("kind", "k", "is_screening"),
    [("ranking", 4, False), ("ranking", 4, True), ("pair", 2, True), ("arena", 2, False), ("demonstration", 0, False)],
)
def test_nothing_tells_where_a_response_came_from(
    studio: Studio, client_of: ClientOf, kind: str, k: int, is_screening: bool
) -> None:
    test = {"is_screening": True, "threshold": 0.5, "gold": list(range(1, k + 1))}
    known: dict[str, Any] = test if is_screening else {}
    texts = (f"I am {MODEL}, and my name is SmolLM2.", *TEXTS)
    add_batch(studio, items=2, k=k, kind=kind, texts=texts, **known)
    lea = client_of("labeler")
    task = claim(lea)
    path = f"/api/tasks/{task['id']}"
    body = {"text": "Hello", "seconds": 60} if kind == "demonstration" else form(*([2, 1, 3, 3][:k]))
    seen = [json.dumps(task), lea.get(f"/label/{task['id']}").text]
    seen += [lea.put(f"{path}/draft", json={"comment": "x"}).text, lea.post(f"{path}/submit", json=body).text]
    seen += [lea.get(path).text, lea.get(f"/label/{task['id']}").text, lea.get("/label").text]
    seen += [lea.get("/api/tasks/mine").text, lea.get("/label/done").text]
    for text in seen:
        found = {secret for secret in secrets_of(studio) if secret.lower() in text.lower()}
        assert not found
        assert "smollm" not in text.lower()


def test_places_are_shuffled_for_each_person_and_recorded(studio: Studio, client_of: ClientOf) -> None:
    add_batch(studio, items=1, k=6, overlap=8)
    orders = set()
    for _ in range(8):
        lea = client_of("labeler")
        task = claim(lea)
        shown = [TEXTS.index(text) for text in task["responses"]]
        page = lea.get(f"/label/{task['id']}").text
        positions = [page.index(text) for text in task["responses"]]
        assert positions == sorted(positions), "the page shows the same order as the data"
        submit(lea, task, form(2, 1, 3, 4, 5, 6))
        assert lines(studio)[-1].record["shown_order"] == shown
        orders.add(tuple(shown))
    assert len(orders) >= 7, "8 of 720 orders are hardly ever alike"


# ---- hostile text

ATTACKS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](https://evil.example/track.png)",
    "![x](javascript:alert(1))",
    "[click](javascript:alert(1))",
    "[click](JaVaScRiPt&#58;alert(1))",
    "[click](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "<javascript:alert(1)>",
    "[ref]\n\n[ref]: javascript:alert(1)",
    "<svg/onload=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<a href='vbscript:x' onclick=alert(1)>x</a>",
    "<style>body{display:none}</style><link rel=stylesheet href=//evil.example>",
    "<form action=//evil.example><button formaction=javascript:alert(1)>x</button></form>",
    "</textarea><script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "```\n</code></pre><script>alert(1)</script>\n```",
    "`<img src=x onerror=alert(1)>`",
    '[x](https://ok.example "onmouseover=alert(1)")',
    '[x](https://ok.example" onmouseover="alert(1))',
    "<math><mtext></mtext><mglyph><style><img src=x onerror=alert(1)>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<!-- --><x style=animation-name:x onanimationstart=alert(1)>",
    "{{ 7*7 }}{% raw %}<b>",
    "\u202e<scr\u0000ipt>alert(1)</script>",
)
OURS = {
    "/static/labeling/label.js",
    "/static/web/early.js",
    "/static/web/palate.js",
    "/static/labeling/label_preview.js",
}


class Inspector(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "script" and given.get("type") != "application/json":
            self.bad += [f"script {given}"] if given.get("src", "").split("?")[0] not in OURS else []
        if tag in {"img", "iframe", "object", "embed", "style", "math", "base", "x"}:
            self.bad.append(tag)
        self.bad += [
            f"{tag} {name}" for name in given if name.startswith("on") or name in ("style", "srcdoc", "formaction")
        ]
        for name in ("href", "src", "action"):
            value = re.sub(r"[\s\x00]", "", given.get(name, "")).lower()
            if value and not re.match(r"(https?:|mailto:|/(?!/)|#)", value):
                self.bad.append(f"{tag} {name}={value}")


def inspect(html: str) -> list[str]:
    inspector = Inspector()
    inspector.feed(html)
    return inspector.bad


def data_of(html: str) -> dict[str, Any]:
    """What the page's script reads, cut out as a browser cuts it: up to the first end tag."""
    found = re.search(r'<script type="application/json" id="task">(.*?)</script', html, flags=re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found.group(1))
    return data


def test_the_inspector_sees_what_it_should() -> None:
    """Raw attacks are found, so that their absence means something."""
    raw = [attack for attack in ATTACKS if re.match(r"<(?!!|java)", attack)]
    assert len(raw) >= 8
    assert all(inspect(attack) for attack in raw)


@pytest.mark.parametrize("kind", ["ranking", "pair", "demonstration"])
def test_hostile_text_is_shown_and_does_nothing(studio: Studio, client_of: ClientOf, kind: str) -> None:
    """Every attack as prompt, response, comment, guideline, batch name, skip note and demonstration at once."""
    everything = "\n\n".join(ATTACKS)
    texts = tuple(f"{number}\n\n{everything}" for number in range(4))
    add_batch(
        studio, items=2, k=2, kind=kind, texts=texts, prompt=everything, name="<script>alert(1)</script>{{ 7*7 }}"
    )
    turns = ("system", "user", "assistant", "user")
    prompt = Prompt(messages=tuple(Message(role=role, content=everything) for role in turns))  # type: ignore[arg-type]
    with studio.store.write() as session:
        batches.add_prompts(session, [prompt])
        for item in session.scalars(select(Item)):
            item.prompt_id = prompt.id
        admin = people.create_user(session, "<img src=x onerror=alert(1)>", "a long password", "admin")
        guidelines.write(session, admin, everything, after=0)
    lea = client_of("labeler", name="<b onclick=alert(1)>Lea</b>")
    task = claim(lea)
    path = f"/api/tasks/{task['id']}"
    lea.put(f"{path}/draft", json={"comment": everything, "text": everything})
    page = lea.get(f"/label/{task['id']}").text
    assert inspect(page) == []
    assert data_of(page)["draft"]["comment"] == everything.replace("\0", "\ufffd")
    body = {"text": everything, "seconds": 60} if kind == "demonstration" else form(2, 1)
    submit(lea, task, {**body, "comment": everything})
    pages = [lea.get(f"/label/{task['id']}").text, lea.get("/label").text, lea.get("/label/done").text]
    skipped = claim(lea)
    lea.post(f"/api/tasks/{skipped['id']}/skip", json={"reason": "other", "note": "<script>alert(1)</script>"})
    pages += [lea.get(f"/label/{skipped['id']}").text, lea.get("/label").text, lea.get("/guidelines").text]
    pages.append(client_of("researcher").get("/guidelines/new").text)
    for each in pages:
        assert inspect(each) == []
        assert "alert(1)" in each, "what was written is shown as text"
        assert ">49<" not in each


def test_a_preview_is_harmless(studio: Studio, client_of: ClientOf) -> None:
    lea = client_of("labeler")
    for attack in ATTACKS:
        html = lea.post("/api/tasks/preview", json={"text": attack}).json()["html"]
        assert inspect(html) == [], attack


def test_markdown_code_and_lines_are_shown_as_meant(studio: Studio, client_of: ClientOf) -> None:
    text = "**bold**\nnext line\n\n```python\nif a < b:\n    pass\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    html = client_of("labeler").post("/api/tasks/preview", json={"text": text}).json()["html"]
    assert '<p dir="auto"><strong>bold</strong>\nnext line</p>' in html
    assert '<pre dir="auto"><code>if a &lt; b:\n    pass\n</code></pre>' in html
    assert '<td dir="auto">1</td>' in html
