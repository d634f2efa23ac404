"""What the chat's pages and its API say of conversations.

While two answers wait to be chosen from, they stand in the order in which they are shown, without the names of models;
nothing else in them tells which is which. Where some answers are taken at random from several, none says how it was
taken before it has a thumb.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel
from sqlalchemy.orm import Session

from palate.feedback.chat import conversations, exchanges, reactions
from palate.feedback.chat.conversations import ChatSettings, Turn
from palate.feedback.store import policies
from palate.feedback.store.tables import ChatMessage, Conversation, Judgement, User
from palate.records import Provenance, Selection
from palate.studio.web.rendering import safe_html

State = Literal["streaming", "done", "stopped", "failed"]


class ModelOut(BaseModel):
    """A model that can be talked to."""

    id: str
    name: str


class ConversationLine(BaseModel):
    """A conversation in the list."""

    id: str
    title: str
    updated_at: float


class Reaction(BaseModel):
    """What the owner said about an answer."""

    thumb: Literal["up", "down"] | None = None
    reasons: list[str] = []
    comment: str = ""
    verdict: Literal["better", "worse", "same"] | None = None
    edited: bool = False


class TermOut(BaseModel):
    """What an answer has of one part of its score, and how much more than the next best answer has of it.

    ``principle`` is one of the reader's; None stands for the reward.
    """

    principle: str | None
    score: float
    lead: float


class TakenOut(BaseModel):
    """How an answer was taken from among several; ``lead`` is that of the best over the second best.

    ``terms`` are there where the reader has principles; one that was not taken at random has most of its lead by
    ``decided``.
    """

    at_random: bool
    score: float
    best: float
    lead: float
    kl_bound: float
    terms: list[TermOut]
    decided: TermOut | None


class SelectionOut(BaseModel):
    """Out of how many it was taken, and how; ``taken`` is there once its reader cannot be swayed by it."""

    n: int
    taken: TakenOut | None


class AnswerOut(BaseModel):
    """One variant at one position: ``html`` of answers that are finished.

    ``yours`` are the owner's own words, and ``model`` is not told in two-answer mode.
    """

    id: str
    state: State
    text: str
    html: str
    chosen: bool
    yours: bool
    model: str | None
    can_judge: bool
    can_compare: bool
    reaction: Reaction
    selection: SelectionOut | None


class TurnOut(BaseModel):
    """What stands at one position; ``pair`` says that two answers wait to be chosen from."""

    position: int
    role: Literal["user", "assistant"]
    pair: bool
    variants: list[AnswerOut]


class ConversationOut(BaseModel):
    """A conversation with everything in it."""

    id: str
    title: str
    model_id: str
    settings: ChatSettings
    updated_at: float
    turns: list[TurnOut]


def line_of(conversation: Conversation) -> ConversationLine:
    """For the list."""
    return ConversationLine(id=conversation.id, title=conversation.title, updated_at=conversation.updated_at)


def view_of(session: Session, user: User, conversation: Conversation) -> ConversationOut:
    """As its owner sees it."""
    settings = conversations.settings_of(conversation)
    so_far = conversations.turns(session, conversation)
    said = _by_message(reactions.said_about(session, user, [each.id for turn in so_far for each in turn.variants]))
    names = {} if settings.two_answers else {model.path: model.name for model in policies.policies(session)}
    return ConversationOut(
        id=conversation.id,
        title=conversation.title,
        model_id=conversation.model_id,
        settings=settings,
        updated_at=conversation.updated_at,
        turns=[_turn(so_far, turn, said, names) for turn in so_far],
    )


def _turn(so_far: Sequence[Turn], turn: Turn, said: Mapping[str, list[Judgement]], names: Mapping[str, str]) -> TurnOut:
    waiting = [turn.pair[index] for index in exchanges.shown(turn.pair)]
    compared = {} if waiting else {each.id: reactions.earlier(so_far, each) is not None for each in turn.variants}
    return TurnOut(
        position=turn.position,
        role="user" if turn.variants[0].role == "user" else "assistant",
        pair=bool(waiting),
        variants=[
            _answer(each, said[each.id], {} if waiting else names, can_compare=compared.get(each.id, False))
            for each in waiting or turn.variants
        ],
    )


def _answer(
    message: ChatMessage, said: Sequence[Judgement], names: Mapping[str, str], *, can_compare: bool
) -> AnswerOut:
    is_answer = message.role == "assistant"
    finished = is_answer and message.state in ("done", "stopped")
    drawn = Provenance.model_validate(message.provenance) if message.provenance else None
    reaction = _reaction(said)
    return AnswerOut.model_validate(
        {
            "id": message.id,
            "state": message.state,
            "text": message.content,
            "html": safe_html(message.content) if finished else "",
            "chosen": message.is_chosen,
            "yours": message.provenance is None,
            "model": names.get(drawn.model) if drawn else None,
            "can_judge": is_answer and reactions.is_judged(message),
            "can_compare": can_compare,
            "reaction": reaction,
            "selection": _selection(drawn.selection, reaction) if drawn and drawn.selection else None,
        }
    )


def _selection(selection: Selection, reaction: Reaction) -> SelectionOut:
    best, second = sorted(selection.scores, reverse=True)[:2]
    terms = _terms(selection)
    taken = TakenOut(
        at_random=selection.at_random,
        score=selection.scores[selection.chosen],
        best=best,
        lead=best - second,
        kl_bound=selection.kl_bound,
        terms=terms,
        decided=max(terms, key=lambda term: term.lead) if terms and not selection.at_random else None,
    )
    is_blind = selection.random_share > 0 and reaction.thumb is None
    return SelectionOut(n=len(selection.scores), taken=None if is_blind else taken)


def _terms(selection: Selection) -> list[TermOut]:
    """What the score is made of, where principles are among it: the reward first, if there is one."""
    if not selection.fits:
        return []
    weighted = [[selection.principle_weight * each for each in fit.scores] for fit in selection.fits]
    parts: list[tuple[str | None, list[float]]] = [
        (fit.principle, scores) for fit, scores in zip(selection.fits, weighted, strict=True)
    ]
    if selection.rewards:
        rest = [total - sum(each) for total, *each in zip(selection.scores, *weighted, strict=True)]
        parts.insert(0, (None, rest))
    others = [index for index in range(len(selection.scores)) if index != selection.chosen]
    rival = max(others, key=lambda index: selection.scores[index])
    return [
        TermOut(principle=name, score=scores[selection.chosen], lead=scores[selection.chosen] - scores[rival])
        for name, scores in parts
    ]


def _reaction(said: Sequence[Judgement]) -> Reaction:
    found = Reaction()
    for line in said:
        if line.kind == "thumb":
            found.thumb = "up" if line.record["ratings"] == [7] else "down"
            found.reasons = list((line.record.get("flags") or [[]])[0])
            found.comment = line.comment
        elif line.kind == "edit":
            found.edited = True
        elif line.quality["how"] == reactions.DRAWN_AGAIN:
            before, this = line.record["ranks"]
            found.verdict = "same" if before == this else "better" if this < before else "worse"
    return found


def _by_message(lines: Sequence[Judgement]) -> Mapping[str, list[Judgement]]:
    found: defaultdict[str, list[Judgement]] = defaultdict(list)
    for line in lines:
        found[line.message_id or ""].append(line)
    return found
