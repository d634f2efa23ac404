"""Where a step's responses come from: drawn when they are wanted, or one step ahead.

    step by step       give the engine the weights, draw, learn
    one step ahead     take what was drawn, give the engine the weights, begin to draw for the next step, learn

One step ahead the weights that draw are exactly one step older than those that learn from it (none in the first step),
whether anything is gained by it or not: an engine in this process draws in order, servers draw while the policy trains.
The difference is corrected as that of any sampler that is not the trainer (`mismatch.py`). What was drawn and not
learned from yet is part of a checkpoint, so a resumed run learns from the very tokens it would have learned from.

Left out: more than one step. Noukhovitch et al. 2024 (arXiv 2410.18252) for what one step costs, which is little.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from palate.lm.chat import Chat
from palate.lm.model import LanguageModel
from palate.recipe import Sampling
from palate.records import Prompt
from palate.rollout.drawing import Drawn
from palate.rollout.engine import Rollout, RolloutEngine
from palate.rollout.local import rollout_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How a step's responses are drawn, whichever step it is.

    Attributes:
        prompts: of a step.
        generate: responses to prompts; for the step that they are drawn for.
        steps: of the whole run.
    """

    engine: RolloutEngine
    policy: LanguageModel
    prompts: Callable[[int], Sequence[Prompt]]
    generate: Callable[[Sequence[Prompt], int], Rollout]
    steps: int

    def now(self, step: int) -> Rollout:
        """With the weights that the policy has."""
        self.engine.load_weights(self.policy)
        return self.generate(self.prompts(step), step)


class StepByStep:
    """Every rollout by the weights that learn from it."""

    def __init__(self, drawing: Drawing) -> None:
        self.drawing = drawing

    def rollout(self, step: int) -> Rollout:
        """Of this step."""
        return self.drawing.now(step)


class OneStepAhead:
    """Every rollout by the weights of the step before.

    Args:
        chat, sampling: of the rollouts, to read one back from a checkpoint.
        meanwhile: the engine may draw while the policy's weights change, as it has copies of them.
    """

    def __init__(self, drawing: Drawing, chat: Chat, sampling: Sampling, *, meanwhile: bool) -> None:
        self.drawing, self.chat, self.sampling, self.meanwhile = drawing, chat, sampling, meanwhile
        self._next: tuple[int, Future[Rollout]] | None = None

    def rollout(self, step: int) -> Rollout:
        """Of this step; that of the next one is drawn from now on."""
        if self._next is not None and self._next[0] == step:
            found = replace(self._next[1].result(), staleness=1)
            self.drawing.engine.load_weights(self.drawing.policy)
        else:
            found = self.drawing.now(step)
        self._next = None if step + 1 == self.drawing.steps else (step + 1, self._begun(step + 1))
        return found

    def _begun(self, step: int) -> Future[Rollout]:
        drawn, prompts = Future[Rollout](), self.drawing.prompts(step)
        if not self.meanwhile:
            drawn.set_result(self.drawing.generate(prompts, step))
            return drawn

        def draw() -> None:
            try:
                drawn.set_result(self.drawing.generate(prompts, step))
            except BaseException as error:  # for whoever asks for the result
                drawn.set_exception(error)

        threading.Thread(target=draw, daemon=True, name="one step ahead").start()
        return drawn

    def state_dict(self) -> dict[str, str]:
        """What was drawn and nobody has learned from; waited for, if it is still being drawn."""
        if self._next is None:
            return {"next": ""}
        step, drawn = self._next
        rollout = drawn.result()
        logprobs = [row[mask].tolist() for row, mask in zip(rollout.logprobs, rollout.sequences.mask, strict=True)]
        told = {
            "step": step,
            "responses": rollout.sequences.responses(),
            "logprobs": logprobs,
            "ended": rollout.ended.tolist(),
            "weights": rollout.weights,
            "retries": rollout.retries,
        }
        return {"next": json.dumps(told)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        if not state["next"]:
            self._next = None
            return
        told = json.loads(state["next"])
        prompts = list(self.drawing.prompts(told["step"]))
        each = len(told["responses"]) // len(prompts)
        responses = [
            Drawn(number // each, (), tokens, logprobs, ended)
            for number, (tokens, logprobs, ended) in enumerate(
                zip(told["responses"], told["logprobs"], told["ended"], strict=True)
            )
        ]
        tokens = [self.chat.prompt_tokens(prompt) for prompt in prompts]
        rollout = rollout_of(self.drawing.policy, self.chat, prompts, tokens, responses, self.sampling)
        drawn = Future[Rollout]()
        drawn.set_result(replace(rollout, weights=told["weights"], retries=told["retries"]))
        self._next = (told["step"], drawn)
