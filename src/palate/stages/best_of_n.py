"""Best of n: sample n responses, keep the one the reward model likes most. Nothing is trained.

Its divergence from the model it samples from is at most ``log n - (n - 1) / n`` nats a response (exactly that when no
two responses score the same), and its win rate against it at most ``n / (n + 1)``. Both are written beside the scores.

Stiennon et al. 2020 (arXiv 2009.01325); Beirami et al. 2024 (arXiv 2401.01879).
Run it: `palate best-of-n recipes/best_of_n.toml`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from palate.corpus import read_prompts
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import load_language_model, sketch_model
from palate.objectives.divergence import best_of_n_kl_bound, best_of_n_win_rate_bound
from palate.recipe import BestOfNRecipe
from palate.records import Demonstration, Prompt, Response
from palate.rewards.mix import Mix
from palate.rollout import engines
from palate.run.directory import Run
from palate.run.trackers import showing
from palate.run.world import world
from palate.stages.common import finish_run, prompts_with_room, sharing
from palate.stages.estimate.expected import judged, sketch_rewards
from palate.stages.estimate.fitting import expect


def choose(recipe: BestOfNRecipe, run: Run) -> None:
    """Write the best response to each prompt to ``responses.jsonl``."""
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
    prompts, judges = roomy.prompts, sketch_rewards(recipe.rewards, recipe.precision)
    recipe = expect(
        run,
        recipe,
        sketch.device,
        lambda recipe: judged(
            [sketch],
            judges,
            roomy.lengths,
            recipe.sampling,
            num_responses=recipe.n,
            max_tokens=recipe.microbatch_tokens,
        ),
    )

    settle = sharing([])
    loaded = load_language_model(
        recipe.model, chat_template=recipe.chat_template, precision=recipe.precision, settle=settle
    )
    rewards = Mix(recipe.rewards, precision=recipe.precision, max_tokens=recipe.microbatch_tokens, settle=settle)
    run.add_inputs({"model": loaded.weights, "rewards": rewards.hashes})
    for source in rewards.learned:
        if not source.reads_like(loaded.chat):
            run.note(f"chat template: that of {source.loaded.name} is another one; it is given what the responses say")

    engine = engines.make_engine(recipe.engine, loaded.model, loaded.chat)
    engine.load_weights(loaded.model)
    key = (recipe.seed, "best_of_n")
    with showing("responses") as show:
        rollout = engine.generate(prompts, recipe.sampling, num_responses=recipe.n, key=key, show=show)
    scores = rewards(rollout.prompts, rollout.texts, rollout.sampled_tokens()).view(-1, recipe.n)
    best = [rollout.texts[row] for row in best_rows(scores)]

    world().once(lambda: write_answers(run, prompts, best), "the responses to be written")
    finish_run(
        run,
        {
            "n": recipe.n,
            "left_out": data.rejected.total,
            "score": float(scores.amax(1).mean()),
            "score_of_one": float(scores.mean()),
            "kl_bound": best_of_n_kl_bound(recipe.n),
            "win_rate_bound": best_of_n_win_rate_bound(recipe.n),
        },
    )


def best_rows(scores: Tensor) -> list[int]:
    """Row of the best response to each prompt, from scores [P, n] of rows in order; the first of equals."""
    first = torch.arange(len(scores)) * scores.shape[1]
    return [int(row) for row in first + scores.argmax(1)]


def write_answers(run: Run, prompts: Sequence[Prompt], texts: Sequence[str]) -> None:
    """``responses.jsonl``: prompt and response."""
    lines = (
        Demonstration(prompt=prompt, response=Response(text=text), author="best of n").to_json() + "\n"
        for prompt, text in zip(prompts, texts, strict=True)
    )
    (run.directory / "responses.jsonl").write_text("".join(lines), encoding="utf-8")
