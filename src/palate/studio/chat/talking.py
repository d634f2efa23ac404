"""The chat: talk to any model of the workspace, and say what its answers are worth.

Answers are streamed as server-sent events over the request that asks for them: ``start`` with the conversation,
``drawn`` with how many responses of how many are there to choose the answer from, ``piece`` with more text of one
place, ``end`` with the conversation as it then is. A stream ends when its reader goes;
what was written until then stays. Somebody else's conversation is not there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from palate.feedback.chat import conversations, exchanges, reactions
from palate.feedback.chat.conversations import MAX_TEXT, ChatSettings, Principles
from palate.feedback.chat.exchanges import Ask
from palate.feedback.chat.reactions import ChoiceForm, ComparisonForm, EditForm, Kind, ThumbForm
from palate.feedback.store import policies
from palate.feedback.store.database import Store
from palate.feedback.store.tables import ChatMessage, Conversation, User
from palate.studio.chat import best
from palate.studio.chat.hub import Client
from palate.studio.chat.placing import generator_of, locator
from palate.studio.chat.streaming import Desk, Drawn, Writing
from palate.studio.chat.views import ConversationLine, ConversationOut, ModelOut, line_of, view_of
from palate.studio.web.access import CHATTERS, Db, Home, Person, allow
from palate.studio.web.rendering import asset, page
from palate.studio.web.workspace import Workspace

router = APIRouter(tags=["chat"])

API = "/api/chat"
OfConversation = API + "/conversations/{conversation_id}"
OfAnswer = API + "/answers/{answer_id}"


class In(BaseModel):
    """A body that is sent to us: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NewConversation(In):
    """Which model to talk to, and how."""

    model_id: str
    settings: ChatSettings = ChatSettings()


class Changes(In):
    """What is to change; what is left out stays as it is, whatever stands here."""

    title: Annotated[str, Field(min_length=1, max_length=200)] = "New title"
    model_id: str = ""
    consent: bool = False
    two_answers: bool = False
    second_model_id: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 0.7
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 256
    principles: Principles = ()


class MessageIn(In):
    """What the person says."""

    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]


async def start(app: FastAPI) -> None:
    """The models' process starts when it is first needed; what a crash left half written is closed."""
    home: Workspace = app.state.workspace
    settings = home.settings
    hub: Path | None = app.state.hub
    generator = generator_of(home) if hub is None else Client(hub)
    app.state.generator = generator
    app.state.desk = Desk(
        generator,
        home.store,
        locator(home),
        per_person=settings.chat_streams_per_person,
        best_of=settings.best_of,
    )
    with home.store.write() as session:
        policies.base_policy(session, settings.model)
        if hub is None:  # otherwise another process may be writing, and whoever started them all has seen to it
            exchanges.reconcile(session)


async def stop(app: FastAPI) -> None:
    """End what is being written, then the models' process."""
    await app.state.desk.close()
    await app.state.generator.close()


def the_desk(request: Request) -> Desk:
    """Where answers are written."""
    desk: Desk = request.app.state.desk
    return desk


TheDesk = Annotated[Desk, Depends(the_desk)]


@router.get("/chat", include_in_schema=False)
@allow(CHATTERS)
def chat_page(request: Request, store: Db, person: Person) -> HTMLResponse:
    """A new conversation."""
    return _page(request, store, person, None)


@router.get("/chat/{conversation_id}", include_in_schema=False)
@allow(CHATTERS)
def conversation_page(request: Request, store: Db, person: Person, conversation_id: str) -> HTMLResponse:
    """A conversation to go on with."""
    return _page(request, store, person, conversation_id)


@router.get(API + "/models", summary="Models to talk to")
@allow(CHATTERS)
def models(store: Db) -> list[ModelOut]:
    """The newest first."""
    with store.read() as session:
        return _models(session)


@router.get(API + "/conversations", summary="My conversations")
@allow(CHATTERS)
def list_conversations(store: Db, person: Person) -> list[ConversationLine]:
    """The last used first."""
    with store.read() as session:
        return [line_of(each) for each in conversations.listed(session, person)]


@router.post(API + "/conversations", summary="Begin a conversation", status_code=201)
@allow(CHATTERS)
def begin(store: Db, home: Home, person: Person, new: NewConversation) -> ConversationOut:
    """Still empty."""
    best.check_judged(home.settings.best_of, new.settings.principles)
    with store.write() as session:
        conversation = conversations.start(session, person, new.model_id, new.settings)
        return view_of(session, person, conversation)


@router.get(OfConversation, summary="A conversation")
@allow(CHATTERS)
def read(store: Db, person: Person, conversation_id: str) -> ConversationOut:
    """With everything in it."""
    with store.read() as session:
        return view_of(session, person, conversations.conversation_of(session, person, conversation_id))


@router.patch(OfConversation, summary="Change title, model, settings or consent")
@allow(CHATTERS)
def change(store: Db, home: Home, person: Person, conversation_id: str, changes: Changes) -> ConversationOut:
    """Withdrawing consent takes back all feedback that was given under it."""

    def apply(session: Session, user: User, conversation: Conversation) -> None:
        best.check_judged(home.settings.best_of, changes.principles)  # only now: of somebody else's nothing is said
        given = changes.model_dump(exclude_unset=True)
        if "title" in given:
            conversations.rename(conversation, given.pop("title"))
        if "model_id" in given:
            conversations.change_model(session, conversation, given.pop("model_id"))
        if "consent" in given:
            reactions.give_consent(session, user, conversation, given.pop("consent"))
        conversations.change_settings(session, conversation, given)

    return _change(store, person, conversation_id, apply)


@router.delete(OfConversation, summary="Delete a conversation", status_code=204)
@allow(CHATTERS)
def delete(store: Db, person: Person, conversation_id: str, withdraw: bool = False) -> None:
    """Its texts are erased; with ``withdraw`` the feedback given in it is taken back too."""
    with store.write() as session:
        conversation = conversations.conversation_of(session, person, conversation_id, hold=True)
        if withdraw:
            reactions.take_all_back(session, person, conversation)
        conversations.erase(session, conversation)


async def _say(
    desk: TheDesk, store: Db, person: Person, conversation_id: str, message: MessageIn
) -> AsyncIterator[Writing]:
    prepare = _prepare(store, person, conversation_id, partial(exchanges.say, text=message.text))
    async with desk.writing(person.id, prepare) as writing:
        yield writing


async def _reword(
    desk: TheDesk, store: Db, person: Person, conversation_id: str, message: MessageIn
) -> AsyncIterator[Writing]:
    prepare = _prepare(store, person, conversation_id, partial(exchanges.reword, text=message.text))
    async with desk.writing(person.id, prepare) as writing:
        yield writing


async def _again(desk: TheDesk, store: Db, person: Person, conversation_id: str) -> AsyncIterator[Writing]:
    async with desk.writing(person.id, _prepare(store, person, conversation_id, exchanges.again)) as writing:
        yield writing


@router.post(OfConversation + "/messages", summary="Say something", response_class=EventSourceResponse)
@allow(CHATTERS)
async def say(writing: Annotated[Writing, Depends(_say)], store: Db, person: Person) -> AsyncIterator[ServerSentEvent]:
    """The answer, or in two-answer mode both, as it is written."""
    async for event in _events(writing, store, person):
        yield event


@router.put(OfConversation + "/messages/last", summary="Word my last message anew", response_class=EventSourceResponse)
@allow(CHATTERS)
async def reword(
    writing: Annotated[Writing, Depends(_reword)], store: Db, person: Person
) -> AsyncIterator[ServerSentEvent]:
    """The new answer, as it is written; the old one is gone from the conversation."""
    async for event in _events(writing, store, person):
        yield event


@router.post(OfConversation + "/answers", summary="Answer my last message again", response_class=EventSourceResponse)
@allow(CHATTERS)
async def again(
    writing: Annotated[Writing, Depends(_again)], store: Db, person: Person
) -> AsyncIterator[ServerSentEvent]:
    """Another variant of the last answer, as it is written."""
    async for event in _events(writing, store, person):
        yield event


@router.post(OfConversation + "/stop", summary="Stop the answer that is being written")
@allow(CHATTERS)
async def stop_writing(desk: TheDesk, store: Db, person: Person, conversation_id: str) -> ConversationOut:
    """What is written so far stays."""
    await asyncio.to_thread(_read, store, person, conversation_id)
    await desk.stop(conversation_id)

    def close(session: Session, _: User, conversation: Conversation) -> None:
        exchanges.reconcile(session, conversation)

    return await asyncio.to_thread(_change, store, person, conversation_id, close)


@router.post(OfConversation + "/choice", summary="Say which of two answers is better")
@allow(CHATTERS)
def choice(store: Db, person: Person, conversation_id: str, form: ChoiceForm) -> ConversationOut:
    """The conversation goes on with it."""
    return _change(store, person, conversation_id, partial(reactions.choice, form=form))


@router.post(OfAnswer + "/show", summary="Go on with this variant of the last answer")
@allow(CHATTERS)
def show(store: Db, person: Person, answer_id: str) -> ConversationOut:
    """Says nothing about which is better."""
    return _react(store, person, answer_id, lambda session, _, at, answer: exchanges.choose(session, at, answer))


@router.put(OfAnswer + "/thumb", summary="Thumb up or down")
@allow(CHATTERS)
def thumb(store: Db, person: Person, answer_id: str, form: ThumbForm) -> ConversationOut:
    """A second thumb replaces the first."""
    return _react(store, person, answer_id, partial(reactions.thumb, form=form))


@router.put(OfAnswer + "/edit", summary="My own version of the last answer")
@allow(CHATTERS)
def edit(store: Db, person: Person, answer_id: str, form: EditForm) -> ConversationOut:
    """It is preferred to the model's, and the conversation goes on with it."""
    return _react(store, person, answer_id, partial(reactions.edit, form=form))


@router.put(OfAnswer + "/comparison", summary="Compare an answer with the one before it")
@allow(CHATTERS)
def compare(store: Db, person: Person, answer_id: str, form: ComparisonForm) -> ConversationOut:
    """For an answer that was drawn again."""
    return _react(store, person, answer_id, partial(reactions.compare, form=form))


@router.delete(OfAnswer + "/{kind}", summary="Take back a thumb, a choice or an edit")
@allow(CHATTERS)
def take_back(store: Db, person: Person, answer_id: str, kind: Kind) -> ConversationOut:
    """The log keeps that it was said and taken back; it counts no more."""
    return _react(
        store, person, answer_id, lambda session, user, _, answer: reactions.take_back(session, user, answer, kind)
    )


async def _events(writing: Writing, store: Store, person: User) -> AsyncIterator[ServerSentEvent]:
    conversation_id = writing.ask.conversation_id
    yield ServerSentEvent(event="start", data=await asyncio.to_thread(_read, store, person, conversation_id))
    async for bit in writing:
        if isinstance(bit, Drawn):
            yield ServerSentEvent(event="drawn", data={"count": bit.count, "n": bit.n})
        else:
            yield ServerSentEvent(event="piece", data={"place": bit.place, "text": bit.text})
    yield ServerSentEvent(event="end", data=await asyncio.to_thread(_read, store, person, conversation_id))


def _prepare(
    store: Store, person: User, conversation_id: str, step: Callable[[Session, Conversation], Ask]
) -> Callable[[], Ask]:
    def prepare() -> Ask:
        with store.write() as session:
            return step(session, conversations.conversation_of(session, person, conversation_id, hold=True))

    return prepare


def _read(store: Store, person: User, conversation_id: str) -> ConversationOut:
    with store.read() as session:
        return view_of(session, person, conversations.conversation_of(session, person, conversation_id))


def _change(
    store: Store, person: User, conversation_id: str, change: Callable[[Session, User, Conversation], object]
) -> ConversationOut:
    with store.write() as session:
        user = session.get_one(User, person.id)
        conversation = conversations.conversation_of(session, user, conversation_id, hold=True)
        change(session, user, conversation)
        session.flush()
        return view_of(session, user, conversation)


def _react(
    store: Store,
    person: User,
    answer_id: str,
    react: Callable[[Session, User, Conversation, ChatMessage], object],
) -> ConversationOut:
    with store.write() as session:
        user = session.get_one(User, person.id)
        conversation, answer = conversations.answer_of(session, user, answer_id)
        react(session, user, conversation, answer)
        session.flush()
        return view_of(session, user, conversation)


def _models(session: Session) -> list[ModelOut]:
    return [ModelOut(id=model.id, name=model.name) for model in policies.policies(session)]


def _page(request: Request, store: Store, person: User, conversation_id: str | None) -> HTMLResponse:
    home: Workspace = request.app.state.workspace
    with store.read() as session:
        current = conversations.conversation_of(session, person, conversation_id) if conversation_id else None
        data = {
            "models": [each.model_dump() for each in _models(session)],
            "conversations": [line_of(each).model_dump() for each in conversations.listed(session, person)],
            "conversation": view_of(session, person, current).model_dump() if current else None,
            "reasons": {"up": reactions.REASONS_UP, "down": reactions.REASONS_DOWN},
            "icons": asset("chat/chat.svg"),
            **best.told_to_page(home.settings.best_of),
        }
    return page(request, "chat/chat.html", data=data)
