"""The pages about people: who gets in, what changes, and that a secret is shown once."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient
from tests.studio import judged
from tests.studio.conftest import Client, ClientOf, Studio

from palate.feedback.store import people
from palate.feedback.store.tables import Event, Invitation, User

ADMIN_PAGES = ["/people", "/people/{id}", "/api/people", "/api/people/{id}", "/api/invitations"]
CHANGES = [
    ("POST", "/people/{id}/settings", {"data": {"role": "admin", "weight": "1"}}),
    ("POST", "/people/{id}/state", {"data": {"is_paused": "true"}}),
    ("POST", "/people/{id}/retake", {}),
    ("POST", "/people/{id}/sign-out", {}),
    ("PATCH", "/api/people/{id}", {"json": {"role": "admin"}}),
    ("DELETE", "/api/people/{id}/sessions", {}),
    ("POST", "/api/people/{id}/retake", {}),
    ("POST", "/api/invitations", {"json": {"role": "admin"}}),
    ("DELETE", "/api/invitations/x", {}),
    ("POST", "/people/invitations/x/revoke", {}),
]


@pytest.mark.parametrize("role", ["researcher", "reviewer", "labeler", "chat"])
def test_only_admins_see_and_change_people(client_of: ClientOf, studio: Studio, role: str) -> None:
    somebody = client_of(role)
    for path in ADMIN_PAGES:
        assert somebody.get(path.format(id=somebody.user.id)).status_code == 403
    for method, path, body in CHANGES:
        response = somebody.request(method, path.format(id=somebody.user.id), **body)  # type: ignore[arg-type]
        assert response.status_code == 403
    with studio.store.read() as session:
        assert session.get_one(User, somebody.user.id).role == role
        assert session.scalars(select(Invitation)).all() == []


def test_changes_need_the_proof_of_our_own_pages(client_of: ClientOf, studio: Studio) -> None:
    admin, ann = client_of("admin"), client_of("labeler")
    stranger = TestClient(studio.app, cookies=admin.cookies)
    for method, path, body in CHANGES:
        response = stranger.request(method, path.format(id=ann.user.id), **body)  # type: ignore[arg-type]
        assert response.status_code == 403
    assert reread(studio, ann).role == "labeler"


def reread(studio: Studio, client: Client) -> User:
    with studio.store.read() as session:
        return session.get_one(User, client.user.id)


def events(studio: Studio) -> list[str]:
    with studio.store.read() as session:
        found = session.scalars(select(Event).order_by(Event.id))
        return [str(event.detail.get("what", event.action)) for event in found if event.action != "signed in"]


def test_everyone_with_what_they_did(client_of: ClientOf, studio: Studio) -> None:
    admin, ann, bob = client_of("admin"), client_of("labeler", "Ann"), client_of("labeler", "Bob")
    judged.two_items(studio.store, ann.user, bob.user)
    found = {each["name"]: each for each in admin.get("/api/people").json()}
    assert (found["Ann"]["num_done"], found["Ann"]["seconds"], found["Ann"]["num_others"]) == (2, 60.0, 1)
    assert found["Ann"]["agreement"]["value"] == 0.5
    assert found["admin 1"]["agreement"]["value"] is None
    page = admin.get("/people").text
    assert "50% (1–99)" in page
    assert "password_hash" not in page + admin.get("/api/people").text
    one = admin.get(f"/api/people/{ann.user.id}").json()
    assert [(done["prompt"], done["agreement"]) for done in one["history"]] == [
        ("question 1", 0.0),
        ("question 0", 1.0),
    ]
    shown = admin.get(f"/people/{ann.user.id}").text
    assert shown.index("question 1") < shown.index("question 0")
    assert admin.get("/people/nobody").status_code == admin.get("/api/people/nobody").status_code == 404


def test_settings_of_a_person(client_of: ClientOf, studio: Studio) -> None:
    admin, ann = client_of("admin"), client_of("labeler")
    path = f"/people/{ann.user.id}"
    form = {"role": "labeler", "weight": "0.5", "tasks_per_day": "12"}
    response = admin.post(f"{path}/settings", data=form, headers={"Accept": "application/json"})
    assert response.json() == {"location": path}
    changed = reread(studio, ann)
    assert (changed.weight, changed.tasks_per_day) == (0.5, 12)
    admin.post(f"{path}/settings", data={**form, "tasks_per_day": ""})
    assert reread(studio, ann).tasks_per_day is None
    for wrong in ({"weight": "-1"}, {"weight": "nan"}, {"role": "king"}, {"tasks_per_day": "many"}):
        assert admin.post(f"{path}/settings", data={**form, **wrong}).status_code == 422
    assert events(studio) == ["tasks_per_day", "weight", "tasks_per_day"]


def test_pausing_holding_out_and_deciding(client_of: ClientOf, studio: Studio) -> None:
    admin, ann = client_of("admin"), client_of("labeler")
    path = f"/people/{ann.user.id}/state"
    judged.make(studio.store).add_item(0)
    admin.post(path, data={"is_paused": "true"})
    assert ann.post("/api/tasks/claim", json={}).status_code == 403
    admin.post(path, data={"is_paused": "false"})
    assert ann.post("/api/tasks/claim", json={}).json()["task"] is not None
    admin.post(path, data={"is_held_out": "true"})
    admin.post(path, data={"screening": "failed"})
    changed = reread(studio, ann)
    assert (changed.is_paused, changed.is_held_out, changed.screening) == (False, True, "failed")
    assert events(studio) == ["is_paused", "is_paused", "is_held_out", "screening"]


def test_another_role_signs_out_and_the_last_admin_stays(client_of: ClientOf, studio: Studio) -> None:
    admin, ann = client_of("admin"), client_of("labeler")
    response = admin.patch(f"/api/people/{ann.user.id}", json={"role": "reviewer"})
    assert response.json()["role"] == "reviewer"
    assert ann.get("/api/tasks/mine").status_code == 401
    response = admin.patch(f"/api/people/{admin.user.id}", json={"role": "labeler"})
    assert (response.status_code, "only admin" in response.json()["error"]) == (403, True)
    assert admin.patch(f"/api/people/{ann.user.id}", json={"password_hash": "x"}).status_code == 422


def test_ending_sessions(client_of: ClientOf) -> None:
    admin, ann = client_of("admin"), client_of("labeler")
    assert admin.delete(f"/api/people/{ann.user.id}/sessions").status_code == 204
    assert ann.get("/api/tasks/mine").status_code == 401
    assert admin.get("/api/people").status_code == 200


def test_an_invitation_is_shown_once_and_works_once(client_of: ClientOf, studio: Studio) -> None:
    admin = client_of("admin")
    made = admin.post("/api/invitations", json={"role": "reviewer", "note": "  Lea  ", "days": 1}).json()
    assert made["link"].startswith("http://testserver/join/")
    assert (made["role"], made["note"], made["expires_at"] - made["created_at"]) == ("reviewer", "Lea", 86400.0)
    secret = made["link"].rsplit("/", 1)[1]
    for path in ("/people", "/api/invitations"):
        text = admin.get(path).text
        assert "Lea" in text
        assert secret not in text
    stranger = TestClient(studio.app)
    joined = stranger.post(f"/join/{secret}", data={"name": "Lea", "password": "a long password"})
    assert joined.status_code == 200
    assert TestClient(studio.app).get(f"/join/{secret}").status_code == 404
    assert admin.get("/api/invitations").json() == []
    for wrong in ({"role": "king"}, {"days": 0}, {"days": 1000}, {"note": "x" * 201}):
        assert admin.post("/api/invitations", json=wrong).status_code == 422


def test_an_invitation_can_be_taken_back(client_of: ClientOf, studio: Studio) -> None:
    admin = client_of("admin")
    first, second = (admin.post("/api/invitations", json={}).json() for _ in range(2))
    assert admin.delete(f"/api/invitations/{first['id']}").status_code == 204
    admin.post(f"/people/invitations/{second['id']}/revoke", follow_redirects=False)
    for made in (first, second):
        assert TestClient(studio.app).get(f"/join/{made['link'].rsplit('/', 1)[1]}").status_code == 404
    assert admin.get("/api/invitations").json() == []
    assert admin.delete("/api/invitations/nothing").status_code == 404


def test_the_link_is_https_where_the_app_is(client_of: ClientOf, studio: Studio) -> None:
    admin = client_of("admin")
    studio.app.state.secure_cookies = True
    assert admin.post("/api/invitations", json={}).json()["link"].startswith("https://testserver/join/")


def test_names_and_notes_cannot_do_harm(client_of: ClientOf, studio: Studio) -> None:
    admin = client_of("admin")
    attack = "<script>alert(1)</script>"
    with studio.store.write() as session:
        user = people.create_user(session, attack, "a long password", "labeler")
    admin.post("/api/invitations", json={"note": attack})
    for path in ("/people", f"/people/{user.id}"):
        text = admin.get(path).text
        assert attack not in text
        assert "&lt;script&gt;alert(1)" in text
