"""Thumbs made into pairs: to one prompt a response that was liked is preferred over one that was disliked.

Or each stays a thumb, for `palate kto`. Of several thumbs for the same response the majority counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product

from palate.corpus.catalogue.format import Item
from palate.corpus.formats.thumbs import thumb
from palate.corpus.mined.mining_report import Mining
from palate.recipe import ThumbMining
from palate.records import Prompt, Ranking, Response, content_id

MIDDLE = 4.0
"""Of the ratings 1 to 7: neither up nor down."""


@dataclass(slots=True, kw_only=True)
class Votes:
    """On one response: the thumbs up less the thumbs down."""

    place: str
    response: Response
    balance: int = 0


@dataclass(slots=True, kw_only=True)
class Thumbed:
    """A prompt, and the votes on each response by what it says."""

    prompt: Prompt
    votes: dict[tuple[str, ...], Votes] = field(default_factory=dict)


def thumb_preferences(items: Iterable[tuple[str, Item]], settings: ThumbMining, report: Mining) -> Iterator[Ranking]:
    """What thumbs say: pairs, or one thumb for every response. All of them are held in memory.

    Args:
        items: rankings, each with its file and line.
    """
    for asked in collected(items, report):
        up = [votes for votes in asked.votes.values() if votes.balance > 0]
        down = [votes for votes in asked.votes.values() if votes.balance < 0]
        for votes in asked.votes.values():
            if not votes.balance:
                reason = "as many thumbs up as down"
                report.leave_out("responses", reason, votes.place, votes.response.text, about=asked.prompt.text)
        yield from _thumbs(asked, report) if settings.to == "thumbs" else _pairs(asked, up, down, settings, report)


def collected(items: Iterable[tuple[str, Item]], report: Mining) -> Iterable[Thumbed]:
    """The thumbs of every prompt."""
    found: dict[str, Thumbed] = {}
    for place, item in items:
        assert isinstance(item, Ranking)
        report.read["judgements"] += 1
        first = item.responses[0]
        if len(item.responses) > 1 or item.ratings is None:
            report.leave_out("judgements", "no thumb: several responses, or no rating", place, first.text)
        elif item.ratings[0] == MIDDLE:
            report.leave_out("judgements", "a rating in the middle: neither up nor down", place, first.text)
        else:
            asked = found.setdefault(item.prompt.id, Thumbed(prompt=item.prompt))
            votes = asked.votes.setdefault(first.parts, Votes(place=place, response=first))
            votes.balance += 1 if item.ratings[0] > MIDDLE else -1
    report.read["prompts"] = len(found)
    return found.values()


def _thumbs(asked: Thumbed, report: Mining) -> Iterator[Ranking]:
    for votes in asked.votes.values():
        if votes.balance:
            report.made["thumbs up" if votes.balance > 0 else "thumbs down"] += 1
            yield thumb(asked.prompt, votes.response, votes.balance > 0).model_copy(update={"source": "thumbs"})


def _pairs(
    asked: Thumbed, up: list[Votes], down: list[Votes], settings: ThumbMining, report: Mining
) -> Iterator[Ranking]:
    for alone, other in ((up, down), (down, up)):
        for votes in alone if not other else []:
            reason = "nothing disliked to the same prompt" if votes.balance > 0 else "nothing liked to the same prompt"
            report.leave_out("responses", reason, votes.place, votes.response.text, about=asked.prompt.text)
    pairs = sorted(
        product(up, down),
        key=lambda pair: content_id("thumbs", asked.prompt.id, *pair[0].response.parts, *pair[1].response.parts),
    )
    for better, worse in pairs[settings.max_pairs :]:
        reason = "the prompt has max_pairs others"
        report.leave_out("pairs", reason, better.place, better.response.text, other=worse.response.text)
    for better, worse in pairs[: settings.max_pairs]:
        report.made["pairs of thumbs"] += 1
        yield Ranking(prompt=asked.prompt, responses=(better.response, worse.response), ranks=(1, 2), source="thumbs")
