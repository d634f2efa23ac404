"""The best of several responses, or, as a control, one of them at random.

Best of n says what people like more often only if the reward is right about it. So a share of the answers can be taken
by lot instead, without telling the reader; thumbs of both kinds of answers are then compared (`feedback/chat/lots.py`).
Which answer falls to the lot hangs on two numbers that are recorded with it, and on nothing that was drawn or said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from palate.randomness import uniforms
from palate.recipe import Reward
from palate.records import Response, Selection
from palate.studio.chat.wire import Scored
from palate.studio.web.workspace import BestOf


def select(best_of: BestOf, seed: int, drawn: Sequence[Response], scored: Scored, names: Mapping[str, str]) -> Response:
    """The answer, with all that is known of how it was taken in its provenance.

    Args:
        best_of: how answers are chosen.
        seed: that of the responses' provenance.
        drawn: [n] responses, in the order of their numbers.
        scored: their scores.
        names: of reward models, by where they lie: the workspace's place is nobody's business.
    """
    lot, place = uniforms(2, best_of.seed, "best of n", seed).tolist()
    at_random = lot < best_of.random_share
    best = max(range(len(drawn)), key=lambda index: scored.scores[index])  # the first of equals
    chosen = int(place * len(drawn)) if at_random else best
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
