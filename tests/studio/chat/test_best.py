"""Answers that are the best of several: which is taken, what is told and when, what is kept; with a real model too."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from tests.studio.chatting import Chatter, last
from tests.studio.conftest import ClientOf, Studio
from tests.studio.fake import Fake, done, events_of, failed
from tests.studio.live import Live, serving

from palate.errors import DataError
from palate.feedback.store import people, policies
from palate.feedback.store.tables import ChatMessage, Model
from palate.feedback.store.tables.base import without_nul
from palate.lm.sources.zoo import load_language_model, load_scalar_model, save
from palate.objectives.divergence import best_of_n_kl_bound
from palate.recipe import Reward, Sampling
from palate.records import Prompt, Provenance, Ranking, Selection
from palate.rewards.heads import Head, Normalization, files_of
from palate.rewards.mix import Mix
from palate.rollout.local import LocalEngine
from palate.studio.app import create_app
from palate.studio.chat import best
from palate.studio.chat.streaming import Desk
from palate.studio.chat.talking import locator
from palate.studio.chat.wire import Scored
from palate.studio.serve import create
from palate.studio.web.workspace import BestOf, Settings, Workspace

REWARD = Reward(ensemble=("runs/one/model", "runs/two/model"), aggregation="min")
CHOICE = BestOf(n=3, rewards=(REWARD,))


def selected(number: int, scores: tuple[float, ...], **settings: Any) -> Provenance:
    best_of = CHOICE.model_copy(update=settings)
    drawn = [done(place, f"text {place}", model="m", seed=number).response for place in range(len(scores))]
    scored = Scored(id="1", scores=scores, kl_bound=0.5, checkpoints={"/there/one": "c1"})
    answer = best.select(best_of, number, drawn, scored, {"/there/one": "runs/one/model"})
    assert answer.provenance is not None
    assert answer.provenance.selection is not None
    assert answer.text == f"text {answer.provenance.selection.chosen}"
    return answer.provenance


def selection(number: int, scores: tuple[float, ...], **settings: Any) -> Selection:
    found = selected(number, scores, **settings).selection
    assert found is not None
    return found


@pytest.mark.parametrize(("scores", "chosen"), [((1.0, 3.0, 2.0), 1), ((-2.0, -1.0, -1.0), 1), ((0.0, 0.0, 0.0), 0)])
def test_the_best_is_taken_and_the_first_of_equals(scores: tuple[float, ...], chosen: int) -> None:
    for seed in range(20):
        assert (selection(seed, scores).chosen, selection(seed, scores).at_random) == (chosen, False)


def test_what_is_recorded() -> None:
    assert selected(7, (1.0, 3.0, 2.0)).selection == Selection(
        texts=("text 0", "text 1", "text 2"),
        scores=(1.0, 3.0, 2.0),
        chosen=1,
        kl_bound=0.5,
        rewards=({"ensemble": ["runs/one/model", "runs/two/model"], "aggregation": "min"},),
        checkpoints={"runs/one/model": "c1"},
    )
    again = Selection.model_validate_json(selected(7, (1.0, 3.0, 2.0)).selection.to_json())  # type: ignore[union-attr]
    assert again == selection(7, (1.0, 3.0, 2.0))


def test_the_lot_falls_as_often_as_it_should_and_on_every_place_alike() -> None:
    count = 4000
    found = [selection(seed, (0.0, 9.0, 1.0), random_share=0.25, seed=3) for seed in range(count)]
    drawn = [each.chosen for each in found if each.at_random]
    assert abs(len(drawn) / count - 0.25) < 4 * (0.25 * 0.75 / count) ** 0.5
    for place in range(3):
        assert abs(drawn.count(place) / len(drawn) - 1 / 3) < 4 * (2 / 9 / len(drawn)) ** 0.5
    assert {each.chosen for each in found if not each.at_random} == {1}
    assert [selection(seed, (0.0, 9.0, 1.0), random_share=0.25, seed=3) for seed in range(50)] == found[:50]
    assert [each.at_random for each in found[:50]] != [
        selection(seed, (0.0, 9.0, 1.0), random_share=0.25, seed=4).at_random for seed in range(50)
    ]


def test_the_lot_hangs_on_nothing_that_was_drawn() -> None:
    """Else good answers could fall to it less often than bad ones."""
    for seed in range(50):
        one, other = selection(seed, (0.0, 1.0), random_share=0.5), selection(seed, (5.0, -1.0), random_share=0.5)
        assert one.at_random == other.at_random


# --- over the API


@pytest.fixture
def ada(studio: Studio, client_of: ClientOf) -> Chatter:
    return chatter(studio, client_of)


def chatter(studio: Studio, client_of: ClientOf, **settings: Any) -> Chatter:
    fake, home = Fake(), studio.workspace
    best_of = CHOICE.model_copy(update=settings)
    studio.app.state.generator = fake
    studio.app.state.desk = Desk(fake, home.store, locator(home), per_person=2, best_of=best_of)
    with home.store.write() as session:
        policies.base_policy(session, "base")
    ada = Chatter(studio, client_of("chat"))
    ada.fake = fake
    return ada


def ask(ada: Chatter, *scores: float) -> list[tuple[str, Any]]:
    ada.fake.texts = ["zero", "one", "two"]
    ada.fake.scores = [scores or (0.0, 1.5, 1.0)]
    return ada.stream("POST", "/messages", {"text": "Hello"})


def test_it_comes_whole_with_a_sign_of_progress(ada: Chatter) -> None:
    (ada.studio.workspace.runs / "one" / "model").mkdir(parents=True)
    ada.begin(consent=True)
    start, *between, end = ask(ada)
    assert start[1]["turns"][-1]["variants"][0]["state"] == "streaming"
    assert between == [
        *(("drawn", {"count": count, "n": 3}) for count in range(4)),
        ("piece", {"place": 0, "text": "one"}),
    ]
    answer = last(end[1])
    assert (answer["text"], answer["state"], answer["model"]) == ("one", "done", "base")
    taken = {
        "at_random": False,
        "score": 1.5,
        "best": 1.5,
        "lead": 0.5,
        "kl_bound": pytest.approx(best_of_n_kl_bound(3)),
        "terms": [],
        "decided": None,
    }
    assert answer["selection"] == {"n": 3, "taken": taken}
    there = str(ada.studio.workspace.directory / "runs" / "one" / "model")
    assert ada.fake.rewards == (Reward(ensemble=(there, "runs/two/model"), aggregation="min"),)
    ada.call("PUT", f"/answers/{answer['id']}/thumb", {"up": True})
    (line,) = ada.lines
    provenance = Ranking.model_validate(line.record).responses[0].provenance
    assert provenance is not None
    assert provenance.selection is not None
    assert provenance.selection.texts == ("zero", "one", "two")
    assert provenance.selection.scores == (0.0, 1.5, 1.0)
    assert set(provenance.selection.checkpoints) == {"runs/one/model", "runs/two/model"}
    assert provenance.sample_index == 1
    assert str(ada.studio.workspace.directory) not in json.dumps(line.record)


def test_it_comes_out_with_the_export(ada: Chatter, client_of: ClientOf) -> None:
    ada.begin(consent=True)
    answer = last(ask(ada)[-1][1])
    ada.call("PUT", f"/answers/{answer['id']}/thumb", {"up": False})
    response = client_of("researcher").get("/api/exports/palate")
    assert response.status_code == 200, response.text
    found = Ranking.model_validate_json(response.text).responses[0].provenance
    assert found is not None
    assert found.selection is not None
    assert (found.selection.texts, found.selection.scores) == (("zero", "one", "two"), (0.0, 1.5, 1.0))
    assert found.selection.chosen == 1


def told_of(value: object) -> tuple[set[str], set[float]]:
    """Every key and every number of ``value``: its text has times and random ids, where any digits may be."""
    if isinstance(value, dict):
        inside = [told_of(each) for each in value.values()]
        return set(value).union(*(names for names, _ in inside)), set().union(*(numbers for _, numbers in inside))
    if isinstance(value, list | tuple):
        inside = [told_of(each) for each in value]
        return set().union(*(names for names, _ in inside)), set().union(*(numbers for _, numbers in inside))
    return set(), {float(value)} if isinstance(value, int | float) else set()


def test_where_some_are_random_nobody_is_told_before_the_thumb(studio: Studio, client_of: ClientOf) -> None:
    for share, at_random in ((1.0, True), (1e-9, False)):
        ada = chatter(studio, client_of, random_share=share)
        ada.begin(consent=True)
        events = ask(ada, 0.0, 1.5, 1.0)
        answer = last(events[-1][1])
        assert answer["selection"] == {"n": 3, "taken": None}
        names, numbers = told_of(events)
        assert names.isdisjoint({"at_random", "best", "score", "kl_bound", "lead"})
        assert 1.5 not in numbers
        told = last(ada.call("PUT", f"/answers/{answer['id']}/thumb", {"up": True}))["selection"]["taken"]
        assert told["at_random"] is at_random
        assert (told["best"], told["score"]) == (1.5, {"zero": 0.0, "one": 1.5, "two": 1.0}[answer["text"]])
        ada.call("DELETE", f"/answers/{answer['id']}/thumb")
        assert last(ada.read())["selection"]["taken"] is None


def test_one_of_two_and_one_that_is_certain_are_drawn_alone(ada: Chatter) -> None:
    ada.begin(two_answers=True)
    ada.fake.texts = ["one", "two"]
    pair = ada.stream("POST", "/messages", {"text": "Hello"})[-1][1]["turns"][-1]["variants"]
    assert [each["selection"] for each in pair] == [None, None]
    ada.begin(temperature=0)
    assert last(ada.say("Hello", "Hi!"))["selection"] is None
    assert ada.fake.rewards == ()


def test_a_reward_that_cannot_be_used_is_one_clear_line(ada: Chatter) -> None:
    ada.begin()
    ada.fake.texts = [failed("ModelError", "runs/one/model: no model there"), "one", "two"]
    answer = last(ada.stream("POST", "/messages", {"text": "Hello"})[-1][1])
    assert (answer["state"], answer["text"], answer["selection"]) == (
        "failed",
        "runs/one/model: no model there",
        None,
    )


def test_what_is_stopped_before_it_was_chosen_says_nothing(studio: Studio, client_of: ClientOf) -> None:
    ada = chatter(studio, client_of)
    ada.begin()
    ada.fake.texts = [None, None, None]

    async def test() -> None:
        from palate.feedback.chat import conversations, exchanges

        def prepare() -> Any:
            with studio.store.write() as session:
                at = conversations.conversation_of(session, ada.client.user, ada.id)
                return exchanges.say(session, at, "Hello")

        desk: Desk = studio.app.state.desk
        async with desk.writing(ada.client.user.id, prepare) as writing:
            await anext(aiter(writing))
            await desk.stop(ada.id)
        assert ada.fake.open == 0

    asyncio.run(test())
    answer = last(ada.read())
    assert (answer["state"], answer["text"], answer["can_judge"]) == ("stopped", "", False)


def test_palate_toml(tmp_path: Path) -> None:
    workspace = create(tmp_path / "made", Settings(model="tiny", best_of=CHOICE))
    workspace.store.close()
    assert Workspace(tmp_path / "made").settings.best_of == CHOICE
    file = tmp_path / "made" / "palate.toml"
    for wrong, message in (
        ("n = 1\n[[best_of.rewards]]\nmodel = 'm'", "best_of.n"),
        ("n = 4\nrewards = []", "nothing chooses: name rewards, or a model for principles"),
        ("n = 4\n[best_of.principles]\nweight = 1", "best_of.principles.model"),
        ("n = 4\n[best_of.principles]\nmodel = 'm'\nweight = 0", "best_of.principles.weight"),
        ("n = 4\nrandom_share = 2\n[[best_of.rewards]]\nmodel = 'm'", "best_of.random_share"),
        ("n = 4\n[[best_of.rewards]]\nmodel = 'm'\nlength = 3", "best_of.rewards.0: Value error, name exactly one"),
        ("n = 4\nshare = 1\n[[best_of.rewards]]\nmodel = 'm'", "best_of.share"),
    ):
        file.write_text(f"[best_of]\n{wrong}\n")
        with pytest.raises(DataError, match=message):
            Workspace(tmp_path / "made")


# --- a real policy and real reward models behind a real server


@pytest.fixture(scope="module")
def chosen(_empty_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server whose answers are the best of three by the worse of two heads and another model's."""
    directory = tmp_path_factory.mktemp("best") / "workspace"
    shutil.copytree(_empty_workspace, directory)
    units = Normalization(mean=0.1, scale=0.5)
    for name, seed, heads in (("one", 1, [Head(normalization=units)]), ("two", 2, [Head(), Head(normalization=units)])):
        scorer = load_scalar_model("tiny", precision="fp32", seed=seed, heads=len(heads))
        save(scorer.model, scorer.chat, directory / "runs" / name / "model", extra_files=files_of(heads))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(people, "_HASHER", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        workspace = Workspace(directory)
        workspace.settings = Settings(best_of=CHOICE)
        studio = Studio(app=create_app(workspace), workspace=workspace)
        with workspace.store.write() as session:
            row = Model(name="tiny", path="tiny", created_at=1.0)
            session.add(row)
            session.flush()
            models = {"tiny": row.id}
        with serving(studio) as url:
            live = Live(studio=studio, url=url, models=models)
            live.warm_up()
            yield live


def test_a_real_reward_chooses(chosen: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    with chosen.client("chat") as client:
        new = {"model_id": chosen.models["tiny"], "settings": {"max_new_tokens": 12, "consent": True, "temperature": 1}}
        at = client.post("/api/chat/conversations", json=new).json()["id"]
        events = events_of(client.post(f"/api/chat/conversations/{at}/messages", json={"text": "Hi"}).text)
    answer = last(events[-1][1])
    assert answer["state"] == "done", answer["text"]
    assert [data["count"] for kind, data in events if kind == "drawn"] == [0, 1, 2, 3]
    with chosen.studio.store.read() as session:
        stored = session.get_one(ChatMessage, answer["id"])
        provenance = Provenance.model_validate(stored.provenance)
    found = provenance.selection
    assert found is not None

    policy = load_language_model("tiny")
    prompt = Prompt.from_text("Hi")
    sampling = Sampling(max_new_tokens=12, temperature=1)
    drawn = LocalEngine(policy.model, policy.chat).generate(
        [prompt], sampling, num_responses=3, key=(provenance.seed, "sample")
    )
    monkeypatch.chdir(chosen.studio.workspace.directory)
    mix = Mix([REWARD])
    scores = mix(drawn.prompts, drawn.texts, drawn.sampled_tokens())
    texts = tuple(without_nul(text) for text in drawn.texts)  # a random model may well write one
    assert found.texts == texts
    assert found.scores == pytest.approx(scores.tolist(), abs=1e-6)
    assert len(set(found.scores)) > 1
    assert (found.chosen, provenance.sample_index) == (int(scores.argmax()), int(scores.argmax()))
    assert stored.content == texts[found.chosen] == without_nul(answer["text"])
    assert found.checkpoints == mix.hashes
    assert found.kl_bound == pytest.approx(best_of_n_kl_bound(3))
    assert provenance.ended == bool(drawn.ended[found.chosen])
