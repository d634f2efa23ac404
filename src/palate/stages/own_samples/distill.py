"""On-policy distillation: the policy is told by a teacher, token by token, how it should have gone on.

    1. sample    the policy answers prompts, K responses each
    2. choose    of several teachers, for each prompt, the one whose own answer the rewards judge best
    3. learn     for every token of the policy's responses: KL(policy || teacher), over the whole vocabulary

The policy learns on what it says itself, so that it is told what to do after its own mistakes; a teacher's answers
(`best_of_n`, then `sft`) show only what comes after the teacher's own words. The divergence is exact for each token and
carries the gradient; none flows through the sampling, as in the paper.

Left out: other divergences than the reverse one, a share of the teacher's or a data set's own sequences, and teachers
with another vocabulary.

Agarwal et al. 2023 (GKD, arXiv 2306.13649). Run it: `palate distill recipes/distill.toml`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from palate.errors import ModelError
from palate.lm.chat import Chat
from palate.lm.model import LanguageModel, Model
from palate.lm.optim import Optimizer
from palate.lm.sources.zoo import Loaded, load_language_model
from palate.objectives.losses import distillation_loss
from palate.recipe import DistillRecipe
from palate.records import Prompt
from palate.rewards.mix import Mix
from palate.rollout import engines
from palate.rollout.engine import Rollout
from palate.run.directory import Run
from palate.stages.common import combined, finish_run, floats, loading, prepare, sharing, spread, write_model
from palate.stages.reinforcement.actors import foretold
from palate.stages.reinforcement.mismatch import seen_by_trainer
from palate.stages.reinforcement.step import minibatches, prompts_of_step
from palate.stages.reinforcement.watching import mean_of_updates, sample_rows


def train(recipe: DistillRecipe, run: Run) -> None:
    """Teach ``recipe.model`` what its teachers would say and write it to ``run``."""
    recipe, asked = foretold(recipe, run, prompts_of_step, minibatches)
    with loading(recipe.cluster):
        school = load_school(recipe, run)
    spread(run, recipe.cluster, school.models, asked_again=school.teachers)
    policy, max_tokens = school.loaded.model, recipe.microbatch_tokens
    order, sampling = ((recipe.seed_of(source), recipe.stage) for source in ("order", "sampling"))
    engine = engines.make_engine(recipe.engine, policy, school.loaded.chat)
    optimizer = Optimizer(policy, recipe.optimizer, recipe.steps * recipe.epochs * recipe.minibatches, name="policy")

    for step in run.steps(
        recipe.steps, every=recipe.checkpoint_every, keep=recipe.keep_checkpoints, state={"policy": optimizer}
    ):
        begun = time.perf_counter()
        prompts = prompts_of_step(asked.prompts, step, count=recipe.prompts_per_step, key=order)
        engine.load_weights(policy)
        rollout = engine.generate(
            prompts, recipe.sampling, num_responses=recipe.responses_per_prompt, key=(*sampling, step)
        )
        sampled = time.perf_counter()
        scores = teacher_scores(school, prompts, recipe, step)
        teacher_of = scores.argmax(0).repeat_interleave(recipe.responses_per_prompt).to(policy.device)  # [B]
        chosen = time.perf_counter()

        trunk = policy.trunk(rollout.sequences, max_tokens=max_tokens)
        seen = seen_by_trainer(rollout, policy, trunk, recipe.engine, max_tokens=max_tokens, step=step)
        rollout = seen.rollout
        updates: list[tuple[int, dict[str, float]]] = []
        for epoch in range(recipe.epochs):
            for minibatch in minibatches(
                rollout.sequences, recipe.minibatches, key=(*order, "minibatches", step, epoch)
            ):
                num_tokens, computed = int(minibatch.mask.sum()), []
                for number, teacher in enumerate(school.teachers):
                    rows = (teacher_of[minibatch.rows] == number).nonzero()[:, 0]
                    for microbatch in minibatch.select(rows).microbatches(max_tokens) if len(rows) else ():
                        kl = policy.kl(microbatch, teacher, temperature=rollout.temperature, trunk=trunk)
                        loss, numbers = distillation_loss(kl, microbatch.mask, denominator=num_tokens)
                        loss.backward()
                        computed.append(numbers)
                updates.append((num_tokens, floats(combined(computed)) | optimizer.step(step)))

        metrics = measure(rollout) | mean_of_updates(updates) | {"data/left_out": float(asked.left_out)} | seen.metrics
        if len(school.teachers) > 1:
            metrics |= {
                "distill/teacher_score": float(scores.amax(0).mean()),
                "distill/first_teacher": float((scores.argmax(0) == 0).double().mean()),
                "time/score_s": chosen - sampled,
            }
        metrics |= {"time/rollout_s": sampled - begun, "time/step_s": time.perf_counter() - begun}
        run.log(step, metrics)
        run.samples(step, sample_rows(rollout))

    write_model(run, recipe, school.loaded)
    finish_run(run, {"left_out": asked.left_out})


@dataclass(frozen=True, slots=True, kw_only=True)
class School:
    """Who takes part.

    Attributes:
        loaded: the policy with its chat.
        teachers: what it is to become; they learn nothing.
        judge: whose answer is best; None of one teacher alone.
    """

    loaded: Loaded[LanguageModel]
    teachers: list[LanguageModel]
    judge: Mix | None

    @property
    def models(self) -> list[Model]:
        """All of them."""
        judges = [] if self.judge is None else self.judge.learned
        return [self.loaded.model, *self.teachers, *(judge.model for judge in judges)]


def load_school(recipe: DistillRecipe, run: Run) -> School:
    """All of them; what they were made from is noted in the run.

    Raises:
        ModelError: a teacher reads other tokens than the policy, or conversations laid out otherwise.
    """
    loaded = load_language_model(recipe.model, chat_template=recipe.chat_template, precision=recipe.precision)
    prepare(loaded.model, recipe)
    share = sharing([loaded.model])
    teachers = [load_language_model(name, precision=recipe.precision, settle=share) for name in recipe.teachers]
    for teacher in teachers:
        check_teacher(teacher, loaded.chat)
    judge = None
    if len(teachers) > 1:
        judge = Mix(recipe.rewards, precision=recipe.precision, max_tokens=recipe.microbatch_tokens, settle=share)
    run.add_inputs(
        {
            "model": loaded.weights,
            "teachers": {teacher.name: teacher.weights for teacher in teachers},
            "rewards": {} if judge is None else judge.hashes,
        }
    )
    return School(loaded=loaded, teachers=[teacher.model for teacher in teachers], judge=judge)


def check_teacher(teacher: Loaded[LanguageModel], chat: Chat) -> None:
    """Raises:
    ModelError: it does not read the policy's tokens as the policy does.
    """
    if teacher.chat.tokenizer.get_vocab() != chat.tokenizer.get_vocab():
        raise ModelError(f"the teacher {teacher.name} has another vocabulary than the policy: take one of its family")
    if teacher.chat.fingerprint != chat.fingerprint:
        raise ModelError(
            f"the teacher {teacher.name} has another chat template than the policy, whose tokens it is to read: give "
            "the policy the teacher's chat_template"
        )


def teacher_scores(school: School, prompts: Sequence[Prompt], recipe: DistillRecipe, step: int) -> Tensor:
    """[N, P] what each teacher's own answer to each prompt earns; one teacher alone is not asked."""
    if school.judge is None:
        return torch.zeros(1, len(prompts))
    scores = []
    for number, teacher in enumerate(school.teachers):
        key = (recipe.seed_of("sampling"), recipe.stage, "teacher", number, step)
        engine = engines.make_engine(recipe.engine, teacher, school.loaded.chat)
        engine.load_weights(teacher)
        answers = engine.generate(prompts, recipe.sampling, num_responses=1, key=key)
        scores.append(school.judge(answers.prompts, answers.texts, answers.sampled_tokens()))
    return torch.stack(scores)


def measure(rollout: Rollout) -> dict[str, float]:
    """Of the policy's own responses, before anything is learned from them."""
    lengths = rollout.sequences.mask.sum(1).double()
    return {
        "policy/entropy": float(-rollout.logprobs.sum() / lengths.sum()),
        "tokens/response_length": float(lengths.mean()),
        "tokens/truncated": float(1.0 - rollout.ended.double().mean()),
    }
