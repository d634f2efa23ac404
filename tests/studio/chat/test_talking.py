"""The chat's pages and its API, with a generator of given texts; and with a real model, over real HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2 as httpx
import pytest
from tests.studio.chatting import Chatter, last
from tests.studio.conftest import ClientOf, Studio
from tests.studio.fake import Fake, events_of, failed
from tests.studio.live import TIMEOUT, Live

from palate.feedback.store import policies
from palate.feedback.store.tables import ChatMessage
from palate.feedback.tasks import judgements
from palate.records import Ranking
from palate.studio.chat.streaming import Desk
from palate.studio.chat.talking import locator, router

HTML = "**bold** <img src=x onerror=alert(1)> [x](javascript:alert(1)) <script>alert(1)</script>"


@pytest.fixture
def fake(studio: Studio) -> Fake:
    fake = Fake()
    home = studio.workspace
    studio.app.state.generator = fake
    studio.app.state.desk = Desk(fake, home.store, locator(home), per_person=2)
    with home.store.write() as session:
        policies.base_policy(session, "base")
    return fake


@pytest.fixture
def ada(studio: Studio, client_of: ClientOf, fake: Fake) -> Chatter:
    ada = Chatter(studio, client_of("chat", name="ada"))
    ada.fake = fake
    return ada


def test_an_answer_is_streamed(ada: Chatter) -> None:
    ada.begin()
    ada.fake.texts = ["Hi, *Ada*"]
    start, *pieces, end = ada.stream("POST", "/messages", {"text": "Hello"})
    assert (start[0], end[0]) == ("start", "end")
    assert [turn["variants"][0]["state"] for turn in start[1]["turns"]] == ["done", "streaming"]
    assert pieces == [("piece", {"place": 0, "text": text}) for text in ("Hi,", " *A", "da*")]
    answer = last(end[1])
    assert (answer["state"], answer["text"]) == ("done", "Hi, *Ada*")
    assert answer["html"] == '<p dir="auto">Hi, <em>Ada</em></p>\n'
    assert (answer["model"], answer["yours"], answer["can_judge"]) == ("base", False, True)
    assert end[1] == ada.read()
    assert end[1]["title"] == "Hello"


def test_what_models_write_can_do_no_harm(ada: Chatter) -> None:
    ada.begin()
    html = last(ada.say(HTML, HTML))["html"]
    assert "<strong>bold</strong>" in html
    assert "<img" not in html
    assert "<script" not in html
    assert 'href="javascript:' not in html
    ada.change(title="</script><script>alert(1)</script>", consent=True)
    page = ada.client.get(f"/chat/{ada.id}", headers={"Accept": "text/html"}).text
    assert page.count("<script") == 4  # early.js, our two modules and the data block
    assert "alert(1)</script>" not in page


def test_conversations(ada: Chatter) -> None:
    ada.begin()
    ada.say("First", "one")
    first = ada.id
    ada.begin()
    ada.say("Second", "two")
    assert [line["title"] for line in ada.call("GET", "/conversations")] == ["Second", "First"]
    ada.id = first
    ada.change(title=" My  title ")
    ada.say("Third", "three")
    assert [line["title"] for line in ada.call("GET", "/conversations")] == ["My title", "Second"]
    ada.call("DELETE", f"/conversations/{first}", status=204)
    assert [line["title"] for line in ada.call("GET", "/conversations")] == ["Second"]
    ada.call("GET", f"/conversations/{first}", status=404)


def test_variants(ada: Chatter) -> None:
    ada.begin()
    before = last(ada.say("Hello", "Hi!"))
    after = ada.again("Hey!")
    assert [(each["text"], each["chosen"]) for each in after["turns"][-1]["variants"]] == [
        ("Hi!", False),
        ("Hey!", True),
    ]
    shown = ada.call("POST", f"/answers/{before['id']}/show")
    assert last(shown)["text"] == "Hi!"
    ada.say("And?", "Yes.")
    assert ada.fake.asked[-1][1] == [("user", "Hello"), ("assistant", "Hi!"), ("user", "And?")]


def test_rewording(ada: Chatter) -> None:
    ada.begin()
    ada.say("Hello", "Hi!")
    ada.fake.texts = ["Ciao!"]
    (_, conversation) = ada.stream("PUT", "/messages/last", {"text": "Buon giorno"})[-1]
    assert [turn["variants"][0]["text"] for turn in conversation["turns"]] == ["Buon giorno", "Ciao!"]


def test_thumbs_with_reasons_and_consent(ada: Chatter) -> None:
    ada.begin()
    answer = last(ada.say("Hello", "Hi!"))
    path = f"/answers/{answer['id']}/thumb"
    refused = ada.call("PUT", path, {"up": True}, 409)
    assert "say first whether your feedback" in refused["error"]
    ada.change(consent=True)
    ada.call("PUT", path, {"up": True})
    said = ada.call("PUT", path, {"up": False, "reasons": ["too_long", "hallucination"], "comment": "It made it up."})
    assert last(said)["reaction"] == {
        "thumb": "down",
        "reasons": ["too_long", "hallucination"],
        "comment": "It made it up.",
        "verdict": None,
        "edited": False,
    }
    (line,) = ada.lines
    record = Ranking.model_validate(line.record)
    assert (record.ratings, record.flags, record.labeler) == ((1,), (("too_long", "hallucination"),), "ada")
    assert record.responses[0].provenance is not None
    assert record.responses[0].provenance.model == "base"
    assert (line.comment, line.consent) == ("It made it up.", True)
    ada.call("DELETE", path)
    assert last(ada.read())["reaction"]["thumb"] is None
    ada.call("DELETE", path, status=404)


def test_edit_and_compare(ada: Chatter) -> None:
    ada.begin(consent=False)
    ada.say("Hello", "Hi!")
    answer = last(ada.again("Hey!"))
    assert answer["can_compare"]
    said = ada.call("PUT", f"/answers/{answer['id']}/comparison", {"verdict": "worse"})
    assert last(said)["reaction"]["verdict"] == "worse"
    said = ada.call("PUT", f"/answers/{answer['id']}/edit", {"text": "Hello, Ada!"})
    assert (last(said)["text"], last(said)["yours"], last(said)["can_judge"]) == ("Hello, Ada!", True, False)
    assert [line.kind for line in ada.lines] == ["choice", "edit"]
    with ada.studio.store.read() as session:
        assert list(session.scalars(judgements.for_training())) == []  # no consent


def test_withdrawing_consent_over_the_api(ada: Chatter) -> None:
    ada.begin(consent=True)
    answer = last(ada.say("Hello", "Hi!"))
    ada.call("PUT", f"/answers/{answer['id']}/thumb", {"up": True})
    assert last(ada.change(consent=False))["reaction"]["thumb"] is None
    assert ada.lines == []


def test_deleting_with_the_feedback(ada: Chatter) -> None:
    for withdraw, left in ((False, 1), (True, 1)):
        ada.begin(consent=True)
        answer = last(ada.say("Hello", "Hi!"))
        ada.call("PUT", f"/answers/{answer['id']}/thumb", {"up": True})
        ada.call("DELETE", f"/conversations/{ada.id}?withdraw={str(withdraw).lower()}", status=204)
        assert len(ada.lines) == left


def test_two_answers_are_blind(ada: Chatter) -> None:
    other = "the other model"
    with ada.studio.store.write() as session:
        second = policies.base_policy(session, "runs/secret-name")
        second.name = other
        second_id = second.id
    base = ada.call("GET", "/models")[-1]["id"]
    for better in (0, 1):
        ada.begin(two_answers=True, second_model_id=second_id, consent=True)
        ada.fake.texts = ["from the first", "from the second"]
        response = ada.client.post(f"/api/chat/conversations/{ada.id}/messages", json={"text": "Hello"})
        conversation = events_of(response.text)[-1][1]
        blind = {key: value for key, value in conversation.items() if key not in ("settings", "model_id")}
        for telling in ("secret-name", other, '"base"', base, second_id, "c0ffee", "seed", "sample_index"):
            assert telling not in str(blind), telling
        pair = conversation["turns"][-1]
        assert pair["pair"]
        assert {key for each in pair["variants"] for key in each if key == "variant"} == set()
        texts = [each["text"] for each in pair["variants"]]
        said = ada.call("POST", f"/conversations/{ada.id}/choice", {"better": better, "seconds": 2})
        assert last(said)["text"] == texts[better]
        assert last(said)["model"] is None
        record = Ranking.model_validate(ada.lines[-1].record)
        assert [response.text for response in record.responses] == ["from the first", "from the second"]
        assert record.shown_order is not None
        assert [record.responses[index].text for index in record.shown_order] == texts
        assert record.responses[record.ranks.index(1)].text == texts[better]


def test_about_the_same(ada: Chatter) -> None:
    ada.begin(two_answers=True, consent=True)
    texts = [each["text"] for each in ada.say("Hello", "one", "two")["turns"][-1]["variants"]]
    ada.call("POST", f"/conversations/{ada.id}/messages", {"text": "too early"}, 409)
    said = ada.call("POST", f"/conversations/{ada.id}/choice", {"better": None})
    assert last(said)["text"] == texts[0]
    assert Ranking.model_validate(ada.lines[0].record).ranks == (1, 1)


def test_a_failure_is_one_clear_line(ada: Chatter) -> None:
    ada.begin()
    ada.fake.texts = [failed("DataError", "a prompt of 3000 tokens and 256 new ones do not fit")]
    (_, conversation) = ada.stream("POST", "/messages", {"text": "Hello"})[-1]
    answer = last(conversation)
    assert (answer["state"], answer["html"], answer["can_judge"]) == ("failed", "", False)
    assert answer["text"].startswith("This conversation has become too long for the model.")
    assert last(ada.again("Hi!"))["text"] == "Hi!"


def test_an_answer_that_is_left_behind_is_closed_by_stop(ada: Chatter) -> None:
    ada.begin()
    ada.say("Hello", "Hi!")
    with ada.studio.store.write() as session:
        for message in session.query(ChatMessage).filter(ChatMessage.role == "assistant"):
            message.state = "streaming"
    assert last(ada.call("POST", f"/conversations/{ada.id}/stop"))["state"] == "stopped"


FOREIGN: list[tuple[str, str, Any]] = [
    ("GET", "/conversations/{id}", None),
    ("PATCH", "/conversations/{id}", {"title": "mine"}),
    ("DELETE", "/conversations/{id}", None),
    ("POST", "/conversations/{id}/messages", {"text": "Hello"}),
    ("PUT", "/conversations/{id}/messages/last", {"text": "Hello"}),
    ("POST", "/conversations/{id}/answers", None),
    ("POST", "/conversations/{id}/stop", None),
    ("POST", "/conversations/{id}/choice", {"better": 0}),
    ("POST", "/answers/{answer}/show", None),
    ("PUT", "/answers/{answer}/thumb", {"up": True}),
    ("PUT", "/answers/{answer}/edit", {"text": "mine"}),
    ("PUT", "/answers/{answer}/comparison", {"verdict": "same"}),
    ("DELETE", "/answers/{answer}/thumb", None),
]


def test_somebody_elses_conversation_is_not_there(ada: Chatter, client_of: ClientOf) -> None:
    ada.begin(consent=True)
    answer = last(ada.say("Hello", "Hi!"))["id"]
    ada.call("PUT", f"/answers/{answer}/thumb", {"up": True})
    before, admin = ada.read(), client_of("admin")
    for method, path, body in FOREIGN:
        for ids in ((ada.id, answer), ("nothing", "nothing")):
            response = admin.request(method, "/api/chat" + path.format(id=ids[0], answer=ids[1]), json=body)
            assert (response.status_code, response.json()) == (404, {"error": "no such conversation"}), path
    assert admin.get(f"/chat/{ada.id}").status_code == 404
    assert ada.read() == before
    tried = {path.format(id="{conversation_id}", answer="{answer_id}") for _, path, _ in FOREIGN}
    known = {route.path.removeprefix("/api/chat") for route in router.routes if "_id}" in route.path}
    assert known - tried == {"/chat/{conversation_id}", "/answers/{answer_id}/{kind}"}, "a route that was forgotten"


def test_bodies_that_make_no_sense(ada: Chatter) -> None:
    ada.begin()
    bodies: list[tuple[str, Any]] = [
        ("/messages", {"text": ""}),
        ("/messages", {"text": "x" * 20_001}),
        ("/messages", {"text": "x", "role": "system"}),
        ("/choice", {"better": 2}),
    ]
    for path, body in bodies:
        ada.call("POST", f"/conversations/{ada.id}{path}", body, 422)
    ada.call("POST", f"/conversations/{ada.id}/messages", {"text": " "}, 409)
    ada.call("PATCH", f"/conversations/{ada.id}", {"model_id": "nothing"}, 404)
    ada.call("PATCH", f"/conversations/{ada.id}", {"temperature": 3}, 422)
    assert ada.read()["turns"] == []


def test_the_page(ada: Chatter) -> None:
    ada.begin()
    ada.say("Hello", "Hi!")
    for path in ("/chat", f"/chat/{ada.id}"):
        page = ada.client.get(path, headers={"Accept": "text/html"})
        assert page.status_code == 200
        assert 'id="chat-data"' in page.text
        assert "style=" not in page.text
    assert ada.client.get("/", follow_redirects=False).headers["location"] == "/chat"


def test_a_change_without_proof_is_refused(ada: Chatter) -> None:
    ada.begin()
    del ada.client.headers["X-CSRF-Token"]
    ada.call("POST", f"/conversations/{ada.id}/messages", {"text": "Hello"}, 403)
    assert ada.fake.asked == []


# --- a real model behind a real server


Wait = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def wait() -> Wait:
    def until(found: Callable[[], Any]) -> Any:
        end = time.monotonic() + TIMEOUT
        while not (value := found()):
            assert time.monotonic() < end, "it never came"
            time.sleep(0.02)
        return value

    return until


@pytest.fixture
def bea(live: Live) -> Iterator[httpx.Client]:
    with live.client("chat") as client:
        yield client


def _begin(live: Live, client: httpx.Client, **settings: Any) -> str:
    new = {"model_id": live.models["talker"], "settings": {"max_new_tokens": 1900, **settings}}
    response = client.post("/api/chat/conversations", json=new)
    return str(response.json()["id"])


def test_a_real_model_answers(live: Live, bea: httpx.Client) -> None:
    at = _begin(live, bea, max_new_tokens=12, two_answers=True, consent=True)
    *_, (_, conversation) = events_of(bea.post(f"/api/chat/conversations/{at}/messages", json={"text": "Hi"}).text)
    pair = conversation["turns"][-1]["variants"]
    assert [(each["state"], len(each["text"])) for each in pair] == [("done", 12), ("done", 12)]
    bea.post(f"/api/chat/conversations/{at}/choice", json={"better": 0})
    with live.studio.store.read() as session:
        line = session.scalars(judgements.current().where(judgements.Judgement.kind == "choice")).one()
    record = Ranking.model_validate(line.record)
    provenance = [response.provenance for response in record.responses]
    assert all(each is not None and len(each.checkpoint) > 8 and each.logprob is not None for each in provenance)
    assert record.responses[record.ranks.index(1)].text == pair[0]["text"]


def test_a_stream_ends_with_its_reader(live: Live, bea: httpx.Client, wait: Wait) -> None:
    at = _begin(live, bea)
    with bea.stream("POST", f"/api/chat/conversations/{at}/messages", json={"text": "Hi"}) as response:
        text = ""
        for chunk in response.iter_text():
            text += chunk
            if text.count("event: piece") > 3:
                break
    answer = wait(lambda: _last_if(bea, at, "stopped"))
    assert len(answer["text"]) >= 3
    assert wait(lambda: not +live.studio.app.state.generator._users)


def test_stop_from_another_tab(live: Live, bea: httpx.Client) -> None:
    at = _begin(live, bea)
    path = f"/api/chat/conversations/{at}"
    with bea.stream("POST", f"{path}/messages", json={"text": "Hi"}) as response:
        lines = response.iter_text()
        text = next(lines)
        while "event: piece" not in text:
            text += next(lines)
        assert bea.post(f"{path}/answers").status_code == 409
        stopped = bea.post(f"{path}/stop").json()["turns"][-1]["variants"][0]
        text += "".join(lines)
    events = events_of(text)
    assert events[-1][0] == "end"
    written = "".join(data["text"] for kind, data in events if kind == "piece")
    assert (stopped["state"], stopped["text"]) == ("stopped", written)


def test_streams_are_bounded_for_each_person(live: Live, bea: httpx.Client) -> None:
    ids = [_begin(live, bea) for _ in range(3)]
    path = "/api/chat/conversations/{}/messages"
    with (
        bea.stream("POST", path.format(ids[0]), json={"text": "Hi"}) as one,
        bea.stream("POST", path.format(ids[1]), json={"text": "Hi"}) as two,
    ):
        reading = [one.iter_text(), two.iter_text()]
        assert all("start" in next(each) for each in reading)
        refused = bea.post(path.format(ids[2]), json={"text": "Hi"})
    assert refused.status_code == 429
    assert "being written for you already" in refused.json()["error"]
    assert refused.headers["retry-after"]
    assert bea.get(f"/api/chat/conversations/{ids[2]}").json()["turns"] == []


def _last_if(client: httpx.Client, at: str, state: str) -> Any:
    answer = client.get(f"/api/chat/conversations/{at}").json()["turns"][-1]["variants"][0]
    return answer if answer["state"] == state else None
