"""A conversation for tests: says things, and lets a model answer them with given texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.orm import Session
from tests.feedback.world import NOW, World

from palate.feedback.chat import conversations, exchanges
from palate.feedback.chat.conversations import ChatSettings, Turn
from palate.feedback.chat.exchanges import Ask
from palate.feedback.store import policies
from palate.feedback.store.tables import ChatMessage, Conversation, Judgement, Model, User
from palate.feedback.tasks import judgements
from palate.records import Provenance

Result = TypeVar("Result")


def model(world: World, path: str) -> Model:
    with world.store.write() as session:
        return policies.base_policy(session, path, now=NOW)


class Talk:
    """One conversation, each step in a transaction of its own."""

    def __init__(self, world: World, user: User, **settings: Any) -> None:
        self.store, self.user = world.store, user
        self.model = model(world, "tiny")
        with self.store.write() as session:
            self.id = conversations.start(session, user, self.model.id, ChatSettings(**settings), now=NOW).id

    def do(self, step: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        """``step(session, conversation, ...)``."""
        with self.store.write() as session:
            return step(session, self._conversation(session), *args, **kwargs)

    def react(self, step: Callable[..., Judgement], *args: Any) -> Judgement:
        """``step(session, user, conversation, ...)``, with messages as they now are."""
        with self.store.write() as session:
            at = self._conversation(session)
            args = tuple(session.get_one(ChatMessage, a.id) if isinstance(a, ChatMessage) else a for a in args)
            return step(session, self.user, at, *args)

    def write(self, ask: Ask, *texts: str, state: str = "done") -> Ask:
        """The answers are drawn."""
        with self.store.write() as session:
            for answer, text in zip(ask.answers, texts, strict=True):
                drawn = Provenance(
                    model=answer.model, checkpoint="abc", seed=ask.seed, sample_index=answer.sample_index
                )
                exchanges.end(session, answer.message_id, text, state, drawn if state == "done" else None)
        return ask

    def say(self, text: str, *answers: str, state: str = "done") -> Ask:
        return self.write(self.do(exchanges.say, text), *answers, state=state)

    def again(self, *answers: str) -> Ask:
        return self.write(self.do(exchanges.again), *answers)

    @property
    def turns(self) -> list[Turn]:
        with self.store.read() as session:
            return conversations.turns(session, self._conversation(session))

    @property
    def said(self) -> list[str]:
        """The chosen texts from the beginning; "?" where two wait."""
        return [turn.chosen.content if turn.chosen else "?" for turn in self.turns]

    @property
    def last(self) -> ChatMessage:
        chosen = self.turns[-1].chosen
        assert chosen is not None
        return chosen

    @property
    def lines(self) -> list[Judgement]:
        """What now holds in the log."""
        with self.store.read() as session:
            return list(session.scalars(judgements.current()))

    def _conversation(self, session: Session) -> Conversation:
        return conversations.conversation_of(session, self.user, self.id)
