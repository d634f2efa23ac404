"""The models of the workspace for anything that speaks the OpenAI protocol: `/v1/models`, `/v1/chat/completions`.

    client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="palate_...")
    client.chat.completions.create(model="smollm2-135m", messages=[...], stream=True)

Supported are ``messages`` of text, ``temperature`` (0 is greedy), ``max_tokens`` or ``max_completion_tokens``, ``n`` up
to 4, ``seed``, ``stop``, ``stream`` and ``stream_options.include_usage``. Names of other parameters are known as well:
those that change nothing in a response are accepted, those that would are refused unless they ask for what happens
anyway, and so is whatever is not known. Errors have OpenAI's shape.

With a stop string nobody counts how many tokens were drawn, so ``usage`` is then left out. Left out altogether are
tools, images, log-probabilities, top-p and penalties. Nothing that is said here is stored.
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
from palate.studio.chat.generation import Done, Failed, Piece
from palate.studio.chat.openai_protocol import ApiError, ChatRequest, Reply
from palate.studio.chat.streaming import Draws
from palate.studio.chat.talking import locator
from palate.studio.web.access import CHATTERS, Db, Home, Person, allow

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
    """At once, or with ``stream`` in pieces."""
    model = await asyncio.to_thread(_named, store, asked.model)
    generator: Draws = request.app.state.generator
    events = generator.stream(
        locator(home)(model.path),
        [message.record() for message in asked.messages],
        asked.sampling,
        secrets.randbelow(2**31) if asked.seed is None else asked.seed,
        user=person.id,
        num_responses=asked.n or 1,
    )
    reply = Reply(asked)
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
        yield _line(reply.chunk(index, {"role": "assistant", "content": ""}))
    async with aclosing(_from(first, events)) as drawn:
        async for event in drawn:
            if isinstance(event, Failed):
                yield _line(_failure(event).body())
                return
            had_ended = reply.choices[event.index].finish_reason
            index, text = reply.take(event)
            if text:
                yield _line(reply.chunk(index, {"content": text}))
            if not had_ended and (reason := reply.choices[index].finish_reason):
                yield _line(reply.chunk(index, {}, reason))
            if reply.is_complete:
                break
    if reply.request.stream_options and reply.request.stream_options.include_usage:
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
            return ApiError(400, failed.message, param="messages")
        case "ModelError":
            return ApiError(404, failed.message, code="model_not_found", param="model")
    return ApiError(503, failed.message)


def _named(store: Store, name: str) -> Model:
    with store.read() as session:
        found = session.scalars(select(Model).where(Model.name == name, Model.kind == "policy")).first()
    if found is None:
        raise NotFoundError(f"there is no model {name!r} here: GET /v1/models lists those there are")
    return found


def _model(model: Model, workspace: str) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": int(model.created_at), "owned_by": workspace}


def _line(data: dict[str, Any]) -> bytes:
    return format_sse_event(data_str=json.dumps(data, ensure_ascii=False))
