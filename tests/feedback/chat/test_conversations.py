"""Conversations and how they go on, on both databases."""

from __future__ import annotations

import pytest
from tests.feedback.talk import Talk, model
from tests.feedback.world import NOW, World

from palate.errors import ConflictError, NotFoundError
from palate.feedback.chat import conversations, exchanges
from palate.feedback.store.tables import ChatMessage, Conversation, User
from palate.records import Message


@pytest.fixture
def ada(world: World) -> User:
    return world.user("ada", role="chat")


@pytest.fixture
def talk(world: World, ada: User) -> Talk:
    return Talk(world, ada)


def choose(talk: Talk, answer: ChatMessage) -> None:
    def step(session, conversation):
        exchanges.choose(session, conversation, session.get_one(ChatMessage, answer.id))

    talk.do(step)


def test_a_conversation_goes_on_with_what_was_said(talk: Talk) -> None:
    ask = talk.say("Hello\n\nyou", "Hi!")
    assert (ask.messages, ask.shown) == ((Message(role="user", content="Hello\n\nyou"),), (0,))
    ask = talk.say("How are you?", "Fine.")
    assert [(m.role, m.content) for m in ask.messages] == [
        ("user", "Hello\n\nyou"),
        ("assistant", "Hi!"),
        ("user", "How are you?"),
    ]
    assert talk.said == ["Hello\n\nyou", "Hi!", "How are you?", "Fine."]
    with talk.store.read() as session:
        (listed,) = conversations.listed(session, talk.user)
        assert listed.title == "Hello you"


def test_a_title_is_short(talk: Talk) -> None:
    talk.say("word " * 100, "Hi!")
    with talk.store.read() as session:
        title = session.get_one(Conversation, talk.id).title
    assert len(title) <= 60
    assert title.endswith("word…")


@pytest.mark.parametrize(
    ("state", "text", "goes_on"),
    [("done", "", True), ("stopped", "Hi th", True), ("stopped", " ", False), ("failed", "no such model", False)],
)
def test_only_an_answer_can_be_gone_on_from(talk: Talk, state: str, text: str, goes_on: bool) -> None:
    talk.say("Hello", text, state=state)
    if goes_on:
        talk.say("And?", "Yes.")
        assert talk.said == ["Hello", text, "And?", "Yes."]
        return
    with pytest.raises(ConflictError, match="draw it again, or change your message"):
        talk.do(exchanges.say, "And?")
    talk.again("Hi!")
    assert talk.said == ["Hello", "Hi!"]


def test_one_thing_at_a_time(talk: Talk) -> None:
    ask = talk.do(exchanges.say, "Hello")
    for step in (exchanges.again, lambda *at: exchanges.say(*at, "x"), lambda *at: exchanges.reword(*at, "x")):
        with pytest.raises(ConflictError, match="an answer is being written"):
            talk.do(step)
    with pytest.raises(ConflictError, match="an answer is being written"):
        talk.do(conversations.erase)
    talk.write(ask, "Hi!")
    talk.say("And?", "Yes.")


def test_nothing_to_do_yet(talk: Talk) -> None:
    with pytest.raises(ConflictError, match="no answer to draw again"):
        talk.do(exchanges.again)
    with pytest.raises(ConflictError, match="no message to change"):
        talk.do(exchanges.reword, "x")
    with pytest.raises(ConflictError, match="write something first"):
        talk.do(exchanges.say, " \n ")


def test_variants_of_the_last_answer(talk: Talk) -> None:
    first = talk.say("Hello", "Hi!")
    second = talk.again("Hey!")
    assert second.messages == first.messages
    assert second.seed != first.seed
    assert [m.content for m in talk.turns[-1].variants] == ["Hi!", "Hey!"]
    assert talk.said == ["Hello", "Hey!"]
    choose(talk, talk.turns[-1].variants[0])
    assert talk.said == ["Hello", "Hi!"]
    assert [m.content for m in talk.do(exchanges.say, "And?").messages] == ["Hello", "Hi!", "And?"]


def test_earlier_answers_stay_as_they_are(talk: Talk) -> None:
    talk.say("Hello", "Hi!")
    talk.again("Hey!")
    talk.say("And?", "Yes.")
    with pytest.raises(ConflictError, match="the conversation has gone on"):
        choose(talk, talk.turns[1].variants[0])


def test_rewording_replaces_the_answers(talk: Talk) -> None:
    talk.say("Hello", "Hi!")
    talk.say("How are you", "Fine.")
    talk.again("Well.")
    ask = talk.do(exchanges.reword, "Who are you?")
    assert [m.content for m in ask.messages] == ["Hello", "Hi!", "Who are you?"]
    talk.write(ask, "A model.")
    assert talk.said == ["Hello", "Hi!", "Who are you?", "A model."]
    assert [len(turn.variants) for turn in talk.turns] == [1, 1, 1, 1]
    with talk.store.read() as session:
        kept = session.query(ChatMessage).filter(ChatMessage.state == "replaced").all()
        assert sorted(m.content for m in kept) == ["Fine.", "How are you", "Well."]
        gone = next(m for m in kept if m.role == "assistant")
    with pytest.raises(NotFoundError), talk.store.write() as session:
        conversations.answer_of(session, talk.user, gone.id)


def test_two_answers_wait_for_a_choice(world: World, ada: User) -> None:
    talk = Talk(world, ada, two_answers=True)
    ask = talk.say("Hello", "one", "two")
    assert [a.sample_index for a in ask.answers] == [0, 1]
    assert [m.content for m in talk.turns[-1].pair] == ["one", "two"]
    assert talk.said == ["Hello", "?"]
    for step in (exchanges.again, lambda *at: exchanges.say(*at, "x")):
        with pytest.raises(ConflictError, match=r"which of the two answers is better|choose one"):
            talk.do(step)
    with pytest.raises(ConflictError, match="which of the two"):
        choose(talk, talk.turns[-1].variants[0])
    talk.do(exchanges.reword, "Hello again")
    assert len(talk.turns) == 2


def test_the_second_answer_may_be_another_models(world: World, ada: User) -> None:
    other = model(world, "runs/ppo")
    talk = Talk(world, ada, two_answers=True, second_model_id=other.id)
    assert [a.model for a in talk.do(exchanges.say, "Hello").answers] == ["tiny", "runs/ppo"]


def test_the_order_shown_is_random_and_stays(world: World, ada: User) -> None:
    talk = Talk(world, ada, two_answers=True)
    first = 0
    for _ in range(24):
        ask = talk.do(lambda *at: (exchanges.say if not talk.turns else exchanges.reword)(*at, "Hello"))
        assert sorted(ask.shown) == [0, 1]
        talk.write(ask, "one", "two")
        assert exchanges.shown(talk.turns[-1].pair) == ask.shown
        first += ask.shown[0] == 0
    assert 3 <= first <= 21  # else one in 30,000


@pytest.mark.parametrize("states", [("failed", "done"), ("done", "failed")])
def test_where_one_of_two_fails_the_other_is_gone_on_with(world: World, ada: User, states: tuple[str, str]) -> None:
    talk = Talk(world, ada, two_answers=True)
    ask = talk.do(exchanges.say, "Hello")
    with talk.store.write() as session:
        for answer, state in zip(ask.answers, states, strict=True):
            exchanges.end(session, answer.message_id, f"it is {state}", state)
    assert talk.said == ["Hello", "it is done"]


def test_where_both_fail_they_can_be_drawn_again(world: World, ada: User) -> None:
    talk = Talk(world, ada, two_answers=True)
    talk.say("Hello", "no", "no", state="failed")
    talk.again("one", "two")
    assert [m.content for m in talk.turns[-1].pair] == ["one", "two"]


def test_what_is_written_is_kept_when_the_server_dies(talk: Talk) -> None:
    ask = talk.do(exchanges.say, "Hello")
    with talk.store.write() as session:
        exchanges.save(session, ask.answers[0].message_id, "Hi th")
    with talk.store.write() as session:
        assert exchanges.reconcile(session) == 1
    assert (talk.last.content, talk.last.state) == ("Hi th", "stopped")
    with talk.store.write() as session:  # the writer comes late
        exchanges.save(session, talk.last.id, "Hi there")
        exchanges.end(session, talk.last.id, "Hi there", "done")
        assert exchanges.reconcile(session) == 0
    assert (talk.last.content, talk.last.state) == ("Hi th", "stopped")


def test_reconciling_one_conversation_leaves_the_others(world: World, ada: User) -> None:
    one, other = Talk(world, ada), Talk(world, ada)
    for talk in (one, other):
        talk.do(exchanges.say, "Hello")
    one.do(exchanges.reconcile)
    assert (one.last.state, other.last.state) == ("stopped", "streaming")


def test_what_is_somebody_elses_is_not_there(world: World, talk: Talk) -> None:
    talk.say("Hello", "Hi!")
    bob = world.user("bob", role="admin")
    with world.store.write() as session:
        assert conversations.listed(session, bob) == []
        with pytest.raises(NotFoundError, match="no such conversation"):
            conversations.conversation_of(session, bob, talk.id)
        for message_id in (talk.last.id, "nothing"):
            with pytest.raises(NotFoundError, match="no such conversation"):
                conversations.answer_of(session, bob, message_id)
        with pytest.raises(NotFoundError, match="no such answer"):
            conversations.answer_of(session, talk.user, talk.turns[0].variants[0].id)


def test_deleting_erases_the_text(talk: Talk) -> None:
    talk.say("my secret", "your secret")
    talk.do(conversations.erase, now=NOW)
    with talk.store.read() as session:
        assert conversations.listed(session, talk.user) == []
        rows = session.query(ChatMessage).all()
        assert [(row.content, row.provenance) for row in rows] == [("", None)] * 2
        assert session.get_one(Conversation, talk.id).title == ""
    with pytest.raises(NotFoundError):
        talk.do(exchanges.again)


def test_settings_and_model(world: World, talk: Talk) -> None:
    other = model(world, "runs/ppo")
    talk.do(conversations.change_settings, {"temperature": 0.0, "max_new_tokens": 5})
    talk.do(conversations.change_model, other.id)
    ask = talk.do(exchanges.say, "Hello")
    assert (ask.temperature, ask.max_new_tokens, ask.answers[0].model) == (0.0, 5, "runs/ppo")
    for change in (
        lambda *at: conversations.change_model(*at, "nothing"),
        lambda *at: conversations.change_settings(*at, {"second_model_id": "nothing"}),
    ):
        with pytest.raises(NotFoundError, match="no such model"):
            talk.do(change)
    with pytest.raises(ConflictError, match="at least one character"):
        talk.do(lambda _, conversation: conversations.rename(conversation, " "))


def test_the_base_model_has_one_line(world: World) -> None:
    assert model(world, "tiny").id == model(world, "tiny").id
