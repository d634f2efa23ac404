"""A few responses of a step, for a person to read."""

from __future__ import annotations

from torch import Tensor

from palate.rollout.engine import Rollout


def sample_rows(rollout: Rollout, scores: Tensor | None = None, *, count: int = 4) -> list[dict[str, object]]:
    """The first response to each of the first prompts, with its score [B] if there are scores."""
    every = max(1, len(rollout.texts) // count)
    shown: list[dict[str, object]] = []
    for row in range(0, len(rollout.texts), every)[:count]:
        said: dict[str, object] = {"prompt": rollout.prompts[row].text, "response": rollout.texts[row]}
        shown.append(said if scores is None else said | {"score": float(scores[row])})
    return shown
