"""What a column that no parser reads may mean, told by its name and by what stands in it.

Whatever speaks of one of these would change what is learned, so it is never left out without being asked for. Names are
taken apart into words (`score_chosen`, `isSafe`, `reward_model.ground_truth`); a value tells a dialogue, a verdict or a
picture whatever its column is called.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from palate.corpus.rows.fields import has_value
from palate.corpus.rows.turns import is_dialogue
from palate.corpus.rows.values import structure_in


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORDS: Mapping[str, str] = {
    "a preference": (
        "chosen rejected preferred preference preferences winner loser better worse best worst choice vote votes voted "
        "verdict verdicts judgement judgements judgment judgments comparison pairwise rejections"
    ),
    "a rating": (
        "rating ratings score scores scored rank ranks ranking rankings reward rewards stars grade grades quality "
        "helpfulness margin upvotes downvotes likes karma"
    ),
    "a label": (
        "label labels thumb thumbs kto desirable undesirable feedback correct incorrect accepted truth toxicity "
        "toxic safe unsafe harmful annotation annotations"
    ),
    "a system prompt": "system persona",
    "history": "history context dialog dialogue conversation conversations messages previous",
    "a question": "prompt question instruction query input",
    "tools": "tool tools function functions",
    "images": "image images picture pictures photo photos video videos audio audios",
    "what must not be learned": "mask masks masked loss weight weights trainable learn",
}
_MEANINGS = {word: meaning for meaning, words in _WORDS.items() for word in words.split()}
_ANSWERS = _words(
    "answer answers response responses completion completions output outputs reply replies target solution summary "
    "summaries gold reference"
)
_NOT_SAID = _words("id ids hash url length tokens num count turns time date name")
_VERDICTS = _words(
    "chosen rejected good bad desirable undesirable thumbs_up thumbs_down thumbsup thumbsdown like dislike tie draw "
    "left right both_bad both_good model_a model_b response_a response_b"
)
_MEDIA = "jpe?g|png|gif|webp|bmp|mp4|webm|mov|wav|mp3|flac|ogg"
_PICTURE = re.compile(rf"(?!https?:)\S+\.(?:{_MEDIA})|data:(?:image|audio|video)/.*")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_DEEPEST = 4
_SENTENCE = 4  # words
_SAID_IN_WORDS = frozenset({"a system prompt", "history", "a question", "tools"})
HARD = frozenset({"a system prompt", "history", "tools", "images", "what must not be learned"})
"""What changes the meaning of columns that a user has named by hand; of the rest such a user has said enough."""


def meanings(path: str, value: Any, *, only_prompts: bool = False) -> Iterator[tuple[str, str]]:
    """The fields at or below a column that speak of something, each with what it speaks of.

    Args:
        only_prompts: nothing but prompts is read, so that answers matter too.
    """
    name = path.rpartition(".")[2]
    if meaning := _by_name(name, value, only_prompts) or _by_value(value, only_prompts):
        yield path, meaning
    elif isinstance(value, Mapping) and path.count(".") < _DEEPEST:
        for key, each in value.items():
            if has_value(each):
                yield from meanings(f"{path}.{key}", each, only_prompts=only_prompts)
    elif isinstance(value, list):
        objects = [each for each in value if isinstance(each, Mapping)]
        found = {inner for each in objects for inner in meanings(path, each, only_prompts=only_prompts)}
        yield from sorted(found)


def _by_name(name: str, value: Any, only_prompts: bool) -> str:
    words = [word.lower() for word in _WORD.findall(name)]
    if not _NOT_SAID.isdisjoint(words):
        return ""
    meanings_of_words = [_MEANINGS[word] for word in words if word in _MEANINGS]
    if isinstance(value, int | float):  # also true and false: they say that there is one, or how many
        meanings_of_words = [meaning for meaning in meanings_of_words if meaning not in _SAID_IN_WORDS]
    meaning = next(iter(meanings_of_words), "")
    return meaning or ("an answer" if only_prompts and not _ANSWERS.isdisjoint(words) else "")


def _by_value(value: Any, only_prompts: bool) -> str:
    if isinstance(value, str):
        text = value.strip()
        if only_prompts and len(text.split()) >= _SENTENCE:
            return "something said, perhaps an answer"
        if text.lower().replace(" ", "_") in _VERDICTS:
            return "a verdict"
        if _PICTURE.fullmatch(text):
            return "images"
        value = structure_in(text) if text.startswith(("[", "{")) else None
    if isinstance(value, bytes):
        return "images"
    if is_dialogue(value):
        return "a dialogue"
    items = value if isinstance(value, list) else []
    return "images" if items and all(isinstance(each, str) and _PICTURE.fullmatch(each) for each in items) else ""
