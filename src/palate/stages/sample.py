"""Sample K responses per prompt, with full provenance: what people, or simulated labelers, are going to rank.

Run it: `palate sample recipes/sample.toml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from palate.corpus import read_prompts
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded, load_language_model, sketch_model
from palate.recipe import SampleRecipe, Sampling
from palate.records import Candidates, Prompt, Provenance, Response
from palate.rollout import engines
from palate.rollout.engine import RolloutEngine
from palate.run.directory import Run
from palate.stages.common import finish_run, prompts_with_room
from palate.stages.estimate.expected import sampled
from palate.stages.estimate.fitting import expect

PROMPTS_PER_STEP = 32
"""Prompts sampled between two lines of progress; what is sampled does not depend on it."""


def write_candidates(recipe: SampleRecipe, run: Run) -> None:
    """Write ``candidates.jsonl``, one line per prompt."""
    sketch = sketch_model(recipe.model, LanguageModel, chat_template=recipe.chat_template, precision=recipe.precision)
    data = read_prompts(recipe.prompts)
    run.add_inputs({"prompts": data.files})
    roomy = prompts_with_room(
        run,
        data,
        [sketch.chat],
        (sketch.model.context, "the model's context"),
        max_new_tokens=recipe.sampling.max_new_tokens,
        max_left_out=recipe.max_left_out,
    )
    prompts, (lengths,) = roomy.prompts, roomy.lengths
    recipe = expect(
        run,
        recipe,
        sketch.device,
        lambda recipe: sampled(
            [sketch], lengths, recipe.sampling, num_responses=recipe.responses_per_prompt, at_once=PROMPTS_PER_STEP
        ),
    )

    loaded = load_language_model(recipe.model, chat_template=recipe.chat_template, precision=recipe.precision)
    run.add_inputs({"model": loaded.weights})
    engine = engines.make_engine(recipe.engine, loaded.model, loaded.chat)
    engine.load_weights(loaded.model)
    starts = range(0, len(prompts), PROMPTS_PER_STEP)
    path = run.directory / "candidates.jsonl"

    beginning = True
    for step in run.steps(len(starts), every=1, keep=1, state={}):
        if beginning:  # after a resume, the lines of a step that was cut short are written again
            run.rewrite(path.name, "".join(read_lines(path)[: starts[step]]))
            beginning = False
        candidates = sample(
            engine,
            loaded,
            prompts[starts[step] :][:PROMPTS_PER_STEP],
            recipe.sampling,
            num_responses=recipe.responses_per_prompt,
            seed=recipe.seed,
        )
        run.append(path.name, "".join(item.to_json() + "\n" for item in candidates))
        run.log(step, {"tokens/truncated": cut_off(candidates)})

    written = [Candidates.model_validate_json(line) for line in read_lines(path)]
    finish_run(
        run,
        {
            "prompts": len(written),
            "left_out": data.rejected.total,
            "responses": sum(len(item.responses) for item in written),
            "truncated": cut_off(written),
        },
    )


def read_lines(path: Path) -> list[str]:
    """The file's lines with their ends, none if there is no file."""
    return [line + "\n" for line in path.read_text(encoding="utf-8").split("\n")[:-1]] if path.exists() else []


def cut_off(candidates: Sequence[Candidates]) -> float:
    """Share of responses without a stop token."""
    ended = [r.provenance.ended for item in candidates for r in item.responses if r.provenance]
    return 1 - sum(ended) / len(ended)


def sample(
    engine: RolloutEngine,
    loaded: Loaded[LanguageModel],
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    num_responses: int,
    seed: int,
) -> list[Candidates]:
    """K responses to each prompt, in the order of the prompts; a function of model, prompt and seed alone."""
    rollout = engine.generate(prompts, sampling, num_responses=num_responses, key=(seed, "sample"))
    logprobs, ended = rollout.logprobs.sum(1).tolist(), rollout.ended.tolist()

    def response(row: int) -> Response:
        provenance = Provenance(
            model=loaded.name,
            checkpoint=loaded.weights,
            temperature=sampling.temperature,
            max_new_tokens=sampling.max_new_tokens,
            seed=seed,
            sample_index=row % num_responses,
            logprob=logprobs[row],
            ended=ended[row],
        )
        return Response(text=rollout.texts[row], provenance=provenance)

    return [
        Candidates(
            prompt=prompt,
            responses=tuple(response(row) for row in range(first * num_responses, (first + 1) * num_responses)),
        )
        for first, prompt in enumerate(prompts)
    ]
