"""Review in the app: who may, what is hidden, and that a decision lands in the training data."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from tests.studio import judged
from tests.studio.conftest import Client, ClientOf, Studio
from tests.studio.judged import MODEL, Judged

from palate.feedback.store import people
from palate.feedback.store.tables import Judgement, Review, User
from palate.feedback.tasks import judgements


@pytest.fixture
def scene(client_of: ClientOf, studio: Studio) -> tuple[Judged, Client, Client, Client]:
    ann, bob, rae = (
        client_of("labeler", "Ann Example"),
        client_of("labeler", "Bob Example"),
        client_of("reviewer", "Rae"),
    )
    return judged.two_items(studio.store, ann.user, bob.user), ann, bob, rae


Scene = tuple[Judged, Client, Client, Client]


def training(studio: Studio) -> list[tuple[str, tuple[int, ...]]]:
    with studio.store.read() as session:
        return [(r.labeler, r.ranks) for r in judgements.rankings(session, judgements.for_training())]


def test_labelers_and_chat_users_stay_out(scene: Scene, client_of: ClientOf, studio: Studio) -> None:
    world, ann, _, _ = scene
    item = world.items[1].id
    for somebody in (ann, client_of("chat")):
        for path in ("/review", f"/review/{item}", "/api/review", f"/api/review/{item}"):
            assert somebody.get(path).status_code == 403
        for path, body in ((f"/review/{item}", {"data": {"decision": "keep"}}), (f"/api/review/{item}", {"json": {}})):
            assert somebody.post(path, **body).status_code == 403  # type: ignore[arg-type]
    with studio.store.read() as session:
        assert session.scalars(select(Review)).all() == []


def test_the_list_names_the_disputed_item_alone(scene: Scene) -> None:
    world, _, _, rae = scene
    found = rae.get("/api/review").json()
    assert found["total"] == 1
    assert [(each["id"], each["disagreement"], each["num_labelers"]) for each in found["items"]] == [
        (world.items[1].id, 1.0, 2)
    ]
    page = rae.get("/review").text
    assert "question 1" in page
    assert "question 0" not in page
    assert "100%" in page
    assert rae.get("/api/review", params={"batch": "another"}).json()["total"] == 0
    assert rae.get("/api/review", params={"show": "decided"}).json()["total"] == 0


def test_labelers_have_numbers_and_models_no_names(scene: Scene) -> None:
    world, _, _, rae = scene
    item = world.items[1].id
    shown = rae.get(f"/review/{item}").text + rae.get(f"/api/review/{item}").text
    for secret in ("Ann Example", "Bob Example", MODEL, *world.items[1].response_ids):
        assert secret not in shown
    case = rae.get(f"/api/review/{item}").json()
    assert [said["labeler"] for said in case["said"]] == ["Labeler 1", "Labeler 2"]
    assert {said["name"] for said in case["said"]} == {None}
    assert "as I see it" in shown
    named = rae.get(f"/api/review/{item}", params={"names": True}).json()
    by_name = {said["name"]: said["ranks"] for said in named["said"]}
    assert by_name == {
        "Ann Example": world.by_place(rae.user, world.items[1], (1, 2, 3)),
        "Bob Example": world.by_place(rae.user, world.items[1], (3, 2, 1)),
    }
    assert "Ann Example" in rae.get(f"/review/{item}", params={"names": True}).text
    assert MODEL not in rae.get(f"/review/{item}", params={"names": True}).text


def test_settling_on_the_page_and_going_on(scene: Scene, studio: Studio) -> None:
    world, _, _, rae = scene
    item = world.items[1]
    rank = world.by_place(rae.user, item, (2, 1, 3))
    form = {"decision": "settle", "rank": rank, "seconds": "12.5", "note": "because"}
    answer = rae.post(f"/review/{item.id}", data=form, headers={"Accept": "application/json"})
    assert answer.json() == {"location": "/review"}  # nothing else is disputed
    assert training(studio) == [("Ann Example", (1, 2, 3)), ("Bob Example", (1, 2, 3)), ("Rae", (2, 1, 3))]
    case = rae.get(f"/api/review/{item.id}").json()
    assert (case["review"]["decision"], case["review"]["note"], case["review"]["ranks"]) == ("settle", "because", rank)
    assert "<b>Settled</b> by <bdi>Rae</bdi>" in rae.get(f"/review/{item.id}").text
    assert rae.get("/api/review", params={"show": "decided"}).json()["items"][0]["decision"] == "settle"
    assert rae.get("/api/review").json()["total"] == 0


def test_after_a_decision_the_next_item_comes(client_of: ClientOf, studio: Studio) -> None:
    ann, bob, rae = client_of("labeler"), client_of("labeler"), client_of("reviewer")
    world = judged.make(studio.store)
    for number in range(2):
        world.add_item(number)
    world.judge(ann.user, (1, 2, 3), (1, 2, 3))
    world.judge(bob.user, (3, 2, 1), (1, 3, 2))
    form = {"decision": "keep", "batch": world.batch.id}
    answer = rae.post(f"/review/{world.items[0].id}", data=form, headers={"Accept": "application/json"})
    assert answer.json() == {"location": f"/review/{world.items[1].id}?batch={world.batch.id}"}


def test_a_decision_must_fit(scene: Scene, studio: Studio) -> None:
    world, _, _, rae = scene
    path = f"/api/review/{world.items[1].id}"
    for body, status in (
        ({"decision": "discard"}, 409),
        ({"decision": "settle"}, 409),
        ({"decision": "settle", "ranks": [1, 2]}, 409),
        ({"decision": "settle", "ranks": [0, 1, 2]}, 422),
        ({"decision": "burn"}, 422),
        ({"decision": "keep", "model": "x"}, 422),
        ({"decision": "keep", "before": "another"}, 409),
    ):
        assert rae.post(path, json=body).status_code == status, body
    with studio.store.read() as session:
        assert session.scalars(select(Review)).all() == []
        assert len(session.scalars(select(Judgement)).all()) == 4


def test_two_reviewers_do_not_overrule_each_other_unseen(scene: Scene, client_of: ClientOf, studio: Studio) -> None:
    world, _, _, rae = scene
    roy = client_of("reviewer", "Roy")
    path = f"/api/review/{world.items[1].id}"
    made = rae.post(path, json={"decision": "discard", "note": "cut off"})
    assert made.status_code == 201
    assert training(studio) == [("Ann Example", (1, 2, 3)), ("Bob Example", (1, 2, 3))]
    assert roy.post(path, json={"decision": "keep"}).status_code == 409
    assert roy.post(path, json={"decision": "keep", "before": made.json()["review"]["id"]}).status_code == 201
    assert len(training(studio)) == 4


def test_a_reviewer_who_judged_the_item_is_told_so(scene: Scene, client_of: ClientOf, studio: Studio) -> None:
    world, ann, _, _ = scene
    with studio.store.write() as session:
        session.get_one(User, ann.user.id).role = "reviewer"
    with studio.store.write() as session:
        signed_in = people.open_session(session, session.get_one(User, ann.user.id))
    own = Client(studio.app, signed_in)
    item = world.items[1].id
    assert own.get("/api/review").json()["items"][0]["is_own"] is True
    assert "for another reviewer" in own.get("/review").text
    for answer in (own.get(f"/api/review/{item}"), own.post(f"/api/review/{item}", json={"decision": "keep"})):
        assert answer.status_code == 403
        assert "judged this item yourself" in answer.json()["error"]


def test_what_people_write_cannot_do_harm(client_of: ClientOf, studio: Studio) -> None:
    ann, bob, rae = client_of("labeler"), client_of("labeler"), client_of("reviewer")
    world = judged.make(studio.store)
    world.add_item(0)
    attack = "<img src=x onerror=alert(1)>"
    world.judge(ann.user, (1, 2, 3), comment=attack)
    world.judge(bob.user, (3, 2, 1))
    item = world.items[0].id
    made = rae.post(f"/api/review/{item}", json={"decision": "keep", "note": attack})
    assert made.status_code == 201
    page = rae.get(f"/review/{item}").text
    assert "<img" not in page
    assert page.count("&lt;img") == 2


def test_unknown_items_are_not_there(client_of: ClientOf) -> None:
    rae = client_of("reviewer")
    assert rae.get("/review/nothing").status_code == 404
    assert rae.post("/api/review/nothing", json={"decision": "keep"}).status_code == 404
    assert "Nothing to review" in rae.get("/review").text
