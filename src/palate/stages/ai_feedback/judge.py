"""A model compares answers by written principles: AI feedback where people would rank.

Every two different candidates for a prompt are asked about in both orders, by principles drawn for it. A verdict that
changes with the order is a tie (or, with `verdict = "mean"`, the mean of both decides), and how often the first place
wins is reported. What comes out are rankings of two that say whose they are (`source = "ai"`, labeler `ai:MODEL`), for
`palate reward` and `palate dpo`.

Left out: answers shown all at once, and the model's certainty as a soft label (it is kept in `verdicts.jsonl`).

Bai et al. 2022 (arXiv 2212.08073), section 4. Run it: `palate judge recipes/judge.toml`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from palate.corpus import Read, read_candidates, read_rankings
from palate.disk import append_text, write_text
from palate.errors import DataError
from palate.evals.report import Report
from palate.intervals import Estimate
from palate.lm.encode import usable_prompts
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Sketch, load_language_model, sketch_model
from palate.recipe import Data, JudgeRecipe
from palate.records import Candidates, Ranking
from palate.rewards.judges.constitutions import read_constitution
from palate.rewards.judges.judge_model import JudgeModel
from palate.rewards.judges.local_judge import LocalJudge
from palate.rewards.judges.questions import LETTERS
from palate.run.directory import Run
from palate.run.trackers import showing
from palate.stages.ai_feedback.asking import Matter, elsewhere, matters_of, spent
from palate.stages.ai_feedback.both_orders import Judged
from palate.stages.ai_feedback.calibrated import add_calibrated, calibrated, check_category, numbers_of, pairs_of
from palate.stages.ai_feedback.judge_report import add_parts, figures, metrics, totals
from palate.stages.common import finish_run, say_chat
from palate.stages.estimate.expected import asked, sampled
from palate.stages.estimate.fitting import expect
from palate.stages.sample import read_lines

QUESTIONS_PER_STEP = 64
"""Asked between two lines of progress, or a few more, since a prompt is never divided; no verdict depends on it."""


def judge(recipe: JudgeRecipe, run: Run) -> None:
    """Write ``rankings.jsonl``, and ``verdicts.jsonl``, a line per prompt with all that was asked and answered."""
    constitution = read_constitution(recipe.constitution)
    data = read_candidates(recipe.candidates)
    run.add_inputs({"candidates": data.files, "constitution": constitution.version})
    check_category(data.records, recipe.category)
    pairs = pairs_of(data.records) if recipe.win_rate_of_first else []
    matters = matters_of(data, constitution, principles=recipe.principles_per_pair, seed=recipe.seed)
    say_read(run, data, matters)
    people = rankings_of(run, recipe.people) if recipe.people else []
    recipe, matters, model = opened(recipe, run, matters)

    parts = list(steps_of(matters))
    verdicts, rankings = run.directory / "verdicts.jsonl", run.directory / "rankings.jsonl"

    def as_rankings(judged: Sequence[Judged]) -> str:
        made = (each.rankings(model=recipe.model, constitution=constitution.version) for each in judged)
        return "".join(ranking.to_json() + "\n" for each in made for ranking in each)

    beginning = True
    for step in run.steps(len(parts), every=1, keep=1, state={}):
        if beginning:  # after a resume, the lines of a step that was cut short are written again
            kept = read_lines(verdicts)[: sum(map(len, parts[:step]))]
            write_text(verdicts, "".join(kept))
            write_text(rankings, as_rankings([Judged.model_validate_json(line) for line in kept]))
            beginning = False
        before = model.used()
        choices = iter(model.choose([question for matter in parts[step] for question in matter.questions()]))
        judged = [matter.judged(choices, recipe.verdict) for matter in parts[step]]
        append_text(verdicts, "".join(each.to_json() + "\n" for each in judged))
        append_text(rankings, as_rankings(judged))
        run.log(step, metrics(judged) | spent(before, model.used()))

    written = [Judged.model_validate_json(line) for line in read_lines(verdicts)]
    found = figures(written, people, model=recipe.model, seed=recipe.seed)
    run_numbers = {"left_out": data.rejected.total, **totals(run.directory / "metrics.jsonl")}
    if not people:
        finish_run(run, found.numbers | run_numbers, extra=lambda report: add_parts(report, found, written))
        return
    by_model = [each for item in written for each in item.rankings(model=recipe.model, constitution="")]
    beside = calibrated(by_model, people, pairs, category=recipe.category, seed=recipe.seed)

    def parts_of_page(report: Report) -> None:
        add_parts(report, found, written)
        longer = (found.numbers[f"longer_preferred{end}"] for end in ("", "_low", "_high"))
        add_calibrated(report, beside, Estimate(*longer))

    finish_run(run, found.numbers | numbers_of(beside) | run_numbers, extra=parts_of_page)


def steps_of(matters: Sequence[Matter]) -> Iterator[list[Matter]]:
    """Prompts in their order, enough of them for a step each time."""
    part: list[Matter] = []
    for matter in matters:
        part.append(matter)
        if sum(2 * len(each.asked) for each in part) >= QUESTIONS_PER_STEP:
            yield part
            part = []
    if part:
        yield part


def say_read(run: Run, data: Read[Candidates], matters: Sequence[Matter]) -> None:
    """What of the data is not used, and what is asked of the rest.

    Raises:
        DataError: no record has two answers.
    """
    for line in (*data.remarks, *str(data.rejected).splitlines()):
        run.note(line)
    if not matters:
        raise DataError("nothing to compare: no record has two different answers", path=next(iter(data.files)))
    num_asked = sum(len(matter.asked) for matter in matters)
    run.say(f"{len(matters):,} prompts; {2 * num_asked:,} questions, each pair in both orders")


def rankings_of(run: Run, data: Data) -> list[Ranking]:
    """People's; a model's are left out and counted."""
    read = read_rankings(data)
    run.add_inputs({"people": read.files})
    read.reject([(each, "a model's judgement, no person's") for each in read.records if each.source == "ai"])
    for line in (*read.remarks, *str(read.rejected).splitlines()):
        run.note(f"people: {line}")
    return [each for each in read.records if each.source != "ai"]


def opened(recipe: JudgeRecipe, run: Run, matters: list[Matter]) -> tuple[JudgeRecipe, list[Matter], JudgeModel]:
    """The model that is asked, and what it can be asked; the recipe with a number where it said ``auto``."""
    seed, samples = recipe.seed, recipe.samples
    if recipe.endpoint is not None:
        num_questions = 2 * max(1, samples) * sum(len(matter.asked) for matter in matters)
        model = elsewhere(
            run, recipe.endpoint, recipe.model, recipe.sampling, seed=seed, samples=samples, num_questions=num_questions
        )
        return recipe, matters, model

    sketch = sketch_model(recipe.model, LanguageModel, chat_template=recipe.chat_template, precision=recipe.precision)
    room = recipe.sampling.max_new_tokens if samples else longest_letter(sketch)
    matters, length = that_fit(run, sketch, matters, room=room, max_left_out=recipe.max_left_out)
    lengths = [[each for matter in part for each in length[matter.prompt.id]] for part in steps_of(matters)]
    recipe = expect(
        run,
        recipe,
        sketch.device,
        lambda recipe: (
            sampled(
                [sketch],
                [length for step in lengths for length in step],
                recipe.sampling,
                num_responses=samples,
                at_once=max(map(len, lengths)),
            )
            if samples
            else asked(sketch, lengths, num_answers=len(LETTERS), max_tokens=recipe.microbatch_tokens)
        ),
    )
    loaded = load_language_model(recipe.model, chat_template=recipe.chat_template, precision=recipe.precision)
    run.add_inputs({"model": loaded.weights})
    max_tokens = recipe.microbatch_tokens
    judge = LocalJudge(loaded, recipe.sampling, seed=seed, engine=recipe.engine, samples=samples, max_tokens=max_tokens)
    return recipe, matters, judge


def longest_letter(sketch: Sketch[LanguageModel]) -> int:
    """Tokens of an answer of one letter."""
    return max(len(sketch.chat.beginning_tokens(letter)) for letter in LETTERS)


def that_fit(
    run: Run, sketch: Sketch[LanguageModel], matters: Sequence[Matter], *, room: int, max_left_out: float
) -> tuple[list[Matter], dict[str, list[int]]]:
    """Without the pairs whose questions are too long for the model; and by prompt the lengths of those that are not.

    Args:
        room: tokens that are left for the answer.

    Raises:
        DataError: too many pairs are left out, or all of them.
    """
    found: list[Matter] = []
    lengths: dict[str, list[int]] = {}
    reasons: Counter[str] = Counter()
    with showing("prompts") as show:
        for number, matter in enumerate(matters):
            show(number, len(matters))
            usable = usable_prompts(
                sketch.chat,
                list(matter.questions()),
                max_length=sketch.model.context - room,
                limit="the model's context less the answer",
            )
            found.append(matter.without({item.index for item in usable.left_out}))
            reasons.update(item.reason for item in usable.left_out)
            lengths[matter.prompt.id] = list(usable.lengths)
    say_chat(run, sketch.chat, ())
    count = sum(matter.left_out for matter in found)
    total = count + sum(len({pair for pair, _ in matter.asked}) for matter in found)
    if count:
        run.note(f"pairs left out {count} of {total}: {reasons.most_common(1)[0][0]}")
    if count > max_left_out * total or count == total:
        advice = f"set max_left_out = {math.ceil(100 * count / total) / 100:g}, or " if count < total else ""
        raise DataError(
            f"{count} of {total} pairs cannot be asked about, more than max_left_out = {max_left_out:g} allows; most "
            f"often: {reasons.most_common(1)[0][0]}: {advice}take a model with a longer context"
        )
    return found, lengths
