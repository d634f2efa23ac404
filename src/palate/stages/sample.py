"""Sample K responses per prompt, with full provenance: what people, or simulated labelers, are going to rank.

Run it: `palate sample recipes/sample.toml`.
"""

from __future__ import annotations

from collections.abc import Sequence

from palate.corpus import read_prompts
from palate.lm.model import LanguageModel
from palate.lm.zoo import Loaded, load_language_model
from palate.recipe import SampleRecipe, Sampling
from palate.records import Candidates, Prompt, Provenance, Response
from palate.rollout.local import LocalEngine
from palate.run import Run
from palate.stages.common import finish_run


def train(recipe: SampleRecipe, run: Run) -> None:
    """Write ``candidates.jsonl``, one line per prompt."""
    loaded = load_language_model(recipe.model, precision=recipe.precision)
    prompts = read_prompts(recipe.prompts)
    run.add_inputs({"prompts": prompts.files, "model": loaded.weights})
    candidates = sample(
        loaded, prompts.records, recipe.sampling, num_responses=recipe.responses_per_prompt, seed=recipe.seed
    )
    lines = "".join(item.to_json() + "\n" for item in candidates)
    (run.directory / "candidates.jsonl").write_text(lines, encoding="utf-8")
    responses = [response for item in candidates for response in item.responses]
    cut_off = sum(not response.provenance.ended for response in responses if response.provenance)
    finish_run(run, {"prompts": len(candidates), "responses": len(responses), "truncated": cut_off / len(responses)})


def sample(
    loaded: Loaded[LanguageModel], prompts: Sequence[Prompt], sampling: Sampling, *, num_responses: int, seed: int
) -> list[Candidates]:
    """K responses to each prompt, in the order of the prompts; a function of model, prompt and seed alone."""
    engine = LocalEngine(loaded.model, loaded.chat)
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
