"""The models of the workspace for anything that speaks the OpenAI protocol.

    client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="palate_...")
    client.chat.completions.create(model="smollm2-135m", messages=[...], stream=True)

`/v1/models`, `/v1/chat/completions`, and `/v1/completions` for texts that are continued with no template around them.
`requests.py` says what may be asked: a parameter that is not there is accepted if it changes nothing, and otherwise
refused by name. Errors have OpenAI's shape and words.

With a stop string nobody counts how many tokens were drawn, so ``usage`` is then left out. Left out altogether are
images, forced formats, the log-probabilities of a prompt (``echo``), and reading calls of tools out of what a model
writes: they stay its text. Nothing that is said here is stored.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeAlias, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.sse import format_sse_event
from sqlalchemy import select

from palate.errors import NotFoundError
from palate.feedback.store import policies
from palate.feedback.store.database import Store
from palate.feedback.store.tables import Model
from palate.studio.chat.endpoint.errors import ApiError
from palate.studio.chat.endpoint.replies import Bit, ChatReply, Reply, TextReply
from palate.studio.chat.endpoint.requests import ChatRequest, CompletionRequest
from palate.studio.chat.placing import locator
from palate.studio.chat.streaming import Draws
from palate.studio.chat.wire import Done, Failed, Piece
from palate.studio.web.access import CHATTERS, Db, Home, Person, allow
from palate.studio.web.workspace import Workspace

Events: TypeAlias = AsyncGenerator[Piece | Done | Failed]
Result = TypeVar("Result")


class Route(APIRoute):
    """Errors of these routes look as clients of the protocol expect, whoever raised them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The usual handler, with its errors translated."""
        handle = super().get_route_handler()

        async def translated(request: Request) -> Response:
            try:
                return await handle(request)
            except ApiError as error:
                return error.response()
            except Exception as error:
                found = ApiError.of(error)
                if found is None:
                    raise
                return found.response()

        return translated


router = APIRouter(prefix="/v1", tags=["openai"], route_class=Route)


@router.get("/models", summary="Models")
@allow(CHATTERS)
def list_models(home: Home, store: Db) -> dict[str, Any]:
    """All models that can answer."""
    with store.read() as session:
        found = [_model(model, home.settings.name) for model in policies.policies(session)]
    return {"object": "list", "data": found}


@router.get("/models/{model:path}", summary="One model")
@allow(CHATTERS)
def one_model(home: Home, store: Db, model: str) -> dict[str, Any]:
    """By its name."""
    return _model(_named(store, model), home.settings.name)


@router.post("/chat/completions", summary="A response to a conversation", response_model=None)
@allow(CHATTERS)
async def complete(request: Request, home: Home, store: Db, person: Person, asked: ChatRequest) -> Response:
    """At once, or with ``stream`` in pieces. A last turn of the assistant's is continued."""
    return await _answer(request, home, store, person.id, ChatReply(asked))


@router.post("/completions", summary="The continuation of a text", response_model=None)
@allow(CHATTERS)
async def complete_text(request: Request, home: Home, store: Db, person: Person, asked: CompletionRequest) -> Response:
    """As it stands, with no template around it: at once, or with ``stream`` in pieces."""
    return await _answer(request, home, store, person.id, TextReply(asked))


async def _answer(request: Request, home: Workspace, store: Store, user_id: str, reply: Reply) -> Response:
    asked = reply.request
    model = await asyncio.to_thread(_named, store, asked.model)
    generator: Draws = request.app.state.generator
    events = generator.stream(
        locator(home)(model.path),
        asked.prompt_messages,
        asked.sampling,
        secrets.randbelow(2**31) if asked.seed is None else asked.seed,
        user=user_id,
        num_responses=asked.n or 1,
        raw=isinstance(asked, CompletionRequest),
        tools=asked.definitions,
    )
    first = await _while_connected(request, anext(events))
    if isinstance(first, Failed):
        raise _failure(first)
    if asked.stream:
        return StreamingResponse(_chunks(reply, first, events), media_type="text/event-stream")
    await _while_connected(request, _collect(reply, first, events))
    return JSONResponse(reply.whole())


async def _collect(reply: Reply, first: Piece | Done, events: Events) -> None:
    async with aclosing(_from(first, events)) as drawn:
        async for event in drawn:
            if isinstance(event, Failed):
                raise _failure(event)
            reply.take(event)
            if reply.is_complete:
                break


async def _chunks(reply: Reply, first: Piece | Done, events: Events) -> AsyncIterator[bytes]:
    """Server-sent events as the protocol has them; an error after the first one is an event as well."""
    for index in range(len(reply.choices)):
        if (opening := reply.opening(index)) is not None:
            yield _line(opening)
    async with aclosing(_from(first, events)) as drawn:
        async for event in drawn:
            if isinstance(event, Failed):
                yield _line(_failure(event).body())
                return
            choice = reply.choices[event.index]
            had_ended = choice.finish_reason
            bit = choice.take(event)
            if bit.text or bit.tokens:
                yield _line(reply.chunk(event.index, bit))
            if choice.finish_reason and not had_ended:
                yield _line(reply.chunk(event.index, Bit(""), choice.finish_reason))
            if reply.is_complete:
                break
    if reply.request.includes_usage:
        yield _line(reply.counts())
    yield format_sse_event(data_str="[DONE]")


async def _from(first: Piece | Done, events: Events) -> Events:
    """The events, the first of which was taken out already; closing this ends the generation."""
    async with aclosing(events):
        yield first
        async for event in events:
            yield event


async def _while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """Do it, unless whoever asked goes away."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    either: set[asyncio.Future[Any]] = {working, gone}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "nobody waits for this any more")
        return await working
    finally:
        for future in either:
            future.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _failure(failed: Failed) -> ApiError:
    match failed.kind:
        case "DataError":
            return ApiError(400, failed.message, code="context_length_exceeded", param="messages")
        case "TemplateError":
            return ApiError(400, failed.message, code="invalid_value", param="messages")
        case "RecipeError":
            return ApiError(400, failed.message, code="invalid_value", param="logit_bias")
        case "ModelError":
            return ApiError(404, failed.message, code="model_not_found", param="model")
    return ApiError(503, failed.message)


def _named(store: Store, name: str) -> Model:
    with store.read() as session:
        found = session.scalars(select(Model).where(Model.name == name, Model.kind == "policy")).first()
    if found is None:
        raise NotFoundError(f"The model `{name}` does not exist here: GET /v1/models lists those that do.")
    return found


def _model(model: Model, workspace: str) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": int(model.created_at), "owned_by": workspace}


def _line(data: dict[str, Any]) -> bytes:
    return format_sse_event(data_str=json.dumps(data, ensure_ascii=False))
