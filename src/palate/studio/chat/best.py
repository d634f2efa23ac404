"""The best of several responses, or, as a control, one of them at random.

Best of n says what people like more often only if the reward is right about it. So a share of the answers can be taken
by lot instead, without telling the reader; thumbs of both kinds of answers are then compared (`feedback/chat/lots.py`).
Which answer falls to the lot hangs on two numbers that are recorded with it, and on nothing that was drawn or said.

Beside the reward, or in place of one, readers' own principles choose where the workspace has a model that judges by
them (`rewards/judges/reader_principles.py` says how).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from palate.errors import ConflictError
from palate.feedback.chat.conversations import LONGEST_PRINCIPLE, MOST_PRINCIPLES
from palate.randomness import uniforms
from palate.recipe import ReaderJudge, Reward
from palate.records import Fit, Response, Selection
from palate.studio.chat.wire import Scored
from palate.studio.web.workspace import BestOf


def judge_of(best_of: BestOf, principles: Sequence[str]) -> ReaderJudge | None:
    """The model that says how far answers follow principles; None where there are none, or nobody to judge them."""
    return best_of.principles if principles else None


def chooses(best_of: BestOf, principles: Sequence[str]) -> bool:
    """Whether there is anything to choose by: a reward, or principles that are judged."""
    return bool(best_of.rewards) or judge_of(best_of, principles) is not None


def check_judged(best_of: BestOf | None, principles: Sequence[str]) -> None:
    """Raises:
    ConflictError: there are principles, and nobody would judge by them.
    """
    if principles and (best_of is None or best_of.principles is None):
        raise ConflictError("no model of this workspace judges by principles: leave them out")


def told_to_page(best_of: BestOf | None) -> dict[str, Any]:
    """What the chat's page knows of how answers are chosen.

    ``principles`` is there where they are asked for; ``elsewhere`` names the machine that the conversation is sent to.
    """
    judge = best_of.principles if best_of else None
    elsewhere = urlsplit(judge.endpoint.url).hostname if judge and judge.endpoint else None
    asked = {"most": MOST_PRINCIPLES, "longest": LONGEST_PRINCIPLE, "elsewhere": elsewhere}
    return {
        "best_of": best_of.n if best_of else 1,
        "is_rewarded": bool(best_of and best_of.rewards),
        "principles": asked if judge else None,
    }


def select(
    best_of: BestOf,
    seed: int,
    drawn: Sequence[Response],
    scored: Scored,
    names: Mapping[str, str],
    principles: Sequence[str] = (),
) -> Response:
    """The answer, with all that is known of how it was taken in its provenance.

    Args:
        best_of: how answers are chosen.
        seed: that of the responses' provenance.
        drawn: [n] responses, in the order of their numbers.
        scored: their scores.
        names: of models, by where they lie: the workspace's place is nobody's business.
        principles: the reader's.
    """
    lot, place = uniforms(2, best_of.seed, "best of n", seed).tolist()
    at_random = lot < best_of.random_share
    best = max(range(len(drawn)), key=lambda index: scored.scores[index])  # the first of equals
    chosen = int(place * len(drawn)) if at_random else best
    judge = judge_of(best_of, principles)
    selection = Selection(
        texts=tuple(response.text for response in drawn),
        scores=scored.scores,
        chosen=chosen,
        at_random=at_random,
        random_share=best_of.random_share,
        seed=best_of.seed,
        kl_bound=scored.kl_bound,
        rewards=tuple(term.model_dump(mode="json", exclude_defaults=True) for term in best_of.rewards),
        checkpoints={names[where]: weights for where, weights in scored.checkpoints.items()},
        fits=tuple(
            Fit(principle=principle, scores=scores)
            for principle, scores in zip(principles if judge else (), scored.fits, strict=True)
        ),
        judge=judge.model if judge else "",
        principle_weight=judge.weight if judge else 0.0,
    )
    answer = drawn[chosen]
    assert answer.provenance is not None
    return answer.model_copy(update={"provenance": answer.provenance.model_copy(update={"selection": selection})})


def located(rewards: Sequence[Reward], places: Mapping[str, str]) -> tuple[Reward, ...]:
    """The terms with their models' places instead of their names."""
    return tuple(
        term.model_copy(
            update={
                "model": places.get(term.model, ""),
                "ensemble": tuple(places[name] for name in term.ensemble),
            }
        )
        for term in rewards
    )
