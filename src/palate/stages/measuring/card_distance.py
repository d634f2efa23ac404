"""How far both models of a card have gone from a common start, on the responses of the win rate.

The start is the recipe's `reference`, or else the baseline. It is loaded last, so that it finds what the others said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from palate.errors import ModelError
from palate.evals.asking.answering import Answered, prompts_of
from palate.evals.asking.start_reading import read_by_start
from palate.evals.card.distances import Distances, Gone, gone
from palate.evals.protocols.items import Item, Said
from palate.lm.chat import Chat
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded, Sketch
from palate.recipe import CardRecipe
from palate.run.directory import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What KL is measured to.

    Attributes:
        key: `model`, `baseline` or `reference`: under which it is loaded.
        name: of the model.
    """

    key: str
    name: str


def start_of(recipe: CardRecipe, run: Run, sketches: Mapping[str, Sketch[LanguageModel]]) -> Start | None:
    """None where no win rate is asked for, or where nobody named a start and the models share no vocabulary.

    Raises:
        ModelError: the reference has another vocabulary than one of the models.
    """
    if all(section.protocol != "win_rate" for section in recipe.sections):
        return None
    key = next(key for key in ("reference", "baseline", "model") if key in sketches and _named(recipe, key))
    vocabulary = sketches[key].chat.tokenizer.get_vocab()
    strange = [name for name, each in sketches.items() if each.chat.tokenizer.get_vocab() != vocabulary]
    if not strange:
        return Start(key=key, name=recipe.reference or recipe.baseline)
    if recipe.reference:
        raise ModelError(f"the reference {recipe.reference} has another vocabulary than the {strange[0]}: no KL to it")
    run.note("win rate: the baseline has another vocabulary than the model, so that there is no KL between them")
    return None


def _named(recipe: CardRecipe, key: str) -> bool:
    return key == "reference" or getattr(recipe, key) == (recipe.reference or recipe.baseline)


def distances(
    recipe: CardRecipe,
    start: Start,
    loaded: Loaded[LanguageModel],
    chats: Mapping[str, Chat],
    items: Sequence[Item],
    found: Mapping[str, Sequence[Answered]],
    weights: Mapping[str, str],
    cache: Path,
) -> Distances:
    """Both models', read by the start, which is loaded now.

    Args:
        chats, found, weights: by `model` and `baseline`: layout, answers to the items, and hash.
    """

    def way(key: str) -> Gone:
        said = [[each for each in answered.answers if isinstance(each, Said)] for answered in found[key]]
        if weights[key] == loaded.weights:
            return gone(said, None)
        prompts = [chats[key].prompt_tokens(prompt) for prompt in prompts_of(items)]
        read = read_by_start(
            loaded,
            prompts,
            said,
            temperature=recipe.sampling.temperature,
            max_tokens=recipe.microbatch_tokens,
            cache=cache,
        )
        return gone(said, read)

    return Distances(
        start=start.name, model=way("model"), baseline=way("baseline"), temperature=recipe.sampling.temperature
    )
