"""Questions with known answers, and whether a response gives one.

The comparison is the usual one of open-domain question answering (Rajpurkar et al. 2016, arXiv 1606.05250, its
evaluation): lower case, without punctuation, articles and extra blanks. A response either is an answer (`exact`) or
holds one as whole words (`contains`), which suits models that answer in sentences and credits "not Paris" as Paris.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from palate.corpus.containers.files import read_rows
from palate.corpus.rows.rejections import Malformed, Rejections, Unusable
from palate.corpus.rows.values import said
from palate.errors import DataError
from palate.records import text_id

QUESTIONS = ("question", "prompt")
ANSWERS = ("answer", "answers", "aliases")
_PUNCTUATION = str.maketrans("", "", string.punctuation + "\u2018\u2019\u201c\u201d\u00b4")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalized(text: str) -> str:
    """Lower case, no punctuation, no articles, single blanks; of a text that is only such ("The Who" has more, "A" has
    not) the articles stay."""
    plain = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split()) or " ".join(plain.split())


def is_right(response: str, answers: Iterable[str], match: str) -> bool:
    """Whether a response gives one of the answers, which are normalised already."""
    given = normalized(response)
    if match == "exact":
        return given in answers
    return any(f" {answer} " in f" {given} " for answer in answers)


def read_answers(path: str, read: Counter[str], rejections: Rejections) -> dict[str, frozenset[str]]:
    """Of each question, by `text_id`, its normalised answers; those of several rows are put together.

    A row has `question`, and `answer`, `answers` or `aliases`: a text, a list of texts, or an object with `value` and
    `aliases`. A question without any has no known answer; it is counted.

    Args:
        read, rejections: are told what was read, and what gives no question.

    Raises:
        DataError: no file is named, it cannot be read, or a bad row.
    """
    if not path:
        raise DataError("name the file of questions with their answers: --set answers=FILE")
    found: dict[str, frozenset[str]] = {}
    for row in read_rows(Path(path)):
        try:
            if row.problem:
                raise row.problem
            question = next((name for name in QUESTIONS if name in row.fields), "")
            if not question or not any(name in row.fields for name in ANSWERS):
                raise Malformed(f"no question ({', '.join(QUESTIONS)}) or no answer ({', '.join(ANSWERS)})")
            asked = said(row.fields[question], question)
            known = frozenset(filter(None, map(normalized, _answers(row.fields))))
        except Malformed as problem:
            raise DataError(problem.text, path=path, line=row.line) from None
        except Unusable as problem:
            rejections.add(problem, path, row.line)
            continue
        read["questions with answers" if known else "questions without a known answer"] += 1
        found[text_id(asked)] = found.get(text_id(asked), frozenset()) | known
    return found


def _answers(row: Mapping[str, Any]) -> Iterator[str]:
    for name in ANSWERS:
        yield from _texts(row.get(name), name)


def _texts(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from (text for key in ("value", "aliases") for text in _texts(value.get(key), f"{name}.{key}"))
    elif isinstance(value, list):
        yield from (text for each in value for text in _texts(each, name))
    elif isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise Malformed(f"field {name!r} holds what is no answer", found=value)
    elif value is not None:
        yield str(value)
