"""Demonstrations that would teach what nobody wants: canned refusals, exchanged roles, cut-off answers, duplicates.

All are told by their form, so all can be wrong: the report shows examples of each, and every rule can be turned off.
Left out: duplicates that are only alike, refusals in other words or languages than those of the list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from palate.corpus.catalogue.format import Item
from palate.corpus.mined.mining_report import Mining
from palate.corpus.mined.phrases import patterns
from palate.recipe import Hygiene
from palate.records import Demonstration, Message, text_id
from palate.words import count_words, is_finished

REFUSAL, FLIPPED, TRUNCATED, DUPLICATE = "a canned refusal", "roles look exchanged", "looks cut off", "a duplicate"

_ASSISTANT_MARK = re.compile(r"^\s*(?:assistant|ai|bot|chatbot|model|gpt|chatgpt)\s*:", re.IGNORECASE)
_USER_MARK = re.compile(r"(?:^|\n)\s*(?:human|user)\s*:", re.IGNORECASE)
_ASSISTANT_TALK = re.compile(
    r"^\s*(?:sure|certainly|of course|absolutely)[,!.] (?:here|i|let)\b|^\s*how (?:can|may) i (?:help|assist)|"
    r"^\s*as an ai(?: language model| assistant)?,? I\b",
    re.IGNORECASE,
)
_HANGING = re.compile(
    r"(?:[,;(\[{\u2013\u2014]|\s-|\b(?:a|an|the|and|or|but|of|to|with|for|from|by|at|in|into|that|which|because|is|are|"
    r"was|were|their|its|your|our|his|my))\s*\Z",
    re.IGNORECASE,
)
_SIGNED = re.compile(
    r"(?i:\b(?:yours|sincerely|faithfully|regards|wishes|love|cheers)\b[^.!?]*\Z)|\s[-\u2013\u2014]\s*[A-Z]\w*\Z|#\w+\Z|\d\Z"
)
_NO_PROSE = re.compile(r"^\s*(?:[-*\u2022+|>#]|\d+[.)])|^\s{4}|[=;{}<>|]|https?://|`\s*\Z")


def clean_demonstrations(
    items: Iterable[tuple[str, Item]], settings: Hygiene, report: Mining
) -> Iterator[Demonstration]:
    """Those in which nothing was found, as they are; one with several faults is counted for the first.

    Args:
        items: demonstrations, each with its file and line.
    """
    refusing = patterns(settings.patterns, "canned.txt")
    seen: dict[str, str] = {}
    for place, item in items:
        assert isinstance(item, Demonstration)
        report.read["demonstrations"] += 1
        text = item.response.text
        name = text_id("\n".join(f"{turn.role}: {turn.content}" for turn in item.messages))
        if settings.drop_refusals and (found := refusing.find(text)):
            report.leave_out("demonstrations", REFUSAL, place, text, about=found, other=item.prompt.text)
        elif settings.drop_flipped and (found := exchanged(item)):
            report.leave_out("demonstrations", FLIPPED, place, text, about=found, other=item.prompt.text)
        elif settings.drop_truncated and (found := cut_off(text, settings.truncated_words)):
            report.leave_out("demonstrations", TRUNCATED, place, f"... {text[-250:]}", about=found)
        elif settings.drop_duplicates and name in seen:
            report.leave_out("demonstrations", DUPLICATE, place, text, about=f"as {seen[name]}")
        else:
            seen.setdefault(name, place)
            report.made["clean demonstrations"] += 1
            yield item


def exchanged(demonstration: Demonstration) -> str:
    """Why a turn of the user's looks like the assistant's, or the response like the user's; empty where none does."""
    users: list[Message] = [turn for turn in demonstration.prompt.messages if turn.role == "user"]
    for turn in users:
        if found := _ASSISTANT_MARK.search(turn.content) or _ASSISTANT_TALK.search(turn.content):
            return f"the user says {found.group().strip()!r}"
    found = _USER_MARK.search(demonstration.response.text)
    return f"the response says {found.group().strip()!r}" if found else ""


def cut_off(text: str, prose_words: int) -> str:
    """Why a response looks cut off; empty where it does not."""
    end = text.rstrip()
    if end.count("```") % 2:
        return "a block of code that does not end"
    if count_words(end) >= 8 and (found := _HANGING.search(end)):
        return f"ends with {found.group().strip()!r}"
    last = end.splitlines()[-1] if end else ""
    if count_words(end) >= prose_words and count_words(last) >= 8 and not is_finished(end) and not _is_other(last):
        return "a long last line of prose without an end"
    return ""


def _is_other(line: str) -> bool:
    """Whether a line is no prose: a list, a table, code, an address; or is signed, or ends with a mark of its own."""
    return bool(_NO_PROSE.search(line) or _SIGNED.search(line)) or not line[-1].isalnum()
