"""Readers' own principles in the chat: they choose, they are told, and they go where other text of the chat goes."""

from __future__ import annotations

import io
import json
from threading import Event
from typing import Any

import pytest
import torch
from sqlalchemy import select
from tests.scripted_endpoint import serving as endpoint_serving
from tests.studio.chat.test_best import told_of
from tests.studio.chatting import Chatter, last
from tests.studio.conftest import ClientOf, Studio
from tests.studio.fake import Fake

from palate.feedback.store import policies
from palate.feedback.store.tables.base import Table
from palate.lm.sources.zoo import load_language_model
from palate.recipe import Endpoint, ReaderJudge, Reward, Sampling
from palate.records import Prompt, Ranking
from palate.rewards.judges.local_judge import LocalJudge
from palate.rewards.judges.reader_principles import PrinciplesReward
from palate.studio.chat import worker as module
from palate.studio.chat.streaming import Desk
from palate.studio.chat.talking import locator
from palate.studio.chat.wire import Done, Failed, Generate, Piece, Scored
from palate.studio.web.workspace import BestOf

BRIEF, PLAIN = "Be brief, like Zebulon", "No lists"
"""The first has a word that stands nowhere else."""
JUDGE = ReaderJudge(model="runs/judge/model", weight=2.0)
CHOICE = BestOf(n=3, rewards=(Reward(model="runs/one/model"),), principles=JUDGE)


def at_the_chat(studio: Studio, client_of: ClientOf, **settings: Any) -> Chatter:
    fake, home = Fake(), studio.workspace
    best_of = CHOICE.model_copy(update=settings)
    home.settings = home.settings.model_copy(update={"best_of": best_of})
    studio.app.state.generator = fake
    studio.app.state.desk = Desk(fake, home.store, locator(home), per_person=2, best_of=best_of)
    with home.store.write() as session:
        policies.base_policy(session, "base")
    ada = Chatter(studio, client_of("chat"))
    ada.fake = fake
    return ada


def ask(ada: Chatter) -> list[tuple[str, Any]]:
    """By its brevity the third is the best, by the reward the second, and by both the third."""
    ada.fake.texts = ["zero", "one", "two"]
    ada.fake.scores, ada.fake.fits = [(-0.9, 3.5, 4.1)], [(-0.5, 0.5, 1.0), (0.0, 0.25, 0.3)]
    return ada.stream("POST", "/messages", {"text": "Hello"})


def test_what_is_kept_and_what_is_told(studio: Studio, client_of: ClientOf) -> None:
    ada = at_the_chat(studio, client_of)
    (studio.workspace.runs / "judge" / "model").mkdir(parents=True)
    ada.begin(consent=True, principles=[f"  {BRIEF}\n", PLAIN])
    answer = last(ask(ada)[-1][1])
    there = str(studio.workspace.directory / "runs" / "judge" / "model")
    assert (ada.fake.principles, ada.fake.judge) == ((BRIEF, PLAIN), JUDGE.model_copy(update={"model": there}))

    taken = answer["selection"]["taken"]
    assert (answer["text"], taken["score"], taken["lead"]) == ("two", 4.1, pytest.approx(0.6))
    terms = {term["principle"]: (term["score"], term["lead"]) for term in taken["terms"]}
    assert terms == {  # weights applied, the reward being what is left; against the second answer
        None: pytest.approx((4.1 - 2.6, 1.5 - 2.0)),
        BRIEF: pytest.approx((2.0, 1.0)),
        PLAIN: pytest.approx((0.6, 0.1)),
    }
    assert sum(score for score, _ in terms.values()) == pytest.approx(taken["score"])
    assert sum(lead for _, lead in terms.values()) == pytest.approx(taken["lead"])
    assert taken["decided"]["principle"] == BRIEF

    ada.call("PUT", f"/answers/{answer['id']}/thumb", {"up": True})
    (line,) = ada.lines
    kept = Ranking.model_validate(line.record).responses[0].provenance
    assert kept is not None
    assert kept.selection is not None
    assert [(fit.principle, fit.scores) for fit in kept.selection.fits] == [
        (BRIEF, (-0.5, 0.5, 1.0)),
        (PLAIN, (0.0, 0.25, 0.3)),
    ]
    assert (kept.selection.judge, kept.selection.principle_weight) == ("runs/judge/model", 2.0)
    assert kept.selection.checkpoints == {"runs/one/model": "c0ffee", "runs/judge/model": "deed"}
    assert str(studio.workspace.directory) not in json.dumps(line.record)


def test_without_a_reward_principles_choose_alone_and_without_principles_nothing_does(
    studio: Studio, client_of: ClientOf
) -> None:
    ada = at_the_chat(studio, client_of, rewards=())
    ada.begin(consent=True)
    assert last(ada.say("Hello", "Hi!"))["selection"] is None
    ada.change(principles=[BRIEF])
    answer = last(ask(ada)[-1][1])
    assert ada.fake.rewards == ()
    assert [term["principle"] for term in answer["selection"]["taken"]["terms"]] == [BRIEF]
    ada.change(principles=[])
    assert last(ada.say("Hello", "Hi!"))["selection"] is None


def test_one_taken_at_random_says_nothing_before_the_thumb(studio: Studio, client_of: ClientOf) -> None:
    """Nor does one that was chosen beside it; and which is which hangs on no principle."""
    for share, at_random in ((1.0, True), (1e-9, False)):
        ada = at_the_chat(studio, client_of, random_share=share)
        ada.begin(consent=True, principles=[BRIEF, PLAIN])
        events = ask(ada)
        answer = last(events[-1][1])
        assert answer["selection"] == {"n": 3, "taken": None}
        names, numbers = told_of(events)
        assert names.isdisjoint({"at_random", "terms", "decided", "lead", "score"})
        assert numbers.isdisjoint({4.1, 3.5, 0.3, 0.25})
        told = last(ada.call("PUT", f"/answers/{answer['id']}/thumb", {"up": True}))["selection"]["taken"]
        assert told["at_random"] is at_random
        assert (told["decided"] is None) is at_random
        assert len(told["terms"]) == 3


def test_where_nobody_judges_none_are_taken(studio: Studio, client_of: ClientOf) -> None:
    ada = at_the_chat(studio, client_of, principles=None)
    model = ada.call("GET", "/models")[0]["id"]
    said = {"model_id": model, "settings": {"principles": [BRIEF]}}
    assert "judges by principles" in ada.call("POST", "/conversations", said, 409)["error"]
    ada.begin()
    ada.call("PATCH", f"/conversations/{ada.id}", {"principles": [BRIEF]}, 409)
    assert 'id="principles"' not in ada.client.get("/chat").text
    assert 'id="principles"' in at_the_chat(studio, client_of).client.get("/chat").text


@pytest.mark.parametrize("principles", [["  "], ["x" * 201], ["x"] * 9])
def test_principles_are_few_and_short(principles: list[str], studio: Studio, client_of: ClientOf) -> None:
    ada = at_the_chat(studio, client_of)
    ada.begin()
    ada.call("PATCH", f"/conversations/{ada.id}", {"principles": principles}, 422)


def everywhere(studio: Studio) -> str:
    """All that the database holds but the log, which keeps what was said and taken back."""
    tables = [table for table in Table.metadata.sorted_tables if table.name != "judgements"]
    with studio.store.read() as session:
        return "".join(str(row) for table in tables for row in session.execute(select(table)))


def test_what_a_reader_wants_is_exported_with_consent_alone_and_erased_with_the_rest(
    studio: Studio, client_of: ClientOf
) -> None:
    researcher = client_of("researcher")
    for consent in (True, False):
        ada = at_the_chat(studio, client_of)
        ada.begin(consent=consent, principles=[BRIEF])
        answer = last(ask(ada)[-1][1])
        ada.call("PUT", f"/answers/{answer['id']}/thumb", {"up": True})
        for view in ("training", "all"):
            exported = researcher.get(f"/api/exports/palate?view={view}").text
            assert ("Zebulon" in exported) == consent
        assert "Zebulon" in everywhere(studio)
        ada.call("DELETE", f"/conversations/{ada.id}?withdraw=true", status=204)
        assert "Zebulon" not in everywhere(studio)
        assert "Zebulon" not in researcher.get("/api/exports/palate?view=training").text


# --- the worker, with a real model


def of_worker(
    request: Generate, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Piece | Done | Scored | Failed], module.Worker]:
    events: list[Any] = []
    worker = module.Worker(io.BytesIO(), max_models=2)
    monkeypatch.setattr(worker, "send", events.append)
    worker.handle(request.model_dump_json().encode())
    while worker.active:
        worker.turn()
    worker.reader_judges.close()
    return events, worker


def request(**more: Any) -> Generate:
    fields: dict[str, Any] = {"id": "1", "model": "tiny", "prompt": Prompt.from_text("Hi"), "num_responses": 3}
    return Generate.model_validate(fields | {"sampling": {"max_new_tokens": 8, "temperature": 1.0}} | more)


def test_a_real_judge_adds_to_a_real_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = ReaderJudge(model="tiny", weight=2.0)
    rewards = (Reward(function="tests.stages.effects.judges:brevity", weight=0.5),)
    said = {"principles": (BRIEF, PLAIN), "judge": judge}
    *_, both = of_worker(request(rewards=rewards, **said), monkeypatch)[0]
    *_, alone = of_worker(request(**said), monkeypatch)[0]
    *_, learned = of_worker(request(rewards=rewards), monkeypatch)[0]
    *done, _ = (event for event in of_worker(request(**said), monkeypatch)[0] if not isinstance(event, Piece))
    texts = [event.response.text for event in done if isinstance(event, Done)]
    assert isinstance(both, Scored)
    assert isinstance(alone, Scored)
    assert isinstance(learned, Scored)

    loaded = load_language_model("tiny")
    by_hand = PrinciplesReward(LocalJudge(loaded, Sampling(), seed=0), (BRIEF, PLAIN))
    log_odds = by_hand.by_principle([Prompt.from_text("Hi")] * 3, texts)
    torch.testing.assert_close(torch.tensor(both.fits, dtype=torch.float64), log_odds, rtol=0, atol=1e-5)
    assert alone.scores == pytest.approx((2 * log_odds.sum(0)).tolist(), abs=1e-5)
    assert both.scores == pytest.approx([one + two for one, two in zip(alone.scores, learned.scores, strict=True)])
    assert (both.checkpoints, learned.fits) == ({"tiny": loaded.weights}, ())
    assert len(set(alone.scores)) > 1
    assert any(learned.scores)


def test_others_go_on_while_an_endpoint_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Event()
    with endpoint_serving() as endpoint:

        def reply(body: dict[str, Any]) -> dict[str, Any]:
            assert answers.wait(30)
            tops = [{"token": "Yes", "logprob": -0.25}, {"token": "No", "logprob": -1.75}]
            return {"choices": [{"message": {"content": "Yes"}, "logprobs": {"content": [{"top_logprobs": tops}]}}]}

        endpoint.reply = reply  # type: ignore[method-assign]
        events: list[Any] = []
        worker = module.Worker(io.BytesIO(), max_models=2)
        monkeypatch.setattr(worker, "send", events.append)
        judge = ReaderJudge(model="big", endpoint=Endpoint(url=endpoint.url, retries=0))
        worker.handle(request(principles=(BRIEF,), judge=judge).model_dump_json().encode())
        worker.handle(request(id="2", sampling={"max_new_tokens": 40, "temperature": 1.0}).model_dump_json().encode())
        while sum(isinstance(event, Done) and event.id == "2" for event in events) < 3:
            worker.turn()
        assert not any(isinstance(event, Scored) for event in events)
        answers.set()
        while worker.active:
            worker.turn()
        worker.reader_judges.close()
        (scored,) = (event for event in events if isinstance(event, Scored))
        assert scored.fits == (pytest.approx((1.5, 1.5, 1.5)),)
        assert scored.checkpoints == {}
        assert all(BRIEF in asked["messages"][-1]["content"] for asked in endpoint.asked)


def test_a_judge_that_is_not_there_is_said_before_anything_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    keyless = Endpoint(url="http://127.0.0.1:9/v1", key_variable="NO_SUCH_KEY")
    for judge, told in (
        (ReaderJudge(model="nowhere"), "nowhere"),
        (ReaderJudge(model="big", endpoint=keyless), "NO_SUCH_KEY is not set in the environment"),
    ):
        (event,), _ = of_worker(request(principles=(BRIEF,), judge=judge), monkeypatch)
        assert isinstance(event, Failed)
        assert told in event.message
