"""Judgements as arrays: pairs of rows of a feature matrix that is computed once and kept beside the results.

The file `features.safetensors` is kept under a fingerprint of the trunk's weights and of every token; anything else is
computed anew. Rankings that cannot be used (a response that is too long, a thumb) are counted with their reason.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

from palate import disk
from palate.corpus.reading import read_rankings
from palate.corpus.splits import conversation_id
from palate.errors import DataError, RecipeError
from palate.experiments.labels.linear import Indices, components
from palate.intervals import Floats
from palate.lm.batch import Sequences
from palate.lm.model import ScalarModel
from palate.lm.sources.zoo import load_scalar_model
from palate.recipe import RewardRecipe
from palate.records import Ranking
from palate.rewards.features import response_features
from palate.run.trackers import showing
from palate.stages.comparisons import comparable, prepare_responses

FEATURES = "features.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgements:
    """J judgements of I items, as P pairs of N responses.

    Attributes:
        features: [N, F].
        words: [N] number of words.
        prompt, item, labeler: [J]; an item is what was asked: the same responses to the same prompt.
        group: [J] what is held out together: the prompt's conversation, or a tag's value.
        groups, labelers: their names.
        judgement: [P] of which judgement a pair is.
        first, second: [P] rows of the features.
        outcome: [P] 1 the first was preferred, 0 the second, one half a tie.
        weight: [P] one over the pairs of its judgement.
        notes: what of the data is not used.
    """

    features: Floats
    words: Floats
    prompt: Indices
    item: Indices
    labeler: Indices
    group: Indices
    groups: tuple[str, ...]
    labelers: tuple[str, ...]
    judgement: Indices
    first: Indices
    second: Indices
    outcome: Floats
    weight: Floats
    notes: tuple[str, ...] = ()

    def pairs_of(self, judgements: Indices) -> Indices:
        """The pairs of some judgements, in increasing order."""
        return np.flatnonzero(np.isin(self.judgement, judgements))

    def rows_of(self, pairs: Indices) -> Indices:
        """The responses of some pairs, each once."""
        return np.union1d(self.first[pairs], self.second[pairs])

    def differences(self, rows: Indices, dimensions: int) -> Floats:
        """[P, D] of every pair the first response's features minus the second's, by a basis of these responses.

        The basis is that of what differs between responses to one prompt: what they share cannot be learned from.
        """
        prompt_of = np.zeros(len(self.features), dtype=np.int64)
        prompt_of[self.first] = prompt_of[self.second] = self.prompt[self.judgement]
        sums = np.zeros((int(self.prompt.max()) + 1, self.features.shape[1]))
        np.add.at(sums, prompt_of[rows], self.features[rows])
        means = sums / np.maximum(np.bincount(prompt_of[rows], minlength=len(sums)), 1)[:, None]
        directions = components(self.features[rows] - means[prompt_of[rows]], dimensions)
        return np.asarray((self.features[self.first] - self.features[self.second]) @ directions)


def collect(recipe: RewardRecipe, out: Path) -> Judgements:
    """The recipe's rankings with the features of their responses, which are kept in ``out``.

    Of the recipe count: data, model, frozen_layers, chat_template, precision, max_length, max_left_out,
    microbatch_tokens, and the tag of the holdout.

    Raises:
        DataError: nothing to compare, or too much left out.
        RecipeError: no frozen layers.
    """
    read = read_rankings(recipe.data)
    rankings = comparable(read)
    loaded = load_scalar_model(
        recipe.model, heads=1, chat_template=recipe.chat_template, precision=recipe.precision, seed=recipe.seed
    )
    model = loaded.model
    if not 0 < recipe.frozen_layers <= model.model.shape.num_layers:
        raise RecipeError(
            f"frozen_layers = {recipe.frozen_layers}: features are taken after the frozen layers, 1 to "
            f"{model.model.shape.num_layers} of this model; two thirds are a good choice"
        )
    model.freeze_all(recipe.frozen_layers)
    prepared = prepare_responses(
        loaded.chat,
        rankings,
        labeler_weights={},
        max_length=min(recipe.max_length, model.context),
        limit="max_length",
        device=model.device,
    )
    if len(prepared.left_out) > recipe.max_left_out * len(rankings):
        raise DataError(f"{len(prepared.left_out)} of {len(rankings)} rankings cannot be used: raise max_left_out")
    features = _kept(out / FEATURES, model, prepared.sequences, recipe.microbatch_tokens or 4096)
    reasons = Counter(item.reason for item in prepared.left_out)
    notes = [*str(read.rejected).splitlines(), *(f"{reason}: {count} rankings" for reason, count in reasons.items())]
    return tabulate(
        prepared.rankings, features, prepared.row_of, tag=recipe.holdout.tag, notes=[note for note in notes if note]
    )


def tabulate(
    rankings: Sequence[Ranking],
    features: Floats,
    row_of: Mapping[tuple[str, str], int],
    *,
    tag: str = "",
    notes: Sequence[str] = (),
) -> Judgements:
    """Rankings of responses whose features are known by (prompt id, text).

    Args:
        tag: prompts with the same value of it are one group; empty: those that begin alike.

    Raises:
        DataError: a prompt without the tag.
    """
    names: dict[str, dict[object, int]] = {name: {} for name in ("prompt", "item", "labeler", "group")}

    def number(kind: str, name: object) -> int:
        return names[kind].setdefault(name, len(names[kind]))

    about: list[tuple[int, ...]] = []
    pairs: list[tuple[float, ...]] = []
    words = np.zeros(len(features))
    for place, ranking in enumerate(rankings):
        prompt = ranking.prompt
        if tag and tag not in prompt.tags:
            raise DataError(f"holdout.tag: a prompt has no tag {tag!r} ({prompt.text[:60]!r}); name it in data.tags")
        group = prompt.tags[tag].strip() if tag else conversation_id(prompt)
        best: dict[int, int] = {}
        for response, rank in zip(ranking.responses, ranking.ranks, strict=True):
            row = row_of[prompt.id, response.text]
            best[row] = min(rank, best.get(row, rank))
            words[row] = len(response.text.split())
        asked = (number("prompt", prompt.id), number("item", frozenset(best)))
        about.append((*asked, number("labeler", ranking.labeler), number("group", group)))
        compared = list(combinations(sorted(best), 2))
        for a, b in compared:
            pairs.append((place, a, b, (1 + np.sign(best[b] - best[a])) / 2, 1 / len(compared)))
    of_judgement = np.array(about, dtype=np.int64).reshape(-1, 4)
    of_pair = np.array(pairs, dtype=np.float64).reshape(-1, 5)
    return Judgements(
        features=features,
        words=words,
        prompt=of_judgement[:, 0],
        item=of_judgement[:, 1],
        labeler=of_judgement[:, 2],
        group=of_judgement[:, 3],
        groups=tuple(map(str, names["group"])),
        labelers=tuple(map(str, names["labeler"])),
        judgement=of_pair[:, 0].astype(np.int64),
        first=of_pair[:, 1].astype(np.int64),
        second=of_pair[:, 2].astype(np.int64),
        outcome=of_pair[:, 3],
        weight=of_pair[:, 4],
        notes=tuple(notes),
    )


def _kept(path: Path, model: ScalarModel, sequences: Sequences, max_tokens: int) -> Floats:
    """[N, F] from the file, if it is of this trunk and these tokens; else computed, and written there."""
    digest = hashlib.blake2b(model.trunk_key.encode(), digest_size=16)
    for part in (sequences.tokens, sequences.lengths, sequences.prompt_lengths):
        digest.update(part.cpu().numpy().tobytes())
    key = digest.hexdigest()
    if path.exists():
        with safe_open(path, "pt") as kept:
            if (kept.metadata() or {}).get("key") == key:
                return _floats(kept.get_tensor("features"))
    with showing("features") as show:
        features = response_features(model, sequences, max_tokens=max_tokens, show=show)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with disk.disk_errors(path):
        save_file({"features": features}, temporary, metadata={"key": key})
        temporary.replace(path)
    return _floats(features)


def _floats(tensor: torch.Tensor) -> Floats:
    array: NDArray[np.float64] = tensor.double().numpy()
    return array
