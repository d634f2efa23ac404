"""Answers in a forum with their votes, made into pairs.

Votes say more than how good an answer is: one that was written earlier was seen by more people, and longer ones look
thorough. So a pair is made only where the better answer was not written (much) earlier (Ethayarajh et al. 2022, arXiv
2110.08420) and leads by a stated gap; the share of pairs in which the longer one wins is reported, and capped if asked.

Files have a question a row with a list `answers` of objects, or an answer a row beside its question. Texts are taken as
they stand. Left out: markup taken off, votes against the number of views.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

from palate.corpus.containers.files import read_rows
from palate.corpus.mined.mining_report import Mining
from palate.corpus.mined.shares import over_share
from palate.corpus.rows.rejections import Malformed, Rejected, Unusable
from palate.corpus.rows.row import Row
from palate.corpus.rows.values import list_of, number_of, object_of, said, truth_of
from palate.errors import DataError
from palate.recipe import ForumMining
from palate.records import Prompt, Ranking, Response, content_id
from palate.words import count_words

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "question": ("question", "prompt", "title"),
    "answers": ("answers", "responses", "comments", "replies"),
    "text": ("text", "answer", "body", "content", "response", "comment"),
    "score": ("score", "votes", "upvotes", "ups", "likes"),
    "time": ("time", "created_at", "created", "created_utc", "creation_date", "date"),
    "accepted": ("accepted", "is_accepted", "selected"),
}
"""What is read, and the names that it is looked for under where no other is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer in a forum.

    Attributes:
        place: file and line.
        votes: for it, less those against it.
        seconds: when it was written, since 1970; None where nothing says so.
        accepted: by whoever asked.
    """

    place: str
    text: str
    votes: float
    seconds: float | None = None
    accepted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An answer with a higher score than another one, and the difference."""

    prompt: Prompt
    better: Answer
    worse: Answer
    gap: float

    @property
    def id(self) -> str:
        """Hash of what it says."""
        return content_id(self.prompt.id, self.better.text, self.worse.text)

    @property
    def longer_wins(self) -> bool:
        """Whether the better one has more words."""
        return count_words(self.better.text) > count_words(self.worse.text)

    @property
    def ranking(self) -> Ranking:
        """As a record; the gap is its strength."""
        responses = (Response(text=self.better.text), Response(text=self.worse.text))
        return Ranking(prompt=self.prompt, responses=responses, ranks=(1, 2), strength=self.gap, source="forum")


def forum_pairs(
    paths: Sequence[Path], settings: ForumMining, report: Mining, *, fields: Mapping[str, str], tags: Sequence[str]
) -> Iterator[Ranking]:
    """The pairs of files.

    Raises:
        DataError: a bad row, with its file and line, or a column that is not known.
    """
    if unknown := fields.keys() - COLUMNS.keys():
        raise DataError(f"--field {sorted(unknown)[0]}: forum has {', '.join(COLUMNS)}")
    questions = read_questions(paths, report, fields, tags)
    pairs = [pair for prompt, answers in questions for pair in pairs_of(prompt, answers, settings, report)]
    for pair in with_longer_share(pairs, settings.max_longer_share, report):
        report.made["forum pairs"] += 1
        yield pair.ranking


def score_of(answer: Answer, scale: str) -> float:
    """On the scale of the settings; log2 is that of Askell et al. 2021, appendix on Stack Exchange."""
    if scale == "votes":
        return answer.votes
    return -1.0 if answer.votes < 0 else float(round(math.log2(1 + answer.votes)) + answer.accepted)


def pairs_of(prompt: Prompt, answers: Sequence[Answer], settings: ForumMining, report: Mining) -> list[Pair]:
    """Pairs of one question, the largest gap first; all others are counted in the report."""
    found = []
    for pair in all_pairs(prompt, answers, settings.scale):
        report.read["pairs of answers"] += 1
        if reason := why_not(pair, settings):
            _leave_out(report, pair, reason)
        else:
            found.append(pair)
    found.sort(key=lambda pair: (-pair.gap, pair.id))
    for pair in found[settings.max_pairs :]:
        _leave_out(report, pair, "the question has max_pairs others with a gap as large")
    return found[: settings.max_pairs]


def all_pairs(prompt: Prompt, answers: Sequence[Answer], scale: str) -> Iterator[Pair]:
    """Every two answers, the better one first; of equal ones the earlier in the file."""
    for one, two in combinations(answers, 2):
        gap = score_of(one, scale) - score_of(two, scale)
        better, worse = (one, two) if gap >= 0 else (two, one)
        yield Pair(prompt=prompt, better=better, worse=worse, gap=abs(gap))


def why_not(pair: Pair, settings: ForumMining) -> str:
    """What speaks against learning from a pair; nothing: it may be learned from."""
    better, worse = score_of(pair.better, settings.scale), score_of(pair.worse, settings.scale)
    if pair.better.text == pair.worse.text:
        return "the same text twice"
    if not pair.gap:
        return "equal scores"
    if better < settings.min_score:
        return "the better one has less than min_score"
    if pair.gap < settings.min_gap:
        return "scores closer than min_gap"
    if better < settings.min_ratio * worse:
        return "ratio of scores below min_ratio"
    if pair.better.seconds is None or pair.worse.seconds is None:
        return "no time of writing (require_times=false keeps such pairs)" if settings.require_times else ""
    head_start = pair.worse.seconds - pair.better.seconds
    if head_start > 3600 * settings.max_head_start_hours:
        return "the better one is older by more than max_head_start_hours"
    return ""


def with_longer_share(pairs: Sequence[Pair], most: float, report: Mining) -> list[Pair]:
    """The pairs in their order, without as many of those that the longer answer wins as make their share too large."""
    longer = [pair for pair in pairs if pair.longer_wins]
    out = over_share(longer, len(pairs) - len(longer), most, key=lambda pair: content_id("length", pair.id))
    for pair in out:
        _leave_out(report, pair, "the longer one wins more often than max_longer_share")
    gone = {id(pair) for pair in out}
    return [pair for pair in pairs if id(pair) not in gone]


def read_questions(
    paths: Iterable[Path], report: Mining, fields: Mapping[str, str], tags: Sequence[str]
) -> list[tuple[Prompt, list[Answer]]]:
    """Every question with its answers, in the order in which questions first appear; all are held in memory."""
    found: dict[str, tuple[Prompt, list[Answer]]] = {}
    for path in paths:
        for row in read_rows(path):
            report.read["rows"] += 1
            try:
                prompt, answers = _question_in(row, path, report, fields, tags)
            except Malformed as problem:
                raise DataError(problem.text, path=path, line=row.line) from None
            except Unusable as problem:
                report.rejections.add(problem, path, row.line)
                continue
            found.setdefault(prompt.id, (prompt, []))[1].extend(answers)
    report.read |= Counter(questions=len(found), answers=sum(len(answers) for _, answers in found.values()))
    for prompt, answers in found.values():
        if len(answers) == 1:
            report.leave_out("questions", "a single answer: nothing to compare", answers[0].place, prompt.text)
    return list(found.values())


def _question_in(
    row: Row, path: Path, report: Mining, fields: Mapping[str, str], tags: Sequence[str]
) -> tuple[Prompt, list[Answer]]:
    if row.problem:
        raise row.problem
    reader = _Columns(fields)
    question = reader.name(row.fields, "question", needed=True)
    nested = reader.name(row.fields, "answers")
    if missing := [tag for tag in tags if tag not in row.fields]:
        raise Malformed(f"no field {missing[0]!r} for a tag")
    kept = {tag: str(row.fields[tag]) for tag in tags}
    prompt = Prompt.from_text(said(row.fields[question], question), tags=kept)
    place = f"{path}:{row.line}"
    answers = []
    for each in [object_of(one, nested) for one in list_of(row.fields, nested)] if nested else [row.fields]:
        try:
            answers.append(_answer_in(each, place, reader, {question}))
        except Unusable as problem:
            report.rejections.add(problem, path, row.line)
    read = {question, nested, *tags}
    if nested:
        inner = {name for one in row.fields[nested] for name in one}
        beside = (row.fields.keys() - read) | {f"{nested}.{name}" for name in inner - reader.used}
    else:
        beside = row.fields.keys() - read - reader.used
    report.unused.update(sorted(beside))
    return prompt, answers


def _answer_in(row: Mapping[str, Any], place: str, reader: _Columns, taken: set[str]) -> Answer:
    text = reader.name(row, "text", needed=True, taken=taken)
    score = reader.name(row, "score", needed=True)
    time, accepted = reader.name(row, "time"), reader.name(row, "accepted")
    return Answer(
        place=place,
        text=said(row[text], text),
        votes=number_of(row[score], score),
        seconds=seconds_of(row[time], time) if time else None,
        accepted=truth_of(row[accepted], accepted) if accepted and row[accepted] not in (None, "") else False,
    )


class _Columns:
    """Finds what is read under the user's names or those that are usual; remembers which were."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self.fields, self.used = fields, set[str]()

    def name(self, row: Mapping[str, Any], what: str, *, needed: bool = False, taken: Iterable[str] = ()) -> str:
        """The column; empty where there is none."""
        known = (self.fields[what],) if what in self.fields else COLUMNS[what]
        found = next((name for name in known if name in row and name not in taken), "")
        if not found and (needed or what in self.fields):
            raise Malformed(f"no column for {what} ({', '.join(known)}): name it with --field {what}=COLUMN")
        self.used.add(found)
        return found


def seconds_of(value: Any, name: str) -> float | None:
    """A time as seconds since 1970: such a number, also in milliseconds, or a date of ISO 8601, UTC where none is said.

    Raises:
        Malformed: it is neither.
    """
    if value in (None, ""):
        return None
    try:
        number = number_of(value, name)
    except Rejected:
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            raise Malformed(f"field {name!r} is no time: seconds since 1970 or 2024-05-01T12:00", found=value) from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return number / 1000 if abs(number) > 1e11 else number


def _leave_out(report: Mining, pair: Pair, reason: str) -> None:
    votes = f"{pair.better.votes:g} and {pair.worse.votes:g} votes"
    report.leave_out("pairs", reason, pair.better.place, pair.better.text, other=pair.worse.text, about=votes)
