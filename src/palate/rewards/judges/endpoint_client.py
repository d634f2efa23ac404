"""An OpenAI-compatible endpoint, asked with patience, within a budget, and never twice.

    429, 5xx, a lost connection, silence     asked again after 1, 2, 4 ... seconds, or after what `Retry-After` says
    400, 413, 422                            this question is not taken: the answer is the reason
    anything else that is not 200            ends the command: a wrong key, a wrong address

The key comes from the environment and goes into one header. It is in no file and no message, and redirects are not
followed, since they would take it elsewhere. Left out: streaming, batches by file, rate limits of our own.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from palate.disk import json_text
from palate.errors import BudgetError, EndpointError
from palate.recipe import Endpoint
from palate.records import content_id
from palate.rewards.judges.answer_cache import AnswerCache

NOT_TAKEN = frozenset({400, 413, 422})
LONGEST_WAIT = 60.0
"""Seconds between two tries, whatever the endpoint asks for."""
LARGEST = 2**24
"""Bytes of an answer that are read; longer ones are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What an endpoint answered.

    Attributes:
        text: what the model says.
        ended: it ended by itself.
        first_tokens: the likeliest first tokens of what it says and their log-probabilities, where it was asked for.
        tokens: read and written, as the endpoint counts them; None where it does not say.
        refusal: why the question was not taken; there is nothing else then.
    """

    text: str = ""
    ended: bool = True
    first_tokens: Mapping[str, float] = field(default_factory=dict)
    tokens: int | None = None
    refusal: str = ""


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        return None


def send(address: str, body: bytes, headers: Mapping[str, str], timeout: float) -> bytes:
    """One POST; what is answered.

    Raises:
        HTTPError: another status than 200.
        OSError, HTTPException: no connection, or none that lasted.
    """
    request = Request(address, data=body, headers=dict(headers), method="POST")
    with build_opener(_NoRedirect).open(request, timeout=timeout) as response:
        return bytes(response.read(LARGEST + 1))


class EndpointClient:
    """Asks one model at one endpoint; threads are its own.

    Args:
        settings: of the recipe.
        model: what the endpoint calls it.
        directory: for the answers, if the recipe names none.

    Attributes:
        requests, tokens: used by this process.
        from_cache: answers that had been given before.
        answers: the file that they are in.

    Raises:
        EndpointError: the variable that is to hold the key is not set, or holds what is no key.
    """

    def __init__(self, settings: Endpoint, model: str, directory: Path) -> None:
        self.settings, self.model = settings, model
        self.address = f"{settings.url}/chat/completions"
        self.requests = self.tokens = self.from_cache = 0
        self._key = _key(settings.key_variable)
        self.answers = Path(settings.cache or directory) / "answers.jsonl"
        self._cache = AnswerCache(self.answers)
        self._lock = threading.Lock()

    def ask(self, questions: Sequence[Mapping[str, Any]]) -> list[Reply]:
        """An answer to each, several at once; what was answered before something went wrong is kept.

        Args:
            questions: what is asked besides the model: `messages`, and how the answer is drawn.

        Raises:
            BudgetError: the budget is used up.
            EndpointError: the endpoint cannot be reached, refuses, or answers what cannot be read.
        """
        with ThreadPoolExecutor(self.settings.at_once) as pool:
            waiting = [pool.submit(self._ask, {"model": self.model, **question}) for question in questions]
            try:
                return [each.result() for each in waiting]
            finally:
                for each in waiting:
                    each.cancel()

    def _ask(self, asked: Mapping[str, Any]) -> Reply:
        key = content_id("answer", self.address, json.dumps(asked, sort_keys=True))
        known = self._cache.get(key)
        if known is not None:
            with self._lock:
                self.from_cache += 1
            return Reply(**known)
        reply = self._answered(asked)
        if not reply.refusal:  # which may have been about a setting of the endpoint's
            self._cache.put(key, asdict(reply))
        return reply

    def _answered(self, asked: Mapping[str, Any]) -> Reply:
        tries, body = self.settings.retries + 1, json_text(asked).encode()
        for number in range(tries):
            self._spend()
            wait = float(2**number)
            try:
                return self._read(send(self.address, body, self._headers(), self.settings.timeout_s))
            except HTTPError as error:
                told = self._told(error)
                if error.code in NOT_TAKEN:
                    return Reply(refusal=told)
                if error.code != 429 and error.code < 500:
                    raise EndpointError(f"{self.address}: {told}{_advice(error.code)}") from None
                wait = _seconds(error.headers.get("Retry-After"), wait)
            except TimeoutError:
                told = f"no answer within {self.settings.timeout_s:g} seconds (endpoint.timeout_s)"
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", error)
                late = isinstance(reason, TimeoutError)
                told = f"no connection within {self.settings.timeout_s:g} seconds" if late else f"no answer: {reason}"
            if number + 1 < tries:
                time.sleep(min(wait, LONGEST_WAIT))
        often = "once" if tries == 1 else f"{tries} times"
        raise EndpointError(
            f"{self.address}: asked {often}, at last {told}; what was answered is kept: go on with --resume"
        )

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": "palate"}
        return headers | ({"Authorization": f"Bearer {self._key}"} if self._key else {})

    def _spend(self) -> None:
        """Take a request out of the budget."""
        most_requests, most_tokens = self.settings.max_requests, self.settings.max_tokens
        with self._lock:
            for name, used, most in (("requests", self.requests, most_requests), ("tokens", self.tokens, most_tokens)):
                if most and used >= most:
                    raise BudgetError(
                        f"the budget is used up: {used:,} {name}, endpoint.max_{name} = {most}; what was answered is "
                        "kept: --resume goes on with as many more"
                    )
            self.requests += 1

    def _read(self, body: bytes) -> Reply:
        """An answer, and what it cost."""
        try:
            answer = json.loads(body)
            choice = answer["choices"][0]
            said = str(choice["message"].get("content") or "")
            tops = ((choice.get("logprobs") or {}).get("content") or [{}])[0].get("top_logprobs") or []
            tokens = (answer.get("usage") or {}).get("total_tokens")
            reply = Reply(
                text=said.encode(errors="replace").decode(),  # JSON can say what no file can hold
                ended=choice.get("finish_reason") != "length",
                first_tokens=_logprobs(tops),
                tokens=None if tokens is None else int(tokens),
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise EndpointError(
                f"{self.address}: not an answer of an OpenAI-compatible API: {self._line(body)}"
            ) from None
        if reply.tokens is None and self.settings.max_tokens:
            raise EndpointError(f"{self.address}: does not count tokens (usage): leave out endpoint.max_tokens")
        with self._lock:
            self.tokens += reply.tokens or 0
        return reply

    def _told(self, error: HTTPError) -> str:
        """Status and message in a line."""
        text = b""
        try:
            with error:  # a connection of its own, that is given back
                text = error.read(LARGEST)
            message = json.loads(text)["error"]
            text = str(message["message"] if isinstance(message, dict) else message).encode(errors="replace")
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            pass  # then the body as it is, as far as it came
        said = self._line(text)
        return f"{error.code} {error.reason}" + (f": {said}" if said else "")

    def _line(self, text: bytes) -> str:
        """What an endpoint wrote, in one short line; some repeat the key."""
        line = " ".join(text.decode(errors="replace").split())
        line = line.replace(self._key, "***") if self._key else line
        return line if len(line) <= 200 else line[:200] + "…"


def _key(variable: str) -> str:
    """The key, if a variable is named; an error about it does not repeat it."""
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise EndpointError(f"endpoint.key_variable: {variable} is not set in the environment")
    if not (key.isascii() and key.isprintable()):
        raise EndpointError(f"endpoint.key_variable: what {variable} holds is no key: no header takes its characters")
    return key


def _logprobs(tops: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of tokens; those that cannot come are left off.

    Raises:
        ValueError: a number that is no log-probability.
    """
    found = {str(top["token"]): float(top["logprob"]) for top in tops}
    if not all(logprob < 1e-3 for logprob in found.values()):  # rounding; NaN is below nothing
        raise ValueError("no log-probability")
    return {token: logprob for token, logprob in found.items() if math.isfinite(logprob)}


def _advice(code: int) -> str:
    if code in (401, 403):
        return "; name the variable of the environment that holds the key by endpoint.key_variable"
    return "; is endpoint.url right, and model?" if code == 404 else ""


def _seconds(text: str | None, otherwise: float) -> float:
    """What `Retry-After` says, if it is a number of seconds."""
    try:
        return max(0.0, float(text or otherwise))
    except ValueError:
        return otherwise
