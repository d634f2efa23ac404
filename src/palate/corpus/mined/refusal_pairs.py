"""Harmlessness pairs: to a prompt marked as harmful a refusal is preferred over an answer, to others the answer.

The second kind is there because a model that learns from the first alone refuses everything; the share of both is a
setting. The refusals are templates. A response that refuses by itself makes no pair: of two refusals none is better.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from palate.corpus.catalogue.format import Item
from palate.corpus.mined.mining_report import Mining
from palate.corpus.mined.phrases import patterns, templates
from palate.errors import DataError
from palate.recipe import RefusalMining
from palate.records import Demonstration, Prompt, Ranking, Response, content_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An answer and a refusal to the same prompt.

    Attributes:
        place: file and line.
        harmful: the prompt, so that the refusal is the better one.
    """

    place: str
    prompt: Prompt
    answer: Response
    refusal: str
    harmful: bool

    @property
    def ranking(self) -> Ranking:
        """As a record, the better one first."""
        both = (Response(text=self.refusal), self.answer)
        return Ranking(
            prompt=self.prompt, responses=both if self.harmful else both[::-1], ranks=(1, 2), source="template"
        )


def refusal_pairs(items: Iterable[tuple[str, Item]], settings: RefusalMining, report: Mining) -> Iterator[Ranking]:
    """The pairs of marked prompts, with the share of each kind that was asked for; all are held in memory.

    Args:
        items: records of any kind, each with its file and line; all their responses are used.

    Raises:
        DataError: a mark that the settings do not know, or a list that cannot be read.
    """
    pairs = list(_pairs(items, settings, report))
    for pair in with_share(pairs, settings.harmful_share, report):
        kind = (
            "refusals over answers to harmful prompts" if pair.harmful else "answers over refusals to harmless prompts"
        )
        report.made[kind] += 1
        yield pair.ranking


def with_share(pairs: Sequence[Pair], share: float, report: Mining) -> list[Pair]:
    """As many pairs as can be, in their order, with this share of harmful prompts; which ones go is decided by hash.

    Of H and N pairs h and n stay, the largest with h = floor(n s / (1 - s)) or n = floor(h (1 - s) / s).
    """
    harmful, harmless = ([pair for pair in pairs if pair.harmful == kind] for kind in (True, False))
    part = Fraction(str(share))
    keep = [len(harmful) if part else 0, len(harmless) if part < 1 else 0]
    if 0 < part < 1:
        keep[0] = min(keep[0], math.floor(len(harmless) * part / (1 - part)))
        keep[1] = min(keep[1], math.floor(len(harmful) * (1 - part) / part))
    out = set()
    for kind, most in ((harmful, keep[0]), (harmless, keep[1])):
        order = sorted(kind, key=lambda pair: content_id("share", pair.prompt.id, *pair.answer.parts))
        for pair in order[most:]:
            reason = (
                "more of harmful prompts than harmful_share" if pair.harmful else "more of harmless prompts than it"
            )
            report.leave_out("pairs", reason, pair.place, pair.answer.text, about=pair.prompt.text)
            out.add(id(pair))
    return [pair for pair in pairs if id(pair) not in out]


def _pairs(items: Iterable[tuple[str, Item]], settings: RefusalMining, report: Mining) -> Iterator[Pair]:
    said = templates(settings.templates, "refusals.txt", settings.seed)
    refusing = patterns(settings.patterns, "canned.txt")
    count: dict[str, int] = {}
    for place, item in items:
        prompt = item if isinstance(item, Prompt) else Prompt.from_text(item) if isinstance(item, str) else item.prompt
        report.read["records"] += 1
        harmful = _mark(prompt, place, settings)
        answers = _responses(item)
        if harmful is None or not answers:
            reason = "no response beside the prompt" if harmful is not None else f"no tag {settings.tag!r}"
            report.leave_out("records", reason, place, prompt.text)
            continue
        try:
            refusal = said.filled(prompt)
        except KeyError as missing:
            report.leave_out("records", f"no tag {missing} for its template", place, prompt.text)
            continue
        for answer in answers:
            report.read["responses"] += 1
            if found := refusing.find(answer.text):
                report.leave_out("responses", "refuses by itself", place, answer.text, about=found)
            elif answer.text == refusal:
                report.leave_out("responses", "is the template", place, answer.text)
            elif count.get(prompt.id, 0) == settings.max_pairs:
                report.leave_out("responses", "the prompt has max_pairs others", place, answer.text)
            else:
                count[prompt.id] = count.get(prompt.id, 0) + 1
                yield Pair(place=place, prompt=prompt, answer=answer, refusal=refusal, harmful=harmful)


def _mark(prompt: Prompt, place: str, settings: RefusalMining) -> bool | None:
    """Whether the prompt is harmful; None where it has no mark."""
    mark = prompt.tags.get(settings.tag, "").strip().lower()
    if not mark:
        return None
    for values, meaning in ((settings.harmful, True), (settings.harmless, False)):
        if mark in [value.lower() for value in values]:
            return meaning
    raise DataError(
        f"{settings.tag} is {mark!r}: neither in `harmful` ({', '.join(settings.harmful)}) nor in `harmless` "
        f"({', '.join(settings.harmless)})",
        path=place,
    )


def _responses(item: Item) -> Sequence[Response]:
    if isinstance(item, str | Prompt):
        return ()
    return (item.response,) if isinstance(item, Demonstration) else item.responses
