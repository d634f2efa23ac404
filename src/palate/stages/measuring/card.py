"""A report card: two models on the same questions, texts and prompts; what got better, what got worse, how sure.

Every section reads its file into items (`evals/protocols/`), both models answer them (`evals/asking/`), one model in
memory at a time, and the scores are compared item by item (`evals/card/`). What a model has answered is kept in the
cache and not asked again, whichever run asks; so a run that was stopped goes on where it was, and the next model is
compared with the same baseline in half the time.

Judges come last, when both models have answered (`card_judges.py`).

Beside a win rate stands how far both have gone from a common start, in nats (`card_distance.py`).

Left out: few-shot examples, and tasks of lm-evaluation-harness that are not here; those run by its adapter
(`evals/asking/harness_adapter.py`).

Run it: `palate eval recipes/card.toml --set model=... baseline=...`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from palate.corpus.containers.files import sha256
from palate.errors import DataError
from palate.evals.asking.answering import Answered, Task, Terms, answered, prompts_of, task, window_of
from palate.evals.asking.likelihoods import laid_out
from palate.evals.asking.model_identity import reading
from palate.evals.card.card_page import Part, describe
from palate.evals.card.compared import Row, rows_of
from palate.evals.card.distances import Distances
from palate.evals.page import Report
from palate.evals.protocols.all_protocols import PROTOCOLS
from palate.evals.protocols.items import Item, Likelihood, Protocol, Said, Scores
from palate.evals.protocols.wins import EVEN, Duel
from palate.lm.model import LanguageModel, ScalarModel
from palate.lm.sources.whereabouts import cache_directory
from palate.lm.sources.zoo import Sketch, load_language_model, sketch_model
from palate.randomness import permutation
from palate.recipe import CardRecipe, CardSection, Reward
from palate.run.directory import Run
from palate.stages.common import sharing
from palate.stages.estimate.expected import measured, one_after_the_other, scored, sketch_rewards
from palate.stages.estimate.fitting import expect
from palate.stages.estimate.workload import Workload
from palate.stages.measuring.card_distance import Start, distances, start_of
from palate.stages.measuring.card_judges import (
    at_equal_length,
    by_judge,
    by_rankings,
    by_reward_model,
    judge_of,
    said_of,
    unanswered,
    with_outcomes,
)
from palate.stages.measuring.card_pairs import PairJudge, remarks_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A section and the items that are asked.

    Attributes:
        total: items in its file.
        left_out: items that a model has no room for.
        remarks: what else is to be said of it.
        numbers: of how it was judged, by name.
    """

    section: CardSection
    protocol: Protocol
    items: Sequence[Item]
    total: int
    left_out: int = 0
    remarks: tuple[str, ...] = ()
    numbers: Mapping[str, float | None] = field(default_factory=dict)


def report_card(recipe: CardRecipe, run: Run) -> None:
    """Ask, compare, and write the page."""
    names = models_of(recipe)
    sketches = {
        key: sketch_model(name, LanguageModel, chat_template=template, precision=recipe.precision)
        for key, (name, template) in names.items()
    }
    start = start_of(recipe, run, sketches)
    files = [path for section in recipe.sections for path in (section.path, section.control) if path]
    run.add_inputs({"data": {path: sha256_of(path) for path in files}})
    asked = [choose(section, form=recipe.form, seed=recipe.seed) for section in recipe.sections]
    answering = {key: sketch for key, sketch in sketches.items() if key != "reference"}
    contexts = {key: each.model.context for key, each in answering.items()}
    reader = sketches[start.key].model.context if start else float("inf")  # of all responses
    sections, tasks = with_room(
        {each.section.protocol: each for each in asked}, tasks_of_all(asked, answering, reader, terms_of(recipe))
    )
    pairs = by_pairs_of(recipe, run, sections)
    recipe = expect(
        run,
        recipe,
        sketches["model"].device,
        lambda recipe: one_after_the_other(
            asking_takes(recipe, sketches, tasks, start) + judges_take(recipe, tasks),
            notes=() if pairs is None else (pairs.note,),
        ),
    )
    found: dict[str, dict[str, list[Answered]]] = {}
    weights: dict[str, str] = {}
    cache, gone = cache_directory() / "answers", None
    for key in sorted(names, key=lambda key: start is not None and key == start.key):  # the start is the last
        name, template = names[key]
        loaded = load_language_model(name, chat_template=template, precision=recipe.precision, settle=sharing([]))
        run.add_inputs({key: loaded.weights})
        weights[key] = loaded.weights
        if key in tasks:
            found[key] = answered(loaded, tasks[key], terms_of(recipe), cache)
        if start is not None and key == start.key:
            said = {each: of_model["win_rate"] for each, of_model in found.items()}
            chats = {each: sketch.chat for each, sketch in answering.items()}
            gone = distances(recipe, start, loaded, chats, sections["win_rate"].items, said, weights, cache)
        del loaded  # before the next is read
    after, before = found["model"], found.get("baseline")
    judgements = judge(recipe, run, sections, after, before, weights, pairs)
    windows = {key: window_of(terms_of(recipe), context) for key, context in contexts.items()}
    parts = {
        name: part(each, name, after, before, remarks_on(each, name, tasks, windows, recipe.window))
        for name, each in sections.items()
    }
    rows = rows_of(
        {name: each.protocol for name, each in sections.items()},
        {name: each.after[0] for name, each in parts.items()},
        None if before is None else {name: [each.scores for each in items] for name, items in before.items()},
        seed=recipe.seed,
    )
    judging = {f"judge_{name}": value for each in sections.values() for name, value in each.numbers.items()}
    write(recipe, run, parts, [*rows, *judgements], gone, judging)


def models_of(recipe: CardRecipe) -> dict[str, tuple[str, str]]:
    """Those that are loaded, each with its chat template; a reference that is one of the two is not loaded twice."""
    found = {"model": (recipe.model, recipe.chat_template)}
    if recipe.baseline:
        found["baseline"] = (recipe.baseline, recipe.baseline_chat_template)
    if recipe.reference not in ("", recipe.model, recipe.baseline):
        found["reference"] = (recipe.reference, "")
    return found


def asking_takes(
    recipe: CardRecipe,
    sketches: Mapping[str, Sketch[LanguageModel]],
    tasks: Mapping[str, Mapping[str, Task]],
    start: Start | None,
) -> list[Workload]:
    """What each model computes: its answers, and the start what others said."""
    found = [
        measured(
            sketches[key],
            laid_out([pair for each in of_model.values() for pair in each.longest]),
            prompts=[each for task in of_model.values() for each in task.prompt_lengths],
            sampling=recipe.sampling,
            num_responses=recipe.responses_per_prompt,
            max_tokens=recipe.microbatch_tokens,
            tokens=tokens_in(of_model),
        )
        for key, of_model in tasks.items()
    ]
    if start is not None:
        longest = recipe.sampling.max_new_tokens
        lengths = [
            each for key, of_model in tasks.items() if key != start.key for each in of_model["win_rate"].prompt_lengths
        ]
        pairs = [([0] * length, [0] * longest) for length in sorted(lengths)[-recipe.responses_per_prompt :]]
        found.append(
            measured(
                sketches[start.key],
                laid_out(pairs),
                prompts=(),
                sampling=recipe.sampling,
                num_responses=recipe.responses_per_prompt,
                max_tokens=recipe.microbatch_tokens,
                tokens=sum(length + recipe.responses_per_prompt * longest for length in lengths),
                has_twin=True,
            )
        )
    return found


def tokens_in(tasks: Mapping[str, Task]) -> int:
    """That a model computes; a prompt that several sections have is responded to once."""
    return sum(
        {
            ("prompts" if task.asks == "prompts" else name, key): cost
            for name, task in tasks.items()
            for key, cost in zip(task.keys, task.costs, strict=True)
        }.values()
    )


def judges_take(recipe: CardRecipe, of_models: Mapping[str, Mapping[str, Task]]) -> list[Workload]:
    """What the recipe's judge and the reward model compute, each by itself."""
    tasks = of_models["model"]
    found = []
    here = recipe.judge is not None and recipe.judge.endpoint is None
    if here and recipe.judge is not None and (sketches := sketch_rewards((recipe.judge,), recipe.precision)):
        found.append(
            scored(
                sketches,
                tasks["win_rate"].prompt_lengths,
                num_responses=2 * recipe.responses_per_prompt,
                longest=recipe.sampling.max_new_tokens,
                max_tokens=recipe.microbatch_tokens,
            )
        )
    if recipe.reward_model:
        lengths = [len(context) + len(text) for pairs in tasks["hallucination"].pairs for context, text in pairs]
        sketches = [sketch_model(recipe.reward_model, ScalarModel, precision=recipe.precision)]
        found.append(scored(sketches, lengths, num_responses=1, longest=1, max_tokens=recipe.microbatch_tokens))
    return found


def judge(
    recipe: CardRecipe,
    run: Run,
    sections: dict[str, Chosen],
    after: dict[str, list[Answered]],
    before: dict[str, list[Answered]] | None,
    weights: Mapping[str, str],
    pairs: PairJudge | None,
) -> list[Row]:
    """Fill in what judges make of the answers; and rows of what has no before and after."""
    duels: dict[str, Sequence[Duel]] = {}
    rows = []
    if recipe.judge is not None and before is not None:
        chosen = sections["win_rate"]
        if pairs is None:
            source = judge_of(recipe.judge, recipe.precision, recipe.microbatch_tokens)
            run.add_inputs({"judge": source.hashes})
            fought: Sequence[Duel] = by_judge(source, chosen.items, after["win_rate"], before["win_rate"])
        else:
            fought, chosen = compared(pairs, run, chosen, after["win_rate"], before["win_rate"])
        kept = [place for place, each in enumerate(fought) if len(each.outcomes)]
        sections["win_rate"] = replace(chosen, items=[chosen.items[place] for place in kept])
        duels["win_rate"] = [fought[place] for place in kept]
        ours, theirs = ([found["win_rate"][place] for place in kept] for found in (after, before))
        after["win_rate"] = with_outcomes(ours, [each.scores for each in duels["win_rate"]])
        before["win_rate"] = with_outcomes(theirs, [EVEN] * len(kept))
    if "judgements" in sections and before is not None:
        section = sections["judgements"].section
        of_both = weights["model"], weights["baseline"]
        fought, total = by_rankings(Path(section.path), *of_both, limit=section.limit, seed=recipe.seed)
        duels["judgements"] = fought
        after["judgements"], before["judgements"] = unanswered(fought), unanswered(fought, EVEN)
        sections["judgements"] = replace(sections["judgements"], items=[_JUDGED] * len(fought), total=total)
    for name, fought in duels.items():
        rows += at_equal_length(name, sections[name].protocol.title, fought, seed=recipe.seed)
    if recipe.reward_model:
        chosen = sections["hallucination"]
        source = judge_of(Reward(model=recipe.reward_model), recipe.precision, recipe.microbatch_tokens)
        run.add_inputs({"reward_model": source.hashes})
        scores = [each.scores for each in after["hallucination"]]
        title = chosen.protocol.title
        rows.append(
            by_reward_model(source, chosen.items, scores, section="hallucination", title=title, seed=recipe.seed)
        )
    return rows


def by_pairs_of(recipe: CardRecipe, run: Run, sections: Mapping[str, Chosen]) -> PairJudge | None:
    """The judge, where it is a model elsewhere; what is wrong with it is found before the models are asked."""
    if recipe.judge is None or recipe.judge.endpoint is None:
        return None
    count = len(sections["win_rate"].items)
    return PairJudge(recipe.judge, run, seed=recipe.seed, num_prompts=count, num_responses=recipe.responses_per_prompt)


def compared(
    judge: PairJudge, run: Run, chosen: Chosen, after: Sequence[Answered], before: Sequence[Answered]
) -> tuple[Sequence[Duel], Chosen]:
    """What it made of every two responses, and the section with what is to be said of that."""
    ours, theirs = ([[each.text for each in said_of(answers)] for answers in found] for found in (after, before))
    found = judge.compare(run, prompts_of(chosen.items), ours, theirs)
    remarks = (*chosen.remarks, *remarks_of(found, judge.settings.model))
    return found.duels, replace(chosen, remarks=remarks, numbers=found.numbers)


_JUDGED = Item(asked=(), score=lambda answers: {})
"""A prompt of judgements: nothing was asked of the models here."""


def terms_of(recipe: CardRecipe) -> Terms:
    """How models are asked."""
    return Terms(
        window=recipe.window,
        sampling=recipe.sampling,
        num_responses=recipe.responses_per_prompt,
        seed=recipe.seed,
        max_tokens=recipe.microbatch_tokens,
    )


def sha256_of(path: str) -> str:
    """Of the file; empty if it cannot be read, which is said when it is."""
    return sha256(Path(path)) if Path(path).is_file() else ""


def choose(section: CardSection, *, form: str, seed: int) -> Chosen:
    """A section's items, or those of them that the form or its limit takes, in the file's order.

    A smaller choice is part of every larger one, so that the full form asks nothing twice.
    """
    protocol = PROTOCOLS[section.protocol]
    files = [protocol.read(Path(section.path))]
    if protocol.read_control is not None:
        files.append(protocol.read_control(Path(section.control)))
    chosen = []
    for items in files:
        count = section.limit or (protocol.quick if form == "quick" else len(items))
        places = sorted(permutation(len(items), seed, "card", protocol.as_in or section.protocol)[:count].tolist())
        chosen += [items[place] for place in places]
    return Chosen(section=section, protocol=protocol, items=chosen, total=sum(map(len, files)))


def tasks_of_all(
    asked: Sequence[Chosen], models: Mapping[str, Sketch[LanguageModel]], reader: float, terms: Terms
) -> dict[str, dict[str, Task]]:
    """What each model is asked, by section; two models that read alike are asked the same, made once.

    Args:
        reader: the context of the model that reads all responses.
    """
    known: dict[tuple[str, float], dict[str, Task]] = {}
    found = {}
    for key, each in models.items():
        context = each.model.context
        alike = reading(each.chat), context
        if alike not in known:
            rooms = {"prompts": min(context, reader)}
            known[alike] = {
                chosen.section.protocol: task(asks, chosen.items, each.chat, rooms.get(asks, context), terms)
                for chosen in asked
                if (asks := chosen.protocol.asks) != "nothing"
            }
        found[key] = known[alike]
    return found


def with_room(
    sections: Mapping[str, Chosen], tasks: Mapping[str, Mapping[str, Task]]
) -> tuple[dict[str, Chosen], dict[str, dict[str, Task]]]:
    """Without the items that a model has no room for; the other model is not asked them either.

    Raises:
        DataError: nothing is left of a section.
    """
    kept, left = dict(sections), {key: dict(of_model) for key, of_model in tasks.items()}
    for name, chosen in sections.items():
        out = {place for of_model in tasks.values() if name in of_model for place in of_model[name].roomless}
        if not out:
            continue
        if len(out) == len(chosen.items):
            raise DataError(
                f"{name}: a model's context has no room for any of its {len(out)} items: leave the section out"
            )
        items = [item for place, item in enumerate(chosen.items) if place not in out]
        kept[name] = replace(chosen, items=items, left_out=len(out))
        for of_model in left.values():
            of_model[name] = of_model[name].without(out)
    return kept, left


def remarks_on(
    chosen: Chosen, name: str, tasks: Mapping[str, Mapping[str, Task]], windows: Mapping[str, int], window: int
) -> list[str]:
    """What was left out of a section, and which questions a model's context is too short for.

    Args:
        windows: of documents, by model.
        window: that the recipe asks for.
    """
    kind = "prompts that leave no room" if chosen.protocol.asks == "prompts" else "items that a context has no room for"
    remarks = [f"{chosen.left_out} {kind} are left out."] if chosen.left_out else []
    remarks += chosen.remarks
    cut = {key: sum(of_model[name].cut) for key, of_model in tasks.items() if name in of_model}
    for count in sorted({*cut.values()} - {0}):
        whose = " and ".join(f"the {key}" for key in cut if cut[key] == count)
        remarks.append(
            f"The beginning of {count} of {len(chosen.items)} contexts is cut for {whose}: they are too long."
        )
    if chosen.protocol.asks == "documents" and min(windows.values()) < window:
        told = ", ".join(f"the {key} {length:,}" for key, length in windows.items())
        remarks.append(f"Tokens in a row, {window:,} where a context has room: {told}.")
    return remarks


def part(
    chosen: Chosen,
    name: str,
    after: Mapping[str, Sequence[Answered]],
    before: Mapping[str, Sequence[Answered]] | None,
    remarks: Sequence[str],
) -> Part:
    """A section for the page."""
    return Part(
        protocol=chosen.protocol,
        path=chosen.section.path,
        items=chosen.items,
        total=chosen.total,
        after=_apart(after[name]),
        before=None if before is None else _apart(before[name]),
        remarks=remarks,
    )


def _apart(found: Sequence[Answered]) -> tuple[list[Scores], list[Sequence[Likelihood | Said]]]:
    return [each.scores for each in found], [each.answers for each in found]


def write(
    recipe: CardRecipe,
    run: Run,
    parts: Mapping[str, Part],
    rows: Sequence[Row],
    gone: Distances | None,
    judging: Mapping[str, float | None],
) -> None:
    """The page, and the figures of the run."""
    for each in parts.values():
        for remark in each.remarks:
            run.note(f"{each.protocol.title}: {remark}")
    questions = sum(len(each.items) for each in parts.values())
    against = f"against {recipe.baseline}, " if recipe.baseline else ""
    report = Report(f"Report card: {recipe.model}", f"{against}{recipe.form} form, {questions:,} items")
    describe(report, parts, rows, gone, seed=recipe.seed)
    report.write(run.directory)
    run.finish({f"{row.section}_{row.measure.name}": row.after.value for row in rows} | dict(judging))
