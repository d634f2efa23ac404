"""Answers being written: however it ends, what was written is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.studio.conftest import PASSWORD, Studio
from tests.studio.fake import Fake, failed

from palate.feedback.chat import conversations, exchanges
from palate.feedback.chat.conversations import ChatSettings, Turn
from palate.feedback.chat.exchanges import Ask
from palate.feedback.store import people, policies
from palate.feedback.store.tables import Model
from palate.studio.chat import streaming
from palate.studio.chat.generation import Busy
from palate.studio.chat.streaming import TOO_LONG, Bit, Desk, Draws


class Room:
    """Somebody with conversations."""

    def __init__(self, studio: Studio) -> None:
        self.store = studio.store
        with self.store.write() as session:
            self.user = people.create_user(session, "ada", PASSWORD, "chat")
            self.model = policies.base_policy(session, "base")

    def start(self, **settings: object) -> str:
        with self.store.write() as session:
            return conversations.start(session, self.user, self.model.id, ChatSettings.model_validate(settings)).id

    def asking(self, conversation_id: str, text: str = "Hello") -> Callable[[], Ask]:
        def ask() -> Ask:
            with self.store.write() as session:
                at = conversations.conversation_of(session, self.user, conversation_id)
                return exchanges.say(session, at, text)

        return ask

    def last(self, conversation_id: str) -> Turn:
        with self.store.read() as session:
            return conversations.turns(session, conversations.conversation_of(session, self.user, conversation_id))[-1]

    def desk(self, fake: Draws, per_person: int = 2) -> Desk:
        return Desk(fake, self.store, lambda path: f"there/{path}", per_person=per_person)


@pytest.fixture
def room(studio: Studio) -> Room:
    return Room(studio)


def test_pieces_come_and_the_whole_is_kept(room: Room) -> None:
    async def test() -> None:
        fake = Fake("Hello, Ada")
        at = room.start(temperature=0, max_new_tokens=9)
        async with room.desk(fake).writing(room.user.id, room.asking(at)) as writing:
            assert [bit async for bit in writing] == [Bit(0, "Hel"), Bit(0, "lo,"), Bit(0, " Ad"), Bit(0, "a")]
        (answer,) = room.last(at).variants
        assert (answer.content, answer.state) == ("Hello, Ada", "done")
        provenance = answer.provenance
        assert provenance is not None
        assert (provenance["model"], provenance["checkpoint"]) == ("base", "c0ffee")  # not where the model lies
        assert fake.asked == [("there/base", [("user", "Hello")])]
        assert (fake.sampling[0].temperature, fake.sampling[0].max_new_tokens) == (0, 9)

    asyncio.run(test())


def test_two_answers_of_one_model_are_one_generation(room: Room) -> None:
    async def test() -> None:
        fake = Fake("one", "two")
        at = room.start(two_answers=True)
        async with room.desk(fake).writing(room.user.id, room.asking(at)) as writing:
            bits = {bit.place: bit.text async for bit in writing}
            assert len(fake.asked) == 1
            assert [bits[place] for place in (0, 1)] == [("one", "two")[index] for index in writing.ask.shown]
        assert [answer.content for answer in room.last(at).pair] == ["one", "two"]

    asyncio.run(test())


def test_two_models_answer_side_by_side(room: Room) -> None:
    async def test() -> None:
        with room.store.write() as session:
            other = Model(name="other", path="runs/other", created_at=1.0)
            session.add(other)
            session.flush()
        fake = Fake("one", "two")
        at = room.start(two_answers=True, second_model_id=other.id)
        async with room.desk(fake).writing(room.user.id, room.asking(at)) as writing:
            assert {bit.place async for bit in writing} == {0, 1}
        assert [model for model, _ in fake.asked] == ["there/base", "there/runs/other"]
        assert [(answer.content, (answer.provenance or {})["model"]) for answer in room.last(at).pair] == [
            ("one", "base"),
            ("two", "runs/other"),
        ]

    asyncio.run(test())


def test_what_is_stopped_is_kept(room: Room) -> None:
    async def test() -> None:
        fake, at = Fake(None), room.start()
        desk = room.desk(fake)
        async with desk.writing(room.user.id, room.asking(at)) as writing:
            read = []
            async for bit in writing:
                read.append(bit.text)
                if len(read) == 5:
                    await desk.stop(at)
            (answer,) = room.last(at).variants
            assert answer.state == "stopped"
            assert answer.content == "".join(read)
            assert len(read) >= 5
        assert fake.open == 0

    asyncio.run(test())


def test_it_ends_when_the_reader_goes(room: Room) -> None:
    async def test() -> None:
        fake, at = Fake(None), room.start()
        async with room.desk(fake).writing(room.user.id, room.asking(at)) as writing:
            async for _ in writing:
                break
        await writing.ended()
        assert room.last(at).variants[0].state == "stopped"
        assert room.last(at).variants[0].content.startswith("ab ")
        assert fake.open == 0

    asyncio.run(test())


def test_a_reader_who_was_never_there(room: Room) -> None:
    async def test() -> None:
        fake, at = Fake(None), room.start()
        async with room.desk(fake).writing(room.user.id, room.asking(at)) as writing:
            pass
        await writing.ended()
        assert room.last(at).variants[0].state == "stopped"
        assert fake.open == 0

    asyncio.run(test())


def test_what_is_there_is_saved_while_more_is_written(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "SAVE_SECONDS", 0.0)

    async def test() -> None:
        at = room.start()
        async with room.desk(Fake(None)).writing(room.user.id, room.asking(at)) as written:
            seen = 0
            async for _ in written:
                seen += 1
                if seen == 3:  # the third piece is on its way once the first two are saved
                    break
            answer = room.last(at).variants[0]
            assert answer.state == "streaming"
            assert answer.content.startswith("ab ab ")

    asyncio.run(test())


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (failed(), "no such model"),
        (failed("DataError", "a prompt of 3000 tokens"), TOO_LONG),
        (Busy("wait for one"), "wait for one"),
    ],
)
def test_a_failure_is_said_in_the_answers_place(room: Room, failure: object, message: str) -> None:
    async def test() -> None:
        at = room.start()
        async with room.desk(Fake(failure)).writing(room.user.id, room.asking(at)) as writing:  # type: ignore[arg-type]
            assert [bit async for bit in writing] == []
        (answer,) = room.last(at).variants
        assert (answer.content, answer.state) == (message, "failed")

    asyncio.run(test())


def test_what_was_written_before_a_failure_is_kept(room: Room) -> None:
    class Breaks(Fake):
        async def stream(self, *args, **kwargs):
            async for event in super().stream(*args, **kwargs):
                yield event
                yield failed("WorkerDied", "it died")
                return

    async def test() -> None:
        at = room.start()
        async with room.desk(Breaks("Hello, Ada")).writing(room.user.id, room.asking(at)) as writing:
            assert [bit.text async for bit in writing] == ["Hel"]
        (answer,) = room.last(at).variants
        assert answer.state == "stopped"
        assert answer.content == "Hel"

    asyncio.run(test())


def test_a_person_has_a_limit(room: Room) -> None:
    async def test() -> None:
        desk = room.desk(Fake(None, None, "x"))
        asking = [room.asking(room.start()) for _ in range(3)]
        async with desk.writing(room.user.id, asking[0]), desk.writing(room.user.id, asking[1]) as second:
            with pytest.raises(Busy, match="2 answers are being written for you already"):
                async with desk.writing(room.user.id, asking[2]):
                    pass
            second.stop()
        async with desk.writing(room.user.id, asking[2]) as writing:
            assert [bit.text async for bit in writing] == ["x"]
        assert not +desk._people

    asyncio.run(test())


def test_an_error_before_the_start_leaves_no_trace(room: Room) -> None:
    def refuse() -> Ask:
        raise ValueError("no")

    async def test() -> None:
        desk = room.desk(Fake(), per_person=1)
        for _ in range(2):
            with pytest.raises(ValueError, match="no"):
                async with desk.writing(room.user.id, refuse):
                    pass
        assert desk._writings == {}

    asyncio.run(test())


def test_a_generation_is_known_by_its_conversation(room: Room) -> None:
    """By which another process can stop it."""

    async def test() -> None:
        fake = Fake("one", "two", "three", "four")
        alone, two = room.start(), room.start(two_answers=True)
        for at in (alone, two):
            async with room.desk(fake).writing(room.user.id, room.asking(at)) as writing:
                assert [bit async for bit in writing]
        assert fake.tags == [alone, two]

    asyncio.run(test())


def test_what_another_process_writes_is_stopped_there_and_waited_for(room: Room) -> None:
    async def test() -> None:
        fake, at = Fake(), room.start()
        ask = room.asking(at)()
        fake.elsewhere.add(at)
        stopping = asyncio.create_task(room.desk(fake).stop(at))
        while at in fake.elsewhere:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        assert not stopping.done(), "the other process has not kept it yet"
        with room.store.write() as session:
            exchanges.end(session, ask.answers[0].message_id, "as far as it went", "stopped")
        await stopping
        assert room.last(at).variants[0].content == "as far as it went"

    asyncio.run(test())


def test_closing_stops_everything(room: Room) -> None:
    async def test() -> None:
        desk = room.desk(fake := Fake(None, None))
        ids = [room.start(), room.start()]
        async with desk.writing(room.user.id, room.asking(ids[0])), desk.writing(room.user.id, room.asking(ids[1])):
            await asyncio.sleep(0.01)
            await desk.close()
            assert [room.last(at).variants[0].state for at in ids] == ["stopped", "stopped"]
        assert fake.open == 0

    asyncio.run(test())
