"""Turns of the assistant's that must not be learned, in every spelling that tools for fine-tuning have.

    on a turn    train, train_on_turn, trainable, loss, learn: false        weight, loss_weight: 0        mask(ed): true
    on a row     a list with an entry for every turn: loss_mask, loss_weight, weights, train, loss (1: learn), or
                 mask, masks, where what stands at the user's turns means "not learned"; or the name of a speaker

A weight between 0 and 1 is refused: a turn is learned or it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from palate.corpus.rows.fields import label, peek
from palate.corpus.rows.rejections import Malformed
from palate.corpus.rows.values import Fields, is_truth, number_of, truth_of

_LEARNS = ("learn", "train", "train_on_turn", "trainable", "loss", "weight", "loss_weight")
_MASKS = ("mask", "masks", "masked", "loss_mask")
_ROW_LEARNS = ("loss_mask", "loss_masks", "loss_weight", "loss_weights", "weights", "weight", "train", "loss")
_ROW_MASKS = ("mask", "masks")
MARKS = frozenset((*_LEARNS, *_MASKS))
_USERS = ("User", "user", "Human", "human")


def is_learned(turn: Fields) -> bool:
    """What the turn's own marks say; a turn without any is learned."""
    marks = [_mark(turn, key) for key in _LEARNS if key in turn]
    marks += [_mark(turn, key) == (key == "loss_mask") for key in _MASKS if key in turn]
    return all(marks)


def learned_by_row(row: Fields, roles: Sequence[str]) -> tuple[bool, ...]:
    """For every turn whether the row's own marks have it learned.

    Args:
        roles: who speaks in each turn.
    """
    learned = [True] * len(roles)
    if peek(row, "mask") in _USERS:
        row["mask"]  # the speaker that is masked, who is never learned from anyway
    for key in (*_ROW_LEARNS, *_ROW_MASKS):
        if not isinstance(peek(row, key), list):
            continue
        marks = _spread(row[key], roles, label(row, key), may_be_short=key in _ROW_LEARNS)
        off = _masked_value(marks, roles, label(row, key)) if key in _ROW_MASKS else False
        learned = [before and mark != off for before, mark in zip(learned, marks, strict=True)]
    return tuple(learned)


def _mark(turn: Fields, key: str) -> bool:
    return _truth(turn[key], label(turn, key))


def _truth(value: Any, name: str) -> bool:
    if is_truth(value):
        return truth_of(value, name)
    number = number_of(value, name)
    if 0 < number < 1:
        raise Malformed(f"field {name!r} is a weight between 0 and 1: a turn is learned or it is not", found=value)
    return number != 0


def _spread(value: Sequence[Any], roles: Sequence[str], name: str, *, may_be_short: bool) -> list[bool]:
    """A mark for every turn; a list may also have one for each of the assistant's turns alone."""
    marks = [_truth(each, name) for each in value]
    if len(marks) == len(roles):
        return marks
    places = [place for place, role in enumerate(roles) if role == "assistant"]
    if len(marks) != len(places) or not may_be_short:
        raise Malformed(f"field {name!r} has {len(marks)} marks for {len(roles)} turns, {len(places)} the assistant's")
    spread = [False] * len(roles)
    for place, mark in zip(places, marks, strict=True):
        spread[place] = mark
    return spread


def _masked_value(marks: Sequence[bool], roles: Sequence[str], name: str) -> bool:
    """Which value masks a turn: the one at everybody's turns but the assistant's."""
    others = {mark for mark, role in zip(marks, roles, strict=True) if role != "assistant"}
    if len(others) != 1:
        raise Malformed(f"field {name!r} does not say whether 1 or 0 masks a turn: the user's turns have both")
    return others.pop()
