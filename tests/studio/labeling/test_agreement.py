"""The agreement pages: exact numbers of a small case, filters, weights that reach training."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from tests.studio import judged
from tests.studio.conftest import ClientOf, Studio

from palate.feedback.statistics import measures
from palate.feedback.statistics.measures import LEFT_OUT
from palate.feedback.store.tables import Event, User

PATHS = ("/agreement", "/agreement/weights", "/api/agreement", "/api/agreement/weights")


def test_labelers_and_chat_users_stay_out(client_of: ClientOf) -> None:
    for role in ("labeler", "chat"):
        somebody = client_of(role)
        assert [somebody.get(path).status_code for path in PATHS] == [403] * 4


def test_reviewers_look_and_researchers_apply(client_of: ClientOf, studio: Studio) -> None:
    ann, bob, rae = client_of("labeler"), client_of("labeler"), client_of("reviewer")
    judged.two_items(studio.store, ann.user, bob.user)
    assert [rae.get(path).status_code for path in PATHS] == [200] * 4
    assert "Use these weights in training" not in rae.get("/agreement/weights").text
    for path in ("/agreement/weights", "/agreement/weights/equal"):
        assert rae.post(path, data={"last_number": "4"}).status_code == 403
    assert rae.post("/api/agreement/weights", json={"last_number": 4}).status_code == 403
    assert rae.delete("/api/agreement/weights").status_code == 403


def test_numbers_by_hand(client_of: ClientOf, studio: Studio) -> None:
    ann, bob, rae = client_of("labeler", "Ann"), client_of("labeler", "Bob"), client_of("reviewer")
    world = judged.two_items(studio.store, ann.user, bob.user)
    numbers = rae.get("/api/agreement").json()
    assert (numbers["num_judgements"], numbers["num_comparisons"], numbers["num_prompts"]) == (4, 6, 2)
    assert numbers["percent"]["value"] == 0.5
    assert numbers["kendall_tau_b"]["value"] == 0.0
    assert numbers["left_out"] == {}
    assert numbers["between"] == [{"one": "Ann", "other": "Bob", "agreement": 0.5}]
    assert [(each["name"], each["agreement"]["value"]) for each in numbers["labelers"]] == [("Ann", 0.5), ("Bob", 0.5)]
    assert [(each["id"], each["disagreement"]) for each in numbers["items"]] == [
        (world.items[1].id, 1.0),
        (world.items[0].id, 0.0),
    ]
    (period,) = numbers["over_time"]
    assert (period["num_meetings"], period["agreement"]["value"]) == (2, 0.5)
    assert [p["agreement"]["value"] for p in rae.get("/api/agreement?every=1").json()["over_time"]] == [1.0, 0.0]
    page = rae.get("/agreement").text
    assert '<span class="value">50% (1–99)</span> of verdicts are the same' in page
    assert "Nothing was left out." in page
    assert page.index("question 1") < page.index("question 0")  # the most disputed first
    assert f'href="/review/{world.items[1].id}"' in page


def test_fleiss_and_ac1_by_hand(client_of: ClientOf, studio: Studio) -> None:
    """Two people, four pairs, the same three times: the categories are used alike or not, by the hash of the texts."""
    ann, bob, rae = client_of("labeler"), client_of("labeler"), client_of("reviewer")
    world = judged.make(studio.store)
    for number in range(4):
        world.add_item(number, k=2)
    world.judge(ann.user, (1, 2), (1, 2), (2, 1), (2, 1))
    world.judge(bob.user, (1, 2), (1, 2), (2, 1), (1, 2))
    numbers = rae.get("/api/agreement").json()
    assert numbers["percent"]["value"] == 0.75
    # the texts are the same for every prompt, so "the first" means the same response everywhere: shares 3/8 and 5/8
    chance = (3 / 8) ** 2 + (5 / 8) ** 2
    assert numbers["fleiss"]["value"] == pytest.approx((0.75 - chance) / (1 - chance))
    by_ac1 = 2 * (3 / 8) * (5 / 8)
    assert numbers["gwet_ac1"]["value"] == pytest.approx((0.75 - by_ac1) / (1 - by_ac1))


def test_filters_and_what_is_left_out(client_of: ClientOf, studio: Studio) -> None:
    ann, bob, rae = client_of("labeler"), client_of("labeler"), client_of("reviewer", "Rae")
    world = judged.two_items(studio.store, ann.user, bob.user)
    settled = {"decision": "settle", "ranks": [1, 2, 3]}
    assert rae.post(f"/api/review/{world.items[1].id}", json=settled).status_code == 201
    assert rae.get("/api/agreement").json()["left_out"] == {"review": 1}
    assert f"{LEFT_OUT['review'].split()[-1]} (1)." in rae.get("/agreement").text
    assert rae.get(f"/api/agreement?batch={world.batch.id}").json()["num_judgements"] == 4
    for query in ("batch=another", "round=7", "kind=pair"):
        assert rae.get(f"/api/agreement?{query}").json()["percent"]["value"] is None
        assert "No two people have judged the same" in rae.get(f"/agreement?{query}").text
    for query in ("round=x", "kind=all", "every=-1", "batch=" + "x" * 101):
        assert rae.get(f"/api/agreement?{query}").status_code == 422
    assert rae.get("/agreement?batch=&round=&kind=&every=0").status_code == 200  # an untouched form


def test_an_empty_workspace_leads_on(client_of: ClientOf) -> None:
    rae = client_of("reviewer")
    assert "No two people have judged the same" in rae.get("/agreement").text
    assert "Nothing to compare yet" in rae.get("/agreement/weights").text
    answer = rae.get("/api/agreement/weights")
    assert (answer.status_code, "collect some rankings" in answer.json()["error"]) == (400, True)


def test_numbers_are_computed_once_for_each_state_of_the_log(
    client_of: ClientOf, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob, rae = client_of("labeler"), client_of("labeler"), client_of("reviewer")
    world = judged.two_items(studio.store, ann.user, bob.user)
    calls = []
    real = measures.measure
    monkeypatch.setattr(measures, "measure", lambda collected: calls.append(1) or real(collected))
    rae.get("/agreement")
    rae.get("/api/agreement")
    assert len(calls) == 1
    rae.get("/api/agreement?kind=ranking")
    assert len(calls) == 2
    world.add_item(3)
    world.judge(ann.user, (1, 2, 3))
    assert rae.get("/api/agreement").json()["num_alone"] == 1
    assert len(calls) == 3


def weights_now(studio: Studio) -> dict[str, float]:
    with studio.store.read() as session:
        return dict(session.execute(select(User.name, User.weight)).all())


def test_weights_reach_the_people(client_of: ClientOf, studio: Studio) -> None:
    ann, bob, kim = client_of("labeler", "Ann"), client_of("labeler", "Bob"), client_of("researcher", "Kim")
    world = judged.two_items(studio.store, ann.user, bob.user)
    found = kim.get("/api/agreement/weights").json()
    by_name = {each["name"]: each for each in found["labelers"]}
    assert sorted(by_name) == ["Ann", "Bob"]
    assert sum(each["weight"] for each in by_name.values()) == pytest.approx(2)
    assert {each["weight_now"] for each in by_name.values()} == {1.0}
    assert found["num_pairs"] == 6
    page = kim.get("/agreement/weights").text
    assert "Use these weights in training" in page
    form = {"last_number": found["last_number"], "batch": "", "round": "", "kind": ""}
    answer = kim.post("/agreement/weights", data=form, headers={"Accept": "application/json"})
    assert answer.status_code == 200
    now = weights_now(studio)
    assert now["Ann"] == pytest.approx(by_name["Ann"]["weight"], abs=1e-4)
    assert now["Kim"] == 1.0
    with studio.store.read() as session:
        event = session.scalars(select(Event).where(Event.action == "set weights")).one()
    assert (event.user_id, set(event.detail["weights"])) == (kim.user.id, {ann.user.id, bob.user.id})
    world.add_item(3)
    world.judge(ann.user, (1, 2, 3))
    stale = kim.post("/api/agreement/weights", json={"last_number": found["last_number"]})
    assert (stale.status_code, "reload" in stale.json()["error"]) == (409, True)
    assert kim.delete("/api/agreement/weights").status_code == 200
    assert set(weights_now(studio).values()) == {1.0}
