"""What people write when they have judged: which of K responses is better, or whether one is good.

    one side      left, A, first, 1, x, model_a, "Response A", the name of the winner's column or of its model
    by its ending 0 where the columns are answer_0 and answer_1; nowhere else, since 0/1 may mean no/yes
    neither       tie, draw, same, equal, =; both_bad and both_good are ties that say so by a flag
    signs         A>B, A>>B, A=B, B>A>C, and > < = alone; two signs are a strength of 2, one is 1
    thumbs        true/false, good/bad, desirable/undesirable, up/down, like/dislike, +1/-1, 1/0, yes/no

Capitals, blanks and underscores do not matter. What is none of these is not guessed: the user says what it means
(`--verdict left=a`, `data.verdicts`), and `skip` leaves such judgements out, counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any, Self

from palate.corpus.rows.rejections import Malformed, Unusable
from palate.corpus.rows.values import ranks_by
from palate.errors import DataError

BOTH_BAD, BOTH_GOOD = "both bad", "both good"


def _listed(words: str) -> frozenset[str]:
    return frozenset(word.strip() for word in words.split("|"))


_TIES = _listed(
    "tie | tied | a tie | draw | drawn | same | the same | about the same | equal | equally | equally good | even |"
    "neither | no preference | no difference | none | both | undecided"
)
_FLAGGED = {
    **dict.fromkeys(_listed("both bad | bothbad | tie bothbad | tie both bad | both are bad"), BOTH_BAD),
    **dict.fromkeys(_listed("both good | bothgood | tie bothgood | tie both good | both are good"), BOTH_GOOD),
}
_NOUNS = _listed(
    "model | response | answer | assistant | output | option | completion | candidate | system | side | text |"
    "summary | result | choice | argument | the | is | was | wins | won | win | better | best | preferred | winner"
)
_ADVERBS = {"slightly": 1.0, "much": 3.0, "significantly": 3.0, "far": 3.0}
_OF_TWO = {"left": 0, "right": 1, "x": 0, "y": 1}
_LETTERS = tuple(ascii_lowercase)
_NUMBERS = tuple(map(str, range(1, 10)))
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
_UP = _listed(
    "true | 1 | yes | y | good | desirable | desired | up | thumbs up | thumb up | thumbsup | like | liked |"
    "positive | pos | upvote | accepted | 👍"
)
_DOWN = _listed(
    "false | 0 | -1 | no | n | bad | undesirable | undesired | down | thumbs down | thumb down | thumbsdown |"
    "dislike | disliked | negative | neg | downvote | rejected | 👎"
)
MEANINGS = (*_LETTERS, "tie", "both_bad", "both_good", "up", "down", "skip")

_NUMBER = re.compile(r"([+-]?\d+)(?:\.0*)?")
_SIGN = re.compile(r"(>+|<+|=+|≻+|≺+)")
_LONGEST_SHOWN = 40


class Told(str):
    """A value of the file's, and what the user says it means; still the text it was."""

    meaning: str

    @classmethod
    def of(cls, value: Any, meaning: str) -> Self:
        """The value, explained."""
        told = cls(value)
        told.meaning = meaning
        return told


class Unclear(Malformed):
    """A judgement that is not understood.

    Attributes:
        column: where it stands.
        value: what it says.
        choices: what it may mean.
        meanings: the same in words, with what else it could be made to mean.
    """

    def __init__(self, value: Any, column: str, sides: Sequence[Sequence[str]] = ()) -> None:
        self.column, self.value = column, shown(value)
        self.choices = _LETTERS[: len(sides)] or ("up", "down")
        named = (f"{letter}: {names[0]}" for letter, names in zip(_LETTERS, sides, strict=False))
        self.meanings = (*named, "tie", "both_bad", "both_good", "skip") if sides else (*self.choices, "skip")
        super().__init__(f"{column!r} says {self.value!r}, which may mean anything")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement of K responses.

    Attributes:
        ranks: [K], 1 is best.
        flag: what is said of all of them, if anything.
        strength: how much better the best is, where the words tell.
    """

    ranks: tuple[int, ...]
    flag: str = ""
    strength: float | None = None

    @property
    def flags(self) -> tuple[tuple[str, ...], ...] | None:
        """The flag as a ranking has it."""
        return ((self.flag,),) * len(self.ranks) if self.flag else None


def meanings_of(words: Mapping[str, str]) -> Mapping[str, str]:
    """The user's words by their plain form.

    Raises:
        DataError: a meaning that there is not.
    """
    for word, meaning in words.items():
        if meaning not in MEANINGS:
            raise DataError(
                f"verdict {word}={meaning}: a value means a, b (c, ... of more than two), tie, both_bad, both_good, "
                "up, down or skip"
            )
    return {plain(word): meaning for word, meaning in words.items()}


def plain(value: Any) -> str:
    """A word without capitals, brackets, underscores and blanks at its ends; a whole number without its zeros."""
    text = str(value).strip().lower()
    number = _NUMBER.fullmatch(text)
    return str(int(number.group(1))) if number else " ".join(re.split(r"[\s_\-()\[\]{}.,:;!\"'*]+", text)).strip()


def is_number(value: Any) -> bool:
    """Whether a value is a whole number, also one that is written as a text."""
    return _NUMBER.fullmatch(str(value).strip()) is not None


def shown(value: Any) -> str:
    """A value as messages show it."""
    text = str(value).strip()
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."


def verdict(value: Any, column: str, sides: Sequence[Sequence[str]]) -> Verdict:
    """What a judgement says about K responses.

    Args:
        column: where the value stands.
        sides: [K], what each response goes by in its row: its column, the ending of the column's name, its models.

    Raises:
        Unusable: no judgement, or one that the user leaves out.
        Unclear: a value that may mean several things, or nothing known.
    """
    if isinstance(value, Told):
        if value.meaning == "skip":
            raise Unusable(f"{column!r} says {shown(value)!r}, which is left out")
        found = _in_words(value.meaning, sides) if value.meaning not in ("up", "down") else None
    elif value is None or not str(value).strip():
        raise Unusable(f"no preference given in {column!r}")
    elif isinstance(value, bool | list | Mapping):
        found = None
    else:
        found = _meant(value, sides)
    if found is None:
        raise Unclear(value, column, sides)
    return found


def best_of(place: int, count: int) -> Verdict:
    """One response is better than the others."""
    return Verdict(tuple(1 if each == place else 2 for each in range(count)))


def understood(value: Any, sides: Sequence[Sequence[str]]) -> bool:
    """Whether a value is a judgement at all."""
    try:
        verdict(value, "", sides)
    except Unusable:
        return isinstance(value, Told)
    except Unclear:
        return False
    return True


def thumb_of(value: Any, column: str) -> bool:
    """Whether a response is good.

    Raises:
        Unusable: no thumb, or one that the user leaves out.
        Unclear: a value that is no thumb.
    """
    word = _thumb_word(value)
    if word in _UP or word in _DOWN:
        return word in _UP
    if isinstance(value, Told) and word == "skip":
        raise Unusable(f"{column!r} says {shown(value)!r}, which is left out")
    if word in ("", "neutral", "none", "null"):
        raise Unusable(f"no thumb given in {column!r}")
    raise Unclear(value, column)


def is_thumb(value: Any) -> bool:
    """Whether a value says good or bad."""
    word = _thumb_word(value)
    return word in _UP or word in _DOWN or (isinstance(value, Told) and word == "skip")


def _thumb_word(value: Any) -> str:
    if isinstance(value, list | Mapping):
        return "?"
    return plain(value.meaning if isinstance(value, Told) else value)


def _meant(value: Any, sides: Sequence[Sequence[str]]) -> Verdict | None:
    """What the columns' names say, else signs, else the models' names and the usual words, if these agree."""
    by_column = next(
        filter(None, (_named(value, [names[place : place + 1] for names in sides]) for place in (0, 1))), None
    )
    if found := by_column or _in_signs(str(value), sides):
        return found
    by_name, by_word = _named(value, [names[2:] for names in sides]), _in_words(plain(value), sides)
    if by_name and by_word and by_name.ranks != by_word.ranks:
        return None  # a model called "b" among the two that are judged as a and b
    return by_name or by_word


def _named(value: Any, sides: Sequence[Sequence[str]]) -> Verdict | None:
    """A response called by its own name; a name that both sides have calls neither."""
    word = plain(value)
    places = [place for place, names in enumerate(sides) if word in map(plain, filter(None, names))]
    return best_of(places[0], len(sides)) if len(places) == 1 else None


def _in_words(word: str, sides: Sequence[Sequence[str]]) -> Verdict | None:
    word, count = plain(word), len(sides)
    if word in _TIES or word in _FLAGGED:
        return Verdict((1,) * count, flag=_FLAGGED.get(word, ""))
    parts = word.split()
    rest = [part for part in parts if part not in _NOUNS and part not in _ADVERBS]
    place = _place(rest[0], sides) if len(rest) == 1 else None
    if place is None:
        return None
    strength = next((_ADVERBS[part] for part in parts if part in _ADVERBS), None)
    return Verdict(best_of(place, count).ranks, strength=strength)


def _place(word: str, sides: Sequence[Sequence[str]]) -> int | None:
    """Which of K a letter, a number from 1 or a word of order means."""
    if len(sides) == 2 and word in _OF_TWO:
        return _OF_TWO[word]
    from_zero = any("0" in names for names in sides)
    for names in (_LETTERS, _ORDINALS, () if from_zero else _NUMBERS):
        if word in names[: len(sides)]:
            return names.index(word)
    return None


def _in_signs(text: str, sides: Sequence[Sequence[str]]) -> Verdict | None:
    """A>B=C, or a sign alone between the two."""
    parts = [part.strip(" \t[]()\"'") for part in _SIGN.split(text.replace("≻", ">").replace("≺", "<"))]
    words, signs = parts[::2], parts[1::2]
    if not signs or (len(signs) > 1 and "" in words):
        return None
    named = (0, 1) if words == ["", ""] and len(sides) == 2 else (_side(word, sides) for word in words)
    places = [place for place in named if place is not None]
    if sorted(places) != list(range(len(sides))):
        return None
    heights = [0.0]
    for sign in signs:
        heights.append(heights[-1] + {">": -1, "<": 1, "=": 0}[sign[0]])
    by_side = dict(zip(places, heights, strict=True))
    strength = float(len(signs[0])) if len(signs) == 1 and signs[0][0] != "=" else None
    return Verdict(ranks_by([by_side[place] for place in range(len(sides))]), strength=strength)


def _side(word: str, sides: Sequence[Sequence[str]]) -> int | None:
    found = _named(word, sides) or _in_words(word, sides)
    return found.ranks.index(1) if found and found.ranks.count(1) == 1 else None
