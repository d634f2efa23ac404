"""The pages of the app, in the order of the loop, each with who sees it."""

from __future__ import annotations

from dataclasses import dataclass

from palate.studio.web.access import ADMINS, CHATTERS, LABELERS, RESEARCHERS, REVIEWERS


@dataclass(frozen=True, slots=True)
class Entry:
    """One link at the top of every page."""

    path: str
    title: str
    roles: frozenset[str]


ENTRIES = (
    Entry("/start", "Start", RESEARCHERS),
    Entry("/label", "Label", LABELERS),
    Entry("/review", "Review", REVIEWERS),
    Entry("/batches", "Batches", RESEARCHERS),
    Entry("/people", "People", ADMINS),
    Entry("/screening", "Screening", RESEARCHERS - ADMINS),  # an admin comes from People
    Entry("/agreement", "Agreement", REVIEWERS),
    Entry("/dashboard", "Dashboard", RESEARCHERS),
    Entry("/rounds", "Rounds", RESEARCHERS),
    Entry("/runs", "Runs", RESEARCHERS),
    Entry("/arena", "Arena", LABELERS),
    Entry("/chat", "Chat", CHATTERS),
    Entry("/exports", "Export", RESEARCHERS),
)


def entries_for(role: str) -> list[Entry]:
    """What somebody of this role finds at the top of the page."""
    return [entry for entry in ENTRIES if role in entry.roles]


def home_of(role: str) -> str:
    """Where somebody of this role begins."""
    return entries_for(role)[0].path
