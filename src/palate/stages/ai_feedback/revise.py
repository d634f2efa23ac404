"""A model answers, criticises its answer by a written principle, and writes it anew: demonstrations without a person.

For every prompt a draft, then in each round a critique by a principle drawn for it, and a revision; each is one turn of
a conversation that goes on. The demonstration keeps all of it in its provenance, and its author is `ai:MODEL`. What was
cut off is not taught (`keep_cut_off`).

Left out: examples before the questions, and a critic other than the writer. Both help small models.

Bai et al. 2022 (arXiv 2212.08073), section 3. Run it: `palate revise recipes/revise.toml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from palate.corpus import Read, read_prompts
from palate.disk import append_text, write_text
from palate.errors import DataError
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Sketch, load_language_model, sketch_model
from palate.recipe import Principle, ReviseRecipe, Sampling
from palate.records import Prompt
from palate.rewards.judges.constitutions import read_constitution, revising
from palate.rewards.judges.judge_model import JudgeModel
from palate.rewards.judges.local_judge import LocalJudge
from palate.run.directory import Run
from palate.stages.ai_feedback.asking import elsewhere, spent
from palate.stages.ai_feedback.judge_report import totals
from palate.stages.ai_feedback.revised import Revised, revise_all
from palate.stages.ai_feedback.revision_report import add_parts, figures, metrics
from palate.stages.common import finish_run, prompts_with_room, say_left_out
from palate.stages.estimate.expected import sampled
from palate.stages.estimate.fitting import expect
from palate.stages.estimate.workload import Workload
from palate.stages.sample import PROMPTS_PER_STEP, read_lines


def revise(recipe: ReviseRecipe, run: Run) -> None:
    """Write ``demonstrations.jsonl``, and ``revisions.jsonl``, a line per prompt, also of those that gave none."""
    constitution = read_constitution(recipe.constitution)
    principles = revising(constitution, recipe.constitution)
    data = read_prompts(recipe.prompts)
    run.add_inputs({"prompts": data.files, "constitution": constitution.version})
    prompts, model = opened(recipe, run, data, principles)

    starts = range(0, len(prompts), PROMPTS_PER_STEP)
    revisions, demonstrations = run.directory / "revisions.jsonl", run.directory / "demonstrations.jsonl"

    def as_demonstrations(revised: Sequence[Revised]) -> str:
        made = (each.demonstration(recipe.model) for each in revised)
        return "".join(demonstration.to_json() + "\n" for demonstration in made if demonstration is not None)

    beginning = True
    for step in run.steps(len(starts), every=1, keep=1, state={}):
        if beginning:  # after a resume, the lines of a step that was cut short are written again
            kept = read_lines(revisions)[: starts[step]]
            write_text(revisions, "".join(kept))
            write_text(demonstrations, as_demonstrations([Revised.model_validate_json(line) for line in kept]))
            beginning = False
        before = model.used()
        revised = revise_all(
            model,
            prompts[starts[step] :][:PROMPTS_PER_STEP],
            principles,
            rounds=recipe.revisions,
            constitution=constitution.version,
            seed=recipe.seed,
            keep_cut_off=recipe.keep_cut_off,
        )
        append_text(revisions, "".join(each.to_json() + "\n" for each in revised))
        append_text(demonstrations, as_demonstrations(revised))
        run.log(step, metrics(revised) | spent(before, model.used()))

    written = [Revised.model_validate_json(line) for line in read_lines(revisions)]
    numbers, reasons = figures(written, seed=recipe.seed)
    for reason, count in reasons.most_common():
        run.note(f"prompts without a demonstration {count}: {reason}")
    run_numbers = {"left_out": data.rejected.total, **totals(run.directory / "metrics.jsonl")}
    finish_run(run, numbers | run_numbers, extra=lambda report: add_parts(report, written))


def opened(
    recipe: ReviseRecipe, run: Run, data: Read[Prompt], principles: Sequence[Principle]
) -> tuple[Sequence[Prompt], JudgeModel]:
    """The prompts that can be answered, and the model that does."""
    plain = without_tools(data)
    if recipe.endpoint is not None:
        say_left_out(run, plain, {}, of=len(plain.records), max_left_out=recipe.max_left_out)
        count = len(plain.records) * (1 + 2 * recipe.revisions)
        model = elsewhere(
            run, recipe.endpoint, recipe.model, recipe.sampling, seed=recipe.seed, samples=0, num_questions=count
        )
        return plain.records, model

    sketch = sketch_model(recipe.model, LanguageModel, chat_template=recipe.chat_template, precision=recipe.precision)
    roomy = prompts_with_room(
        run,
        plain,
        [sketch.chat],
        (sketch.model.context, "the model's context"),
        max_new_tokens=recipe.sampling.max_new_tokens,
        max_left_out=recipe.max_left_out,
    )
    (lengths,) = roomy.lengths
    expect(
        run,
        recipe,
        sketch.device,
        lambda recipe: revised_workload(sketch, lengths, recipe.sampling, principles, rounds=recipe.revisions),
    )
    loaded = load_language_model(recipe.model, chat_template=recipe.chat_template, precision=recipe.precision)
    run.add_inputs({"model": loaded.weights})
    return roomy.prompts, LocalJudge(loaded, recipe.sampling, seed=recipe.seed, engine=recipe.engine)


def without_tools(data: Read[Prompt]) -> Read[Prompt]:
    """The prompts in which no tools are called; the others are counted.

    Raises:
        DataError: there is none.
    """
    data.reject([(prompt, "tools are called: only texts are revised") for prompt in data.records if prompt.has_tools])
    kept = [place for place, prompt in enumerate(data.records) if not prompt.has_tools]
    if not kept:
        raise DataError("tools are called in every prompt: only texts are revised", path=data.places[0][0])
    return replace(
        data, records=tuple(data.records[place] for place in kept), places=tuple(data.places[place] for place in kept)
    )


def revised_workload(
    sketch: Sketch[LanguageModel],
    lengths: Sequence[int],
    sampling: Sampling,
    principles: Sequence[Principle],
    *,
    rounds: int,
) -> Workload:
    """The longest conversation is that of a revision: draft, critique and what is asked for them are all in it."""
    asks = [len(sketch.chat.beginning_tokens(each.critique + each.revise)) for each in principles]
    longest = [length + 2 * sampling.max_new_tokens + max(asks) for length in lengths]
    work = sampled([sketch], longest, sampling, num_responses=1, at_once=PROMPTS_PER_STEP)
    return replace(work, steps=[(1 + 2 * rounds) * tokens for tokens in work.steps])
