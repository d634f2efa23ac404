"""What is in memory at each moment of a step, and which moment needs most.

A step samples, scores, learns and updates, or does some of these. At each moment some parts are there and some are not:
the cache only while sampling, activations only while learning. The peak is that of the moment with the largest sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from palate.lm.sources.zoo import bytes_in_files
from palate.stages.estimate import footprint
from palate.stages.estimate.network import Network, Pass, Small

Parts = Mapping[str, int]
"""Bytes by the name of a part."""

DIVIDED = frozenset({"weights", "optimizer", "gradients"})
"""Parts of which every process keeps its share where weights are sharded."""

SAMPLING = frozenset({"sampling", "reading prompts"})
"""Moments at which responses are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What is in memory at one moment.

    Attributes:
        name: what is being done.
        parts: bytes by part.
    """

    name: str
    parts: Parts

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """The sampler: its model, its slots, and how wide each is.

    Attributes:
        prefill: rows of the prompts that are computed in one pass.
        waiting: rows of prompts whose keys are kept for a response that has no slot yet.
    """

    net: Network
    slots: int
    width: int
    prefill: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """A model's passes without gradients.

    Attributes:
        largest: of them.
        smallest: what it leaves behind.
        at_first: they are made before the first step alone, when the optimizer knows nothing yet.
    """

    net: Network
    largest: Pass
    smallest: Small
    at_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """A model that learns.

    Attributes:
        largest: of its microbatches.
        several: a step has more than one.
        first: the layer that its passes begin at.
        state_bits: of Adam's moments.
    """

    net: Network
    largest: Pass
    several: bool
    first: int = 0
    state_bits: int = 32

    def multiplied_with(self) -> set[int]:
        """The weights of its layers, by identity."""
        return {id(weight) for layer in self.net.layers[self.first :] for weight in layer.parameters()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A run, as far as its memory goes.

    Attributes:
        nets: every model that is loaded.
        decoding, scoring, learning: who does what, in this order.
        makes_room: one model is updated after the other, and keeps no copies of weights then but its own.
        trunk: rows that are kept of the frozen layers at a time.
        tokens: bytes of the data, or of the rollouts with all that is known of each token.
        steps: tokens computed in each step, forward and backward.
        beside: tokens computed before or after them, forward only.
        data: tokens of the data, each once.
        processes: that divide the weights among them; what follows is of one.
        notes: what else there is to say.
    """

    nets: Sequence[Network]
    decoding: Sequence[Decoding] = ()
    scoring: Sequence[Scoring] = ()
    learning: Sequence[Learning] = ()
    makes_room: bool = False
    trunk: int = 0
    tokens: int = 0
    steps: Sequence[int] = ()
    beside: int = 0
    data: int = 0
    processes: int = 1
    notes: Sequence[str] = field(default=())

    @property
    def peak(self) -> Moment:
        """The moment that needs most."""
        return max(self.moments(), key=lambda moment: moment.total)

    def moments(self) -> Iterator[Moment]:
        """From the first weight to the update.

        Where weights are divided no process ever has the whole of them, but of models that transformers' code reads.
        """
        if self.processes == 1:
            yield from self.whole()
            return
        if any(net.on_cpu for net in self.nets):
            yield Moment(name="loading", parts={"weights": self.on_host})
        yield from (self._part(moment) for moment in self.whole() if moment.name != "loading")

    @property
    def on_host(self) -> int:
        """Bytes that each process reads into the host's memory, where weights are divided, before it keeps its part."""
        return footprint.weights(net.model for net in self.nets if net.is_read and not net.own)

    @property
    def in_files(self) -> int:
        """Bytes that the processes of a machine map into memory together for that, and that the system may drop."""
        return bytes_in_files(weight for net in self.nets if net.own for weight in net.model.parameters())

    def _part(self, moment: Moment) -> Moment:
        """Of one process: its share of what is divided, beside it what it is lent while it computes, and all the rest.

        It is lent the largest layers one after the other, and a whole model to sample from; there are no packed copies.
        """
        parts = {name: size // self.processes if name in DIVIDED else size for name, size in moment.parts.items()}
        parts.pop("packed copies", None)
        if moment.name in SAMPLING:
            lent = [footprint.weights([each.net.model]) for each in self.decoding]
        else:
            lent = [footprint.lent(net) for net in self.nets]
        return Moment(name=moment.name, parts=parts | {"lent": max(lent, default=0)})

    def whole(self) -> Iterator[Moment]:
        """Of one process that has all there is."""
        yield from self._loading()
        for decoding in self.decoding:
            yield from self._sampling(decoding)
        for scoring in self.scoring:
            yield from self._scored(scoring)
        for number in range(len(self.learning)):
            yield from self._learned(number)
        for learning in self.learning:
            together = [learning.net] if self.makes_room else self._learners()
            grads = sum(footprint.gradients(net.model) for net in together)
            yield self._moment("update", {"gradients": grads}, learning=learning)

    def _loading(self) -> Iterator[Moment]:
        """A model is read as a whole before what others have as well is given back; on a GPU only the rest is put."""
        for number, net in enumerate(self.nets):
            if net.is_read and net.on_cpu:
                before = footprint.weights(each.model for each in self.nets[:number])
                yield Moment(name="loading", parts={"weights": before + footprint.weights([net.model])})

    def _moment(self, name: str, parts: Parts, *, learning: Learning | None = None, at_first: bool = False) -> Moment:
        """The given parts, and those that are there all the time."""
        always = {
            "weights": footprint.weights(net.model for net in self.nets),
            "optimizer": 0 if at_first else self._optimizer(),
            "packed copies": self._packed(learning),
            "trunk": footprint.trunk(self.nets[0], self.trunk),
            "tokens": self.tokens,
        }
        return Moment(name=name, parts=Counter(always) + Counter(parts))

    def _optimizer(self) -> int:
        bits = {id(each.net): each.state_bits for each in self.learning}
        return sum(footprint.optimizer(net.model, bits[id(net)]) for net in self._learners())

    def _learners(self) -> list[Network]:
        """Each once, whatever it learns from."""
        return list({id(each.net): each.net for each in self.learning}.values())

    def _packed(self, learning: Learning | None) -> int:
        found: dict[int, int] = {}
        for net in self.nets:
            found |= footprint.packed(
                net,
                sampled=any(each.net is net for each in self.decoding),
                learning=learning is not None and any(each.net is net for each in self.learning),
                passes=[each.smallest for each in self.scoring if each.net is net],
            )
        if learning is None:
            return sum(found.values())
        if self.makes_room:
            found = {weight: found[weight] for weight in learning.multiplied_with() & found.keys()}
        gone = set().union(*map(footprint.given_back, self._learners()))
        return sum(size for weight, size in found.items() if weight not in gone)

    def _sampling(self, decoding: Decoding) -> Iterator[Moment]:
        net, slots = decoding.net, decoding.slots
        cache = footprint.cache(net, slots, decoding.width)
        prompts = footprint.prefilling(net, decoding.prefill)
        yield self._moment("reading prompts", {"cache": cache, "activations": prompts})
        cache += footprint.prefilled(net, decoding.waiting)
        workspace = footprint.within_layer(net, slots)
        yield self._moment("sampling", {"cache": cache, "logits": footprint.drawing(net, slots) + workspace})

    def _scored(self, scoring: Scoring) -> Iterator[Moment]:
        """In the middle of a layer, and then at the head."""
        net, part = scoring.net, scoring.largest
        within = max(footprint.within_layer(net, part.rows), footprint.within_attention(net, part))
        yield self._moment("scoring", {"activations": within + footprint.masks(part)}, at_first=scoring.at_first)
        head = footprint.given_to_head(net, part) + footprint.masks(part)
        found = {"activations": head, "logits": footprint.logits(net, part.wanted)}
        yield self._moment("scoring", found, at_first=scoring.at_first)

    def _learned(self, number: int) -> Iterator[Moment]:
        """From the head, when all activations are there and few gradients, down to the embeddings."""
        learning = self.learning[number]
        net, part, several = learning.net, learning.largest, learning.several
        before_it = [] if self.makes_room else [each.net for each in self.learning[:number]]
        base = sum(
            footprint.gradients(each.model)
            for each in self._learners()
            if each is not net and ((several and not self.makes_room) or each in before_it)
        )
        before = footprint.gradients(net.model) if several else 0
        whole = [footprint.kept_by_layer(net, index, part) for index in range(net.first, net.L)]
        kept = [footprint.between_layers(net, part)] * len(whole) if net.recomputes else whole
        below = sum(kept) + footprint.masks(part)
        head = footprint.head_gradients(net)
        yield self._moment(
            "learning",
            {
                "gradients": base + before + head,
                "activations": below + footprint.kept_by_head(net, part),
                "logits": footprint.logits(net, part.wanted),
            },
            learning=learning,
        )
        made = head
        for index in range(net.L - 1, net.first - 1, -1):
            layer = footprint.gradients(net.layers[index])
            now = base + (before + head if several else made)
            within = footprint.within_backward(net, part, wanted=index == net.L - 1)
            within += whole[index - net.first] if net.recomputes else 0
            yield self._moment("learning", {"gradients": now, "activations": below + within}, learning=learning)
            below -= kept[index - net.first]
            made += layer
        rest = footprint.embedding_gradients(net)
        now = base + (before + head if several else made) + rest
        yield self._moment("learning", {"gradients": now, "activations": 4 * net.D * part.rows}, learning=learning)
