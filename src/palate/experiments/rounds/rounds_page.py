"""The page of rounds: how each did beside the control, what it learned from, and what its policy writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from palate.evals import plots
from palate.evals.report import Report
from palate.experiments.paths import paired_difference
from palate.experiments.rounds.held_out import Kept
from palate.experiments.rounds.labels import Labels
from palate.intervals import Estimate
from palate.randomness import permutation

NUM_SHOWN = 8
"""Held-out prompts whose first responses stand side by side, drawn by the seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What is known of a round that is over.

    Attributes:
        learned_from: judgements.
        accuracy: of its reward model on held-out prompts of these; undefined if it has none.
        answers: of its policy to the held-out prompts.
        control: those of as many steps without new labels; None in round 1, where nothing differs, and where nobody
            asked for it.
    """

    number: int
    labels: Labels
    learned_from: int
    accuracy: Estimate
    answers: Kept
    control: Kept | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A policy against the first model, on held-out prompts."""

    win_rate: Estimate
    at_equal_length: Estimate
    kl: Estimate
    words: Estimate
    cut_off: float

    def as_json(self) -> dict[str, float | None]:
        """Flat."""
        return {
            **ends("win_rate", self.win_rate),
            **ends("win_rate_length_controlled", self.at_equal_length),
            **ends("kl", self.kl),
            **ends("words", self.words),
            "cut_off": self.cut_off,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """A round as its page tells it.

    Attributes:
        more: win rate minus the control's, paired by prompt.
    """

    round: Round
    figures: Figures
    control: Figures | None
    more: Estimate


def write_report(
    out: Path, rounds: Sequence[Round], first: Kept, *, asked: int, seed: int, seconds: float, notes: Sequence[str] = ()
) -> None:
    """``report.html`` and ``report.json``.

    Args:
        rounds: those that are over, at least one.
        first: the first model's answers.
        asked: how many rounds there are to be.
        seconds: that the stages took.
        notes: what was dropped, skipped or assumed.
    """
    chapters = [told(each, first, seed=seed) for each in rounds]
    report = Report("Rounds", f"{len(rounds)} of {asked} rounds, {len(first.lines)} held-out prompts")
    _headline(report, chapters[-1])
    panels = panels_of(chapters)
    report.figure("Round by round", plots.over_rounds(panels, levels={WIN_RATE: 0.5}), PICTURE)
    _describe_policies(report, chapters, first, seed)
    _describe_labels(report, rounds)
    _describe_texts(report, rounds, first, seed)
    report.data("rounds", [_as_data(chapter) for chapter in chapters])
    report.text("How", HOW)
    said = [f"round {each.number}: {note}" for each in rounds for note in each.labels.notes]
    if notes or said:
        report.text("Dropped, skipped, assumed", "\n\n".join([*notes, *said]))
    report.number("seconds", seconds, label="Seconds", note="all stages together")
    report.write(out)


WIN_RATE = "Win rate"
PICTURE = """\
Against the first model on held-out prompts, with 95% intervals by prompt. Without new labels: as many steps on round \
1's judgements alone. Foretold: fresh pairs that a reward model orders as the labelers then did, before it learned \
from them."""

HOW = """\
In each round the policy answers fresh prompts, the answers are judged, and it goes on learning from where it was. \
Every policy answers the same held-out prompts with the same random numbers, and each of its responses meets each of \
the first model's; a tie is half a win. The KL is that of the policy to the first model on its own responses, in nats.

Without new labels the policy goes through the same prompts in as many steps, with the same random numbers, but learns \
from the judgements of round 1 alone: what the rounds have more than it comes of fresh labels. The difference is \
paired, prompt by prompt.

At equal length is the win rate to expect if the responses were as long as the first model's: a logistic regression of \
winning on the difference in words, read where there is none."""


def told(each: Round, first: Kept, *, seed: int) -> Chapter:
    """The figures of a round and of its control."""
    control = None if each.control is None else figures_of(each.control, first, seed=seed)
    more = Estimate(None)
    if each.control is not None:
        more = paired_difference(each.answers.won(first), each.control.won(first), seed=seed)
    return Chapter(round=each, figures=figures_of(each.answers, first, seed=seed), control=control, more=more)


def figures_of(answers: Kept, first: Kept, *, seed: int) -> Figures:
    """From what a policy and the first model answered."""
    won = answers.win_rate(first, seed=seed)
    return Figures(
        win_rate=Estimate(won.rate, won.low, won.high),
        at_equal_length=answers.at_equal_length(first, seed=seed),
        kl=answers.kl(seed=seed),
        words=answers.length(seed=seed),
        cut_off=answers.cut_off,
    )


def panels_of(chapters: Sequence[Chapter]) -> dict[str, dict[str, dict[int, Estimate]]]:
    """What the picture shows: by title and label the estimates of each round; the control begins where round 1 ends."""
    first = chapters[0].round.number
    ours = {chapter.round.number: chapter.figures for chapter in chapters}
    theirs = {chapter.round.number: chapter.control for chapter in chapters if chapter.control is not None}
    theirs = {first: ours[first], **theirs} if theirs else {}
    lines = {"rounds": ours} | ({"without new labels": theirs} if theirs else {})
    panels = {
        WIN_RATE: {label: {number: each.win_rate for number, each in found.items()} for label, found in lines.items()},
        "KL": {label: {number: each.kl for number, each in found.items()} for label, found in lines.items()},
    }
    rounds = [chapter.round for chapter in chapters]
    foretold = {
        "by the round before": {each.number: each.labels.foretold[each.number - 1] for each in rounds if _before(each)},
        "by round 1": {each.number: each.labels.foretold[1] for each in rounds if _before(each)},
    }
    if foretold["by round 1"]:
        panels["Foretold"] = foretold
    panels["Judgements learned from"] = {"": {each.number: Estimate(float(each.learned_from)) for each in rounds}}
    return panels


def _before(each: Round) -> bool:
    """Whether a reward model was there before its judgements."""
    return bool(each.labels.foretold)


def ends(name: str, found: Estimate) -> dict[str, float | None]:
    """A figure and its interval."""
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _headline(report: Report, last: Chapter) -> None:
    cards = [("win_rate", last.figures.win_rate, "Win rate", f"after round {last.round.number}, ties half")]
    if last.control is not None:
        cards += [
            ("control_win_rate", last.control.win_rate, "Without new labels", "as many steps on round 1's judgements"),
            ("minus_control", last.more, "What they add", "win rate minus that, paired by prompt"),
        ]
    cards.append(("kl", last.figures.kl, "KL", "nats per response, to the first model"))
    for key, found, label, note in cards:
        report.number(key, found.value, low=found.low, high=found.high, label=label, note=note)


def _describe_policies(report: Report, chapters: Sequence[Chapter], first: Kept, seed: int) -> None:
    rows = [["first model", "", "", "", "", str(first.length(seed=seed)), f"{first.cut_off:.1%}"]]
    for chapter in chapters:
        number = chapter.round.number
        rows.append(_row(f"round {number}", chapter.figures, chapter.more))
        if chapter.control is not None:
            rows.append(_row(f"round {number}, without new labels", chapter.control, Estimate(None)))
    report.table(
        "How the policies did",
        ["policy", "win rate", "minus the one without", "at equal length", "KL", "words", "cut off"],
        rows,
        "Against the first model, on held-out prompts. In brackets 95% intervals by prompt.",
    )


def _row(name: str, found: Figures, more: Estimate) -> list[str]:
    return [
        name,
        str(found.win_rate),
        "" if more.value is None else str(more),
        str(found.at_equal_length),
        str(found.kl),
        str(found.words),
        f"{found.cut_off:.1%}",
    ]


def _describe_labels(report: Report, rounds: Sequence[Round]) -> None:
    header = ["round", "new", "of prompts", "labelers agree", "longer one wins", "foretold by the round before"]
    header += ["foretold by round 1", "learned from", "reward model's accuracy"]
    rows = []
    for each in rounds:
        labels, known = each.labels, _before(each)
        rows.append(
            [
                each.number,
                labels.judgements,
                labels.prompts,
                str(labels.agreement),
                str(labels.longer),
                str(labels.foretold[each.number - 1]) if known else "",
                str(labels.foretold[1]) if known else "",
                each.learned_from,
                "" if each.accuracy.value is None else str(each.accuracy),
            ]
        )
    report.table(
        "Judgements",
        header,
        rows,
        "Foretold: fresh pairs that a reward model orders as the labelers then did. The accuracy is that of the "
        "round's reward model, on held-out prompts of what it learned from. In brackets 95% intervals by prompt.",
    )


def _describe_texts(report: Report, rounds: Sequence[Round], first: Kept, seed: int) -> None:
    """The first response of each policy."""
    policies = {"first model": first} | {f"round {each.number}": each.answers for each in rounds}
    if rounds[-1].control is not None:
        policies[f"round {rounds[-1].number}, without new labels"] = rounds[-1].control
    shown = permutation(len(first.lines), seed, "shown")[:NUM_SHOWN].tolist()
    texts: list[dict[str, object]] = [
        {"prompt": first.lines[place].prompt}
        | {name: answers.lines[place].responses[0] for name, answers in policies.items()}
        for place in shown
    ]
    report.data("texts", texts)
    report.side_by_side("What they write", texts, f"{len(texts)} held-out prompts, drawn by the seed.")


def _as_data(chapter: Chapter) -> dict[str, object]:
    each, labels = chapter.round, chapter.round.labels
    return {
        "round": each.number,
        "judgements": labels.judgements,
        "prompts": labels.prompts,
        "learned_from": each.learned_from,
        **ends("agreement", labels.agreement),
        **ends("longer_wins", labels.longer),
        **ends("accuracy", each.accuracy),
        "foretold": {str(number): ends("accuracy", found) for number, found in labels.foretold.items()},
        **chapter.figures.as_json(),
        "control": None if chapter.control is None else chapter.control.as_json(),
        **ends("minus_control", chapter.more),
    }
