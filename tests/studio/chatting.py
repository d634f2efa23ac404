"""Somebody at the chat, over the API, with a generator of given texts."""

from __future__ import annotations

from typing import Any

from tests.studio.conftest import Client, Studio
from tests.studio.fake import Fake, events_of

from palate.feedback.store.tables import Judgement
from palate.feedback.tasks import judgements


class Chatter:
    """Somebody at the chat."""

    def __init__(self, studio: Studio, client: Client) -> None:
        self.studio, self.client = studio, client
        self.fake = Fake()
        self.id = ""

    def call(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        response = self.client.request(method, f"/api/chat{path}", json=body)
        assert response.status_code == status, response.text
        return response.json() if response.content else None

    def begin(self, **settings: Any) -> Any:
        model = self.call("GET", "/models")[0]["id"]
        conversation = self.call("POST", "/conversations", {"model_id": model, "settings": settings}, 201)
        self.id = conversation["id"]
        return conversation

    def stream(self, method: str, path: str, body: Any = None, status: int = 200) -> list[tuple[str, Any]]:
        response = self.client.request(method, f"/api/chat/conversations/{self.id}{path}", json=body)
        assert response.status_code == status, response.text
        return events_of(response.text)

    def say(self, text: str, *answers: str) -> Any:
        """The conversation after the answers."""
        self.fake.texts += answers
        return self.stream("POST", "/messages", {"text": text})[-1][1]

    def again(self, *answers: str) -> Any:
        self.fake.texts += answers
        return self.stream("POST", "/answers")[-1][1]

    def change(self, **changes: Any) -> Any:
        return self.call("PATCH", f"/conversations/{self.id}", changes)

    def read(self) -> Any:
        return self.call("GET", f"/conversations/{self.id}")

    @property
    def lines(self) -> list[Judgement]:
        with self.studio.store.read() as session:
            return list(session.scalars(judgements.current()))


def last(conversation: Any) -> Any:
    """The answer that the conversation goes on with."""
    return next(each for each in conversation["turns"][-1]["variants"] if each["chosen"])
