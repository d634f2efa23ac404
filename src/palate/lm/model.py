"""What the stages call: a language model, the same network with a scalar head, and the trunk they share.

    LanguageModel.logprobs(sequences)   [B, T] log p(token | what came before)
    LanguageModel.kl(sequences, other)  [B, T] divergence of two models' next tokens, over the whole vocabulary
    ScalarModel.scores(sequences)       [B, H] the reward of a whole sequence, by every head
    ScalarModel.values(sequences)       [B, T] the value before each token is chosen, the mean of the heads
    .trunk(sequences)                   the frozen lower layers, computed once for every model that shares them

All of them obey the one alignment rule: index t speaks about ``tokens[:, t]``. And all of them, sampling too, go
through `Model.forward`, so that whoever hangs something on the model (sharding, a profiler) sees every pass.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self, TypeVar, cast

import torch
from torch import Tensor, nn

from palate.lm.backbone import Backbone, Unembedding
from palate.lm.batch import Layout, Sequences
from palate.lm.logprobs import kl_by_rows, logprobs_by_rows
from palate.lm.microbatches import in_parts
from palate.lm.projection import Projection, share_packed, store_as, stored_dtype

Result = TypeVar("Result")

TRUNK_BYTES = 2**32
"""A trunk that takes more is not kept whole (1.9 million tokens at width 576): the lower layers run each time then."""
FP32 = 4
"""Bytes of a number."""
PIECE = 2**16
"""Numbers of a weight that are read at a time: it may be larger than what is left of memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trunk:
    """Hidden states after the frozen lower layers, for every token of a batch.

    Attributes:
        prompts: group id -> [Tp, D].
        responses: row -> [Tr, D].
        key: fingerprint of the weights they were computed with; a model with another key computes its own.
    """

    prompts: Mapping[int, Tensor]
    responses: Mapping[int, Tensor]
    key: str

    def take(self, layout: Layout) -> Tensor:
        """[N, D] the rows of a part of the batch."""
        prompts = [self.prompts[group] for group in layout.groups.tolist()]
        return torch.cat(prompts + [self.responses[row] for row in layout.rows.tolist()])


class Model(nn.Module):
    """A backbone, how much of it is frozen, and the config it came with.

    Dropout is off in every model of RLHF, so there is no training mode.
    """

    head: ClassVar[str]
    """How transformers calls a model with this head, after the name of its family."""

    def __init__(self, config: Any, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        self.model = backbone
        self.frozen_layers = 0
        self._trunk_key = ""
        self.gathered: Callable[[], AbstractContextManager[Model]] | None = None
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: the policy that is trained is the policy that sampled."""
        return super().train(False)

    def forward(self, compute: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        """Whatever is computed with the weights is computed in here, called as ``model(compute, ...)``."""
        return compute(*args, **kwargs)

    def whole(self) -> AbstractContextManager[Self]:
        """The model with all its weights in this process, for as long as the context lasts.

        That is itself; or, of one whose weights are sharded over processes, a copy, for which all of them have to meet.
        """
        return nullcontext(self) if self.gathered is None else cast(AbstractContextManager[Self], self.gathered())

    @property
    def context(self) -> float:
        """Longest sequence the model was made for, in tokens; infinite if its config does not say."""
        return getattr(self.config.get_text_config(), "max_position_embeddings", None) or math.inf

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def freeze(self, layers: int) -> None:
        """Train only the layers from ``layers`` on (and the head), in fp32; with 0 everything trains.

        Embeddings are the lowest layer: with ``layers`` above 0 they are frozen too, and with them a tied unembedding;
        one of its own stays trainable.
        """
        assert 0 <= layers <= self.model.shape.num_layers
        self.requires_grad_(True)
        for module in self.model.lower(layers) if layers else []:
            module.requires_grad_(False)
        for parameter in self.parameters():
            if parameter.requires_grad:
                store_as(parameter, torch.float32)
        self.frozen_layers = layers
        self._trunk_key = ""

    def freeze_all(self, layers: int | None = None) -> None:
        """No training at all; the trunk ends below layer ``layers``, or stays where it was set."""
        self.requires_grad_(False)
        if layers is not None:
            assert 0 <= layers <= self.model.shape.num_layers
            self.frozen_layers = layers
            self._trunk_key = ""

    @property
    def trunk_layers(self) -> int:
        """Layers whose output can be kept: the frozen ones, if the backbone can do that."""
        return self.frozen_layers if self.model.has_trunk else 0

    @property
    def trunk_key(self) -> str:
        """Fingerprint of embeddings and frozen layers, and of how they are computed."""
        if not self._trunk_key:
            about = (self.trunk_layers, self.model.shape, self.model.dtype)
            digest = hashlib.blake2b(repr(about).encode(), digest_size=16)
            for module in self.model.lower(self.trunk_layers):
                for parameter in module.parameters():
                    for piece in parameter.detach().flatten().split(PIECE):
                        numbers = piece.to(stored_dtype(parameter)).float().cpu()
                        digest.update(numbers.view(torch.uint8).numpy().data)
            self._trunk_key = digest.hexdigest()
        return self._trunk_key

    def adopt(self, other: Model, *, equal: Callable[[Tensor, Tensor], bool] | None = None) -> None:
        """Use the other's memory for every weight that neither of them trains and that is the same in both.

        ``equal`` says which are, where that cannot be read off the weights.
        """
        equal = equal or _equal
        theirs = {name: weight for name, weight in other.named_parameters() if not weight.requires_grad}
        same = {
            id(weight): theirs[name]
            for name, weight in self.named_parameters()
            if name in theirs and not weight.requires_grad and equal(weight, theirs[name])
        }
        for module in self.modules():
            for key, weight in module._parameters.items():
                module._parameters[key] = same.get(id(weight), weight)
        twins = dict(other.named_modules())
        for name, module in self.named_modules():
            if name in twins:
                share_packed(module, twins[name])

    def join(self, others: Sequence[Model], *, equal: Callable[[Tensor, Tensor], bool] | None = None) -> None:
        """Stand beside other models: what is the same is in memory once, what never learns as it is multiplied.

        That changes no number. What is shared with a model that learns stays as it is: it will be written.
        """
        learners = [other for other in others if any(weight.requires_grad for weight in other.parameters())]
        for other in learners:
            self.adopt(other, equal=equal)
        written = {id(weight) for other in learners for weight in other.parameters()}
        for module in self.modules():
            if isinstance(module, Projection) and id(module.weight) not in written:
                module.store_operand()
        for other in others:
            if other not in learners:
                self.adopt(other, equal=equal)

    def keeps_trunk(self, num_rows: int) -> bool:
        """Whether the output of the frozen layers is kept for so many rows."""
        return self.trunk_layers > 0 and num_rows * self.model.shape.hidden_size * FP32 <= TRUNK_BYTES

    def trunk(
        self, sequences: Sequences, *, max_tokens: int = 8192, show: Callable[[int, int], None] | None = None
    ) -> Trunk | None:
        """The frozen part of the forward pass; None when nothing is frozen, or the whole would be too large to keep.

        ``show`` is told how many of how many tokens are done.
        """
        if not self.keeps_trunk(_rows(sequences)):
            return None
        prompts: dict[int, Tensor] = {}
        responses: dict[int, Tensor] = {}
        done, total = 0, int(sequences.lengths.sum())
        for microbatch, below in in_parts(sequences, max_tokens, self._below, "the frozen layers' output"):
            layout, below = Layout.of(microbatch), below.to(self.device)
            spans = torch.split(below, layout.run_lengths.tolist())
            prompts |= zip(layout.groups.tolist(), spans, strict=False)
            responses |= zip(layout.rows.tolist(), spans[len(layout.groups) :], strict=True)
            done += int(microbatch.lengths.sum())
            if show is not None:
                show(done, total)
        return Trunk(prompts=prompts, responses=responses, key=self.trunk_key)

    def _below(self, sequences: Sequences) -> Tensor:
        if not len(sequences):
            one: Tensor = self(self.model.trunk, Layout.of(_one_token(self.device)), self.trunk_layers)
            return one[:0]
        below: Tensor = self(self.model.trunk, Layout.of(sequences), self.trunk_layers)
        return below

    def first_layer(self, trunk: Trunk | None) -> int:
        """Where a pass begins: above the trunk, if there is one and it is this model's; else at the embeddings."""
        return self.trunk_layers if trunk is not None and self.trunk_layers and trunk.key == self.trunk_key else 0

    def hidden(self, sequences: Sequences, sequence: Tensor, position: Tensor, trunk: Trunk | None) -> Tensor:
        """[M, D] rows after the last norm, of the tokens at ``position`` [M] of ``sequence`` [M].

        Of no sequences there are no rows; the same layers run all the same, as they do in the other processes, on one
        token that nothing is taken of.
        """
        if not len(sequences):
            return self._idle(trunk)[:0]
        layout = Layout.of(sequences)
        wanted = layout.row_of(sequence, position, sequences.prompt_lengths)
        first = self.first_layer(trunk)
        if trunk is None or not first:
            return self.model.rows(sequences, layout, wanted)
        return self.model.rows_above(layout, first, trunk.take(layout), wanted)

    def _idle(self, trunk: Trunk | None) -> Tensor:
        """[1, D] of one token, by the layers that a pass goes through."""
        one, first = _one_token(self.device), self.first_layer(trunk)
        layout, wanted = Layout.of(one), torch.zeros(1, dtype=torch.long, device=self.device)
        if not first:
            return self.model.rows(one, layout, wanted)
        below = torch.zeros(1, self.model.shape.hidden_size, device=self.device)
        return self.model.rows_above(layout, first, below, wanted)


def _one_token(device: torch.device) -> Sequences:
    return Sequences.pack([[0]], [[]]).to(device)


def _rows(sequences: Sequences) -> int:
    """Tokens of all responses, and of every prompt once."""
    prompts = dict(zip(sequences.group_ids.tolist(), sequences.prompt_lengths.tolist(), strict=True))
    return sum(prompts.values()) + int((sequences.lengths - sequences.prompt_lengths).sum())


def _equal(a: Tensor, b: Tensor) -> bool:
    """The same numbers, however and wherever they are stored."""
    if a.shape != b.shape:
        return False
    a, b = a.to(stored_dtype(a)), b.to(a.device, stored_dtype(b))
    a, b = (a, b) if a.dtype == b.dtype else (a.float(), b.float())
    return torch.equal(a, b)


def _chosen(sequences: Sequences) -> tuple[Tensor, Tensor]:
    """Where the mask is: sequence and position [M] of each chosen token."""
    sequence, position = sequences.mask.nonzero(as_tuple=True)
    assert len(position) == 0 or int(position.min()) > 0, "nothing predicts a sequence's first token"
    return sequence, position


def _at_chosen(sequences: Sequences, values: Tensor) -> Tensor:
    """[M] numbers at the chosen tokens -> [B, T], zero elsewhere."""
    return torch.zeros(sequences.mask.shape, device=values.device).masked_scatter(sequences.mask, values)


class LanguageModel(Model):
    """A backbone with an unembedding."""

    head = "ForCausalLM"

    def __init__(self, config: Any, backbone: Backbone) -> None:
        super().__init__(config, backbone)
        self.lm_head = backbone.unembedding(tied=bool(config.tie_word_embeddings))

    def logits(self, rows: Tensor, *, temperature: float = 1.0) -> Tensor:
        """[N, D] hidden rows -> [N, V] fp32, divided by the temperature; newly made."""
        logits: Tensor = self(self._logits, rows, temperature)
        return logits

    def _logits(self, rows: Tensor, temperature: float) -> Tensor:
        if isinstance(self.lm_head, Unembedding):
            logits: Tensor = self.lm_head(rows, temperature=temperature)
        else:  # somebody has put another module in its place
            logits = self.lm_head(rows).float() / temperature
        return logits

    def logprobs(self, sequences: Sequences, *, temperature: float, trunk: Trunk | None = None) -> Tensor:
        """[B, T] log p(tokens[:, t] | tokens[:, :t]) at the masked tokens, zero elsewhere; nats."""
        logprobs: Tensor = self(self._logprobs, sequences, temperature, trunk)
        return logprobs

    def kl(
        self, sequences: Sequences, other: LanguageModel, *, temperature: float, trunk: Trunk | None = None
    ) -> Tensor:
        """[B, T] KL(self || other) of what comes at each masked token, given what came before; exact, in nats.

        Both are asked for all tokens of the vocabulary, which is one; the gradient flows through this model alone.
        """
        kl: Tensor = self(self._kl, sequences, other, temperature, trunk)
        return kl

    def _kl(self, sequences: Sequences, other: LanguageModel, temperature: float, trunk: Trunk | None) -> Tensor:
        sequence, position = _chosen(sequences)
        rows = self.hidden(sequences, sequence, position - 1, trunk)
        with torch.no_grad():
            other_rows = other(other.hidden, sequences, sequence, position - 1, trunk)
        kl = kl_by_rows(
            partial(self._logits, temperature=temperature),
            partial(other.logits, temperature=temperature),
            rows,
            other_rows,
        )
        return _at_chosen(sequences, kl)

    def _logprobs(self, sequences: Sequences, temperature: float, trunk: Trunk | None) -> Tensor:
        sequence, position = _chosen(sequences)
        rows, tokens = self.hidden(sequences, sequence, position - 1, trunk), sequences.tokens[sequence, position]
        if isinstance(self.lm_head, Unembedding):
            logprobs = self.lm_head(rows, tokens, temperature=temperature)
        else:
            logprobs = logprobs_by_rows(self.lm_head, rows, tokens, temperature=temperature)
        return _at_chosen(sequences, logprobs)


class ScalarModel(Model):
    """The same backbone with the unembedding replaced by H heads of one number each: a reward or a value model.

    One head is the usual; an ensemble, or several objectives, are several heads on one trunk. transformers calls them
    labels, and ``config.num_labels`` says how many there are.
    """

    head = "ForSequenceClassification"

    def __init__(self, config: Any, backbone: Backbone) -> None:
        super().__init__(config, backbone)
        self.score = backbone.scalar_heads(config.num_labels)
        self.offset = 0.0

    @property
    def num_heads(self) -> int:
        """H."""
        return len(self.score.weight)

    @torch.no_grad()
    def average_heads(self, units: Mapping[int, tuple[float, float]]) -> None:
        """Make one head of some: the mean of ``(raw - mean) / scale``, which a value model starts from.

        Args:
            units: by the place of a head: mean and scale of its raw numbers.
        """
        means, scales = torch.tensor(list(units.values()), dtype=torch.float64).T
        weight = self.score.weight[list(units)] / scales.to(self.score.weight)[:, None]
        self.score.weight = nn.Parameter(weight.mean(0, keepdim=True), requires_grad=self.score.weight.requires_grad)
        self.score.out_features = self.config.num_labels = 1
        self.offset = float(((self.offset - means) / scales).mean())

    def scores(self, sequences: Sequences, *, trunk: Trunk | None = None) -> Tensor:
        """[B, H] the heads' outputs at each sequence's last real token."""
        scores: Tensor = self(self._scores, sequences, trunk)
        return scores

    def values(self, sequences: Sequences, *, trunk: Trunk | None = None) -> Tensor:
        """[B, T] the mean of the heads' outputs before each masked token is chosen, zero elsewhere."""
        values: Tensor = self(self._values, sequences, trunk)
        return values

    def _scores(self, sequences: Sequences, trunk: Trunk | None) -> Tensor:
        sequence = torch.arange(len(sequences), device=sequences.lengths.device)
        return self._numbers(self.hidden(sequences, sequence, sequences.lengths - 1, trunk))

    def _values(self, sequences: Sequences, trunk: Trunk | None) -> Tensor:
        sequence, position = _chosen(sequences)
        return _at_chosen(sequences, self._numbers(self.hidden(sequences, sequence, position - 1, trunk)).mean(1))

    def _numbers(self, hidden: Tensor) -> Tensor:
        numbers: Tensor = self.score(hidden)
        return numbers + self.offset


ModelT = TypeVar("ModelT", bound=Model)
