"""Abstention pairs out of what a model itself knows: its own samples beside the known answers.

Behaviour cloning on answers that a model does not know teaches it to make answers up, and on "I don't know" where it
knows teaches it to withhold them (Schulman 2023, "Reinforcement learning from human feedback: progress and
challenges"). So the model is asked first, several times:

    right in `knows` of its samples or more          a right one over saying that it does not know, and over wrong ones
    right in `does_not_know` of them or fewer        saying so over wrong ones
    between                                          nothing is made of it; counted

A sample that says so by itself is neither right nor wrong and makes no pair, nor does one that was cut off; both count
among the samples. A small model knows little, so most pairs would teach it to say nothing: `max_unsure_share` is their
share at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from palate.corpus.catalogue.format import Item
from palate.corpus.mined.known_answers import is_right, read_answers
from palate.corpus.mined.mining_report import Mining
from palate.corpus.mined.phrases import Patterns, Templates, patterns, templates
from palate.corpus.mined.shares import over_share
from palate.recipe import AbstentionMining
from palate.records import Candidates, Prompt, Ranking, Response, content_id, text_id

SAYS_SO = "saying that it does not know over wrong answers"
RIGHT_OVER_UNSURE = "right answers over saying that it does not know"
RIGHT_OVER_WRONG = "right answers over wrong ones"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """A question, and a model's samples by what they are.

    Attributes:
        right, wrong: different texts, in the order of the samples.
        share: of all samples, those that are right, the cut-off ones among them.
    """

    place: str
    prompt: Prompt
    right: Sequence[Response]
    wrong: Sequence[Response]
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two responses to a question, the better one first.

    Attributes:
        place: file and line.
        kind: `SAYS_SO`, `RIGHT_OVER_UNSURE` or `RIGHT_OVER_WRONG`.
    """

    place: str
    kind: str
    prompt: Prompt
    better: Response
    worse: Response

    @property
    def id(self) -> str:
        """Hash of what it says."""
        return content_id("abstention", self.prompt.id, *self.better.parts, *self.worse.parts)

    @property
    def ranking(self) -> Ranking:
        """As a record."""
        return Ranking(prompt=self.prompt, responses=(self.better, self.worse), ranks=(1, 2), source="abstention")


def abstention_pairs(
    items: Iterable[tuple[str, Item]], settings: AbstentionMining, report: Mining
) -> Iterator[Ranking]:
    """The pairs of a model's samples; all of them are held in memory.

    Args:
        items: candidates, each with its file and line.

    Raises:
        DataError: the file of answers or a list cannot be read.
    """
    for pair in with_unsure_share(list(all_pairs(items, settings, report)), settings.max_unsure_share, report):
        report.made[pair.kind] += 1
        yield pair.ranking


def with_unsure_share(pairs: Sequence[Pair], most: float, report: Mining) -> list[Pair]:
    """The pairs in their order, without as many of those that prefer saying so as make their share too large."""
    says_so = [pair for pair in pairs if pair.kind == SAYS_SO]
    out = over_share(says_so, len(pairs) - len(says_so), most, key=lambda pair: pair.id)
    for pair in out:
        reason = "saying so is preferred in more than max_unsure_share"
        report.leave_out("pairs", reason, pair.place, pair.worse.text, other=pair.prompt.text)
    gone = {id(pair) for pair in out}
    return [pair for pair in pairs if id(pair) not in gone]


def all_pairs(items: Iterable[tuple[str, Item]], settings: AbstentionMining, report: Mining) -> Iterator[Pair]:
    """Those of every question, whatever their share."""
    answers = read_answers(settings.answers, report.read, report.rejections)
    unsure = templates(settings.templates, "abstentions.txt", settings.seed)
    says_so = patterns(settings.patterns, "unsure.txt")
    for place, item in items:
        assert isinstance(item, Candidates)
        report.read["questions sampled"] += 1
        report.read["samples"] += len(item.responses)
        if reason := _no_use(item, answers, settings):
            report.leave_out("questions", reason, place, item.prompt.text)
            continue
        known = answers[text_id(item.prompt.text)]
        report.read["questions that nobody can answer"] += not known
        sampled = sort_samples(place, item, known, settings.match, says_so, report)
        yield from _pairs(sampled, settings, unsure, report)


def _no_use(item: Candidates, answers: Mapping[str, frozenset[str]], settings: AbstentionMining) -> str:
    known = answers.get(text_id(item.prompt.text))
    if known is None:
        return "not among the questions with answers"
    if not known and not settings.unanswerable:
        return "no known answer"
    return "fewer samples than min_samples" if len(item.responses) < settings.min_samples else ""


def sort_samples(
    place: str, item: Candidates, answers: frozenset[str], match: str, says_so: Patterns, report: Mining
) -> Sampled:
    """Which samples are right and which wrong; the others are counted. Without an answer none is right."""
    right: dict[str, Response] = {}
    wrong: dict[str, Response] = {}
    num_right = 0
    for response in item.responses:
        correct = is_right(response.text, answers, match)
        num_right += correct
        if not correct and (found := says_so.find(response.text)):
            reason = "says by itself that it does not know"
            report.leave_out("samples", reason, place, response.text, about=found, other=item.prompt.text)
        elif response.provenance is not None and not response.provenance.ended:
            report.leave_out("samples", "was cut off", place, response.text, other=item.prompt.text)
        else:
            (right if correct else wrong).setdefault(response.text, response)
    return Sampled(
        place=place,
        prompt=item.prompt,
        right=tuple(right.values()),
        wrong=tuple(wrong.values()),
        share=num_right / len(item.responses),
    )


def _pairs(sampled: Sampled, settings: AbstentionMining, unsure: Templates, report: Mining) -> Iterator[Pair]:
    share = f"{sampled.share:.2f} of the samples are right"
    if settings.does_not_know < sampled.share < settings.knows:
        reason = "between knowing and not knowing"
        report.leave_out("questions", reason, sampled.place, sampled.prompt.text, about=share)
        return
    try:
        abstains = Response(text=unsure.filled(sampled.prompt))
    except KeyError as missing:
        report.leave_out("questions", f"no tag {missing} for its template", sampled.place, sampled.prompt.text)
        return
    knows = sampled.share >= settings.knows
    report.read["questions that it knows" if knows else "questions that it does not know"] += 1
    kinds = _kinds_known(sampled, abstains) if knows else {SAYS_SO: [(abstains, wrong) for wrong in sampled.wrong]}
    for kind, pairs in kinds.items():
        for better, worse in pairs[: settings.max_pairs]:
            yield Pair(place=sampled.place, kind=kind, prompt=sampled.prompt, better=better, worse=worse)
        for better, worse in pairs[settings.max_pairs :]:
            reason = "the question has max_pairs others of its kind"
            report.leave_out("pairs", reason, sampled.place, better.text, other=worse.text)
    if not any(kinds.values()):
        report.leave_out("questions", "no sample that can be used", sampled.place, sampled.prompt.text, about=share)


def _kinds_known(sampled: Sampled, abstains: Response) -> dict[str, list[tuple[Response, Response]]]:
    """A right answer over saying so; each wrong one below another right one, as long as there are some."""
    right = sampled.right
    return {
        RIGHT_OVER_UNSURE: [(response, abstains) for response in right],
        RIGHT_OVER_WRONG: [(right[place % len(right)], wrong) for place, wrong in enumerate(sampled.wrong) if right],
    }
