"""What is measured: the lines of the table, and the least arithmetic that each of them needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import work


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the floor is counted from.

    Attributes:
        body: weights that every token is multiplied with.
        head: weights of the unembedding, for tokens whose distribution is needed.
        top: share of the body above the frozen two thirds.
        cached: numbers that a token leaves in the cache, keys and values of all layers.
        width: bytes of a number that is read.
        pairs, quads, demonstrations: (prompt tokens, response tokens) in all, each prompt once.
        sizes: of the texts.
        backward: forward passes that a backward pass costs. Two; one where adapters learn, as weights get no gradient.
    """

    body: float
    head: float
    top: float
    cached: int
    width: int
    pairs: tuple[int, int]
    quads: tuple[int, int]
    demonstrations: tuple[int, int]
    sizes: work.Sizes = work.SIZES["short"]
    backward: int = 2

    def forward(self, prompts: float, responses: float, *, head: bool = True) -> float:
        """A multiplication and an addition for every weight and token; attention itself is left out."""
        return 2 * (self.body * (prompts + responses) + self.head * responses * head)

    def sampled(self, prompts: int, each: int) -> tuple[int, int]:
        """Tokens of a rollout."""
        return prompts * self.sizes.prompt, prompts * each * self.sizes.new


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table: a task of ours, a peer's task that does the same work, and what is aimed at.

    Lines of one ``group`` take turns with each other, so their models have to fit into memory together. Without a peer
    a line has our side alone. Where adapters learn, or products are fp32, something else may be aimed at.
    """

    name: str
    group: str
    task: str
    peer: str
    peer_task: str
    target: float
    target_fp32: float | None = None
    target_adapters: float | None = None
    flops: Callable[[Shape], float]
    reads: Callable[[Shape], float] = lambda _: 0.0

    def aim(self, precision: str, *, adapters: bool) -> float:
        """Of adapters, of fp32 products, or of the line."""
        special = self.target_adapters if adapters else self.target_fp32 if precision == "fp32" else None
        return self.target if special is None else special

    def floor(self, shape: Shape, gflops: float, gb_s: float) -> float:
        """Seconds that the arithmetic takes at a machine's rate, or the reading where that takes longer.

        Williams, Waterman & Patterson 2009, "Roofline".
        """
        return max(self.flops(shape) / gflops, self.reads(shape) / gb_s) / 1e9


def decoding_bytes(shape: Shape, prompts: int, each: int) -> float:
    """Every new token reads all weights, once for all sequences, and what its own sequence has in the cache."""
    sizes = shape.sizes
    weights = sizes.new * (shape.body + shape.head)
    cached = sum(sizes.prompt + new for new in range(sizes.new)) * prompts * each * shape.cached
    return (weights + cached) * shape.width


def sampling_bytes(shape: Shape) -> float:
    """Of the sampling lines."""
    return decoding_bytes(shape, work.SAMPLED_PROMPTS, work.SAMPLES_EACH)


def rl_bytes(shape: Shape) -> float:
    """Of the reinforcement lines, their sampling alone."""
    return decoding_bytes(shape, work.RL_PROMPTS, work.RL_SAMPLES)


def sampling_flops(shape: Shape) -> float:
    """Every prompt once, then every new token."""
    return shape.forward(*shape.sampled(work.SAMPLED_PROMPTS, work.SAMPLES_EACH))


def rl_flops(shape: Shape, *, values: bool = False, top: float = 1.0) -> float:
    """Sampling, the reference, an update; for PPO the value model's pass and update too.

    A frozen trunk runs once more after sampling, and frozen embeddings, which are the unembedding too, get no gradient;
    what adapters add is left out.
    """
    tokens = shape.sampled(work.RL_PROMPTS, work.RL_SAMPLES)
    whole, bare = shape.forward(*tokens), shape.forward(*tokens, head=False)
    logits = whole - bare
    trunk = bare * (1 - top)
    head = logits * (2 + (shape.backward if top == 1.0 else 1))
    learned = bare * top * (2 + shape.backward)
    return whole + trunk + learned + head + (learned if values else 0.0)


def training_flops(tokens: tuple[int, int], shape: Shape, *, forward: int, head: bool) -> float:
    """So many passes forward and one backward; every prompt once."""
    return (forward + shape.backward) * shape.forward(*tokens, head=head)


LINES = (
    Line(
        name="sampling, 64 sequences, against generate",
        group="sampling",
        task="sampling",
        peer="trl",
        peer_task="sampling",
        target=2,
        flops=sampling_flops,
        reads=sampling_bytes,
    ),
    Line(
        name="sampling, 64 sequences, against vLLM",
        group="sampling",
        task="sampling",
        peer="vllm",
        peer_task="sampling",
        target=2,
        flops=sampling_flops,
        reads=sampling_bytes,
    ),
    Line(
        name="RLOO iteration",
        group="rloo",
        task="rloo",
        peer="trl",
        peer_task="rloo",
        target=3,
        flops=rl_flops,
        reads=rl_bytes,
    ),
    Line(
        name="PPO iteration, against TRL's RLOO",
        group="ppo",
        task="ppo",
        peer="trl",
        peer_task="rloo",
        target=2,
        flops=lambda shape: rl_flops(shape, values=True),
        reads=rl_bytes,
    ),
    Line(
        name="RLOO iteration, lower two thirds frozen",
        group="rloo",
        task="rloo-frozen",
        peer="trl",
        peer_task="rloo",
        target=6,
        target_fp32=4,
        flops=lambda shape: rl_flops(shape, top=shape.top),
        reads=rl_bytes,
    ),
    Line(
        name="PPO iteration, lower two thirds frozen",
        group="ppo",
        task="ppo-frozen",
        peer="trl",
        peer_task="rloo",
        target=6,
        target_fp32=4,
        flops=lambda shape: rl_flops(shape, values=True, top=shape.top),
        reads=rl_bytes,
    ),
    Line(
        name="reward model, K = 2",
        group="reward-2",
        task="reward-2",
        peer="trl",
        peer_task="reward-2",
        target=3,
        flops=lambda shape: training_flops(shape.pairs, shape, forward=1, head=False),
    ),
    Line(
        name="reward model, K = 4",
        group="reward-4",
        task="reward-4",
        peer="trl",
        peer_task="reward-4",
        target=12,
        target_adapters=5,
        flops=lambda shape: training_flops(shape.quads, shape, forward=1, head=False),
    ),
    Line(
        name="DPO",
        group="dpo",
        task="dpo",
        peer="trl",
        peer_task="dpo",
        target=6,
        target_adapters=4,
        flops=lambda shape: training_flops(shape.pairs, shape, forward=2, head=True),
    ),
    Line(
        name="SFT",
        group="sft",
        task="sft",
        peer="trl",
        peer_task="sft",
        target=5,
        flops=lambda shape: training_flops(shape.demonstrations, shape, forward=1, head=True),
    ),
)
