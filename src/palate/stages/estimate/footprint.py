"""What each part of a run holds in memory, in bytes: one rule a part, its formula beside it.

    N rows of a pass, M of them wanted; D hidden size, F inner size, V vocabulary; H heads and G key heads of size d
    p bytes of a matrix product's operand, a of a number in attention, c of one that waits for it; 4 is fp32

Nothing is allocated: models lie on the meta device, where weights have shapes and no memory. What autograd keeps is
counted by reading `lm/decoder.py` and `lm/kernels`, tensor by tensor; a test holds every rule against what a run
allocates.

Left out: what transformers' own networks keep beyond this (they are counted as if they were ours, with padding), what
libraries allocate inside one operation, and fragmentation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from palate.lm.decoder import TokenHead
from palate.lm.families import BEFORE
from palate.lm.kernels.products import PACKED_ROWS
from palate.lm.logprobs import LOGITS, LOGITS_ON_GPU, WIDTH
from palate.lm.model import LanguageModel, Model
from palate.lm.projection import Projection
from palate.stages.estimate.network import Network, Pass, Small, any_learns

BLOCK, LEAST_IN_8_BITS = 256, 4096
"""Of optimizer states in 8 bits: numbers that share a scale, and the smallest weight whose states are not in fp32."""


def distinct(tensors: Iterable[Tensor]) -> int:
    """Bytes of all of these, what is shared counted once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in {id(tensor): tensor for tensor in tensors}.values())


def weights(models: Iterable[Model]) -> int:
    """4 bytes each in fp32; a trunk that models share and a tied unembedding once."""
    return distinct(weight for model in models for weight in (*model.parameters(), *model.buffers()))


def lent(net: Network) -> int:
    """Of a model that is divided: two layers, the one that computes and the next, and what belongs to the root."""
    layers = [distinct(layer.parameters()) for layer in net.layers]
    inside = {id(weight) for layer in net.layers for weight in layer.parameters()}
    root = distinct(weight for weight in net.model.parameters() if id(weight) not in inside)
    return root + 2 * max(layers, default=0)


def learned(model: nn.Module) -> list[Tensor]:
    """The weights that learn."""
    return [weight for weight in model.parameters() if weight.requires_grad]


def gradients(model: nn.Module) -> int:
    """As large as the weights that learn."""
    return distinct(learned(model))


def optimizer(model: nn.Module, state_bits: int = 32) -> int:
    """AdamW's two moments: twice the weights that learn.

    In 8 bits: 2 bytes a number, and 8 for each `BLOCK` of them, for weights of `LEAST_IN_8_BITS` numbers or more.
    """
    sizes = {id(weight): weight.numel() for weight in learned(model)}.values()
    in_bytes = [size for size in sizes if state_bits == 8 and size >= LEAST_IN_8_BITS]
    return 8 * (sum(sizes) - sum(in_bytes)) + sum(2 * size + 8 * -(-size // BLOCK) for size in in_bytes)


def packed(net: Network, *, sampled: bool, learning: bool, passes: Iterable[Small]) -> dict[int, int]:
    """Copies of weights that products are made with: p, or 4 for each number, by the identity of the weight.

    In fp32 on a processor they are kept for at most `PACKED_ROWS` rows, so by sampling and by the odd small pass; in
    bf16 always. On a GPU wherever a weight is cast and no gradient is asked for. Which are given back while something
    learns says `given_back`.

    Args:
        sampled: the model has drawn responses.
        learning: it is being trained at this moment.
        passes: the smallest ones that were made without gradients.
    """
    layer_of = {id(weight): number for number, layer in enumerate(net.layers) for weight in layer.parameters()}
    found: dict[int, int] = {}
    for name, module in net.model.named_modules():
        if not isinstance(module, Projection):
            continue
        weight, number = module.weight, layer_of.get(id(module.weight), net.L)
        rounded = _is_rounded(net, module)
        if not net.on_cpu and weight.element_size() == net.p:
            continue
        is_narrow = number == net.L - 1 and name.endswith(("o_proj", "gate_proj", "up_proj", "down_proj"))
        rows = [each.wanted if is_narrow else each.rows for each in passes if each.first <= number < each.last]
        used = sampled or (learning and number < net.L) or bool(rows) if rounded else False
        if net.on_cpu and not rounded:
            used = sampled or any(count <= PACKED_ROWS for count in rows)
        if used:
            found[id(weight)] = weight.numel() * (net.p if rounded and net.quick else 4)
    return found


def given_back(net: Network) -> set[int]:
    """The weights, by identity, whose copies are given back while the model learns.

    All that a gradient is handed through; but in bf16 on a processor only the unembedding is not multiplied by copies.
    """
    layer_of = {id(weight): number for number, layer in enumerate(net.layers) for weight in layer.parameters()}
    products = (module for module in net.model.modules() if isinstance(module, Projection))
    return {
        id(module.weight)
        for module in products
        if layer_of.get(id(module.weight), net.L) >= net.first and not (net.on_cpu and _is_rounded(net, module))
    }


def _is_rounded(net: Network, module: Projection) -> bool:
    """Whether it multiplies in bf16: all do but, on a processor, the unembedding."""
    return net.p < 4 and not (isinstance(module, TokenHead) and net.on_cpu)


def trunk(net: Network, rows: int) -> int:
    """4 D for each of all the rows that are kept."""
    return 4 * net.D * rows


def cache(net: Network, slots: int, width: int) -> int:
    """2 L G d c for each of ``width`` places in each slot: keys and values of every layer."""
    return 2 * net.L * slots * width * net.G * net.d * net.c


def prefilled(net: Network, rows: int) -> int:
    """Keys and values of prompts whose responses wait for a slot: 2 L G d c a row."""
    return 2 * net.L * rows * net.G * net.d * net.c


def prefilling(net: Network, rows: int) -> int:
    """The same as the layers give them, and then a layer's work or all side by side."""
    together = Pass(rows=rows, wanted=rows, prompts=((rows, 1, True),), responses=())  # in one run, at worst
    within = max(within_layer(net, rows), within_attention(net, together) if net.own and net.on_cpu else 0)
    return prefilled(net, rows) + max(prefilled(net, rows), within)


def logits(net: Network, wanted: int) -> int:
    """4 M times the part of the vocabulary that is computed at a time; none for a scalar head.

    Three times that where logits are capped, for the slopes. And the unembedding once more, V D, where it is stored
    less or more precisely than it is multiplied.
    """
    if not isinstance(net.model, LanguageModel):
        return 0
    budget = LOGITS if net.on_cpu else LOGITS_ON_GPU
    width = min(max(1, budget // max(1, wanted) // WIDTH) * WIDTH, net.V)
    operand = 4 if net.on_cpu else net.p
    head: Any = net.model.lm_head
    stored = head.weight.element_size() if isinstance(head, TokenHead) else operand
    cast = operand * net.V * net.D if stored != operand else 0
    capped = getattr(net.model.model.shape, "logit_cap", None) is not None
    return cast + wanted * width * (12 if capped else 4 if operand == 4 else 4 + operand)


def drawing(net: Network, slots: int) -> int:
    """4 V for each slot: the logits that tokens are drawn from, in place.

    Another 4 V where V is no multiple of 128, and three times 4 V where logits are capped.
    """
    capped = getattr(net.model.model.shape, "logit_cap", None) is not None
    return 4 * slots * net.V * (3 if capped else 2 if net.V % 128 else 1)


def kept_by_attention(net: Network, part: Pass) -> int:
    """Queries, keys and values as they meet, what comes of them, and the mask where it has to be cast.

    d c (H + 2 G) a row. d c H comes out, and a sum for each head. On a processor that is all.

    On a GPU a padded copy is kept as well where lengths differ, and of all of it what comes out. A response reads its
    prompt's keys and values beside its own: 2 G d c for each place of the longest prompt and response.
    """
    if scores(net, part):
        return kept_by_capped_attention(net, part)
    per_row, found = net.d * net.c * (net.H + 2 * net.G), 0
    if net.on_cpu:
        return part.rows * (per_row + net.H * (net.d + 1) * net.c)
    found += part.rows * per_row if any(even for *_, even in part.prompts) else 0
    for count, width, even in part.prompts:
        found += 0 if even else count * width * per_row
        found += count * width * net.H * (net.d + 1) * net.c
    for count, width, even, before in part.responses:
        found += 0 if even else count * width * net.d * net.H * net.c
        found += count * width * net.H * (net.d + 1) * net.c
        found += 2 * count * (before + width) * net.G * net.d * net.c
    return found + (part.masked * net.c if net.c != 4 else 0)


def kept_by_capped_attention(net: Network, part: Pass) -> int:
    """Where scores are capped they are all there, each kept twice: bent, and as a weight.

    Queries, keys and values as they are multiplied, d a (H + 2 G) a row of a prompt; d a H of a response, and 2 G d a
    for each place of prompt and response. Where lengths differ, the queries once more as they were padded, unless they
    are cast; and a prompt that is alone in its run has its keys read where they came from, which keeps all of that.
    """
    heads, keys, found = net.d * net.a * net.H, 2 * net.d * net.a * net.G, 2 * scores(net, part)
    padded = heads if net.a == net.c else 0
    alone = [width for count, width, _ in part.prompts if count == 1 and width and padded]
    found += part.rows * (heads + keys) - sum(alone) * keys if alone else 0
    for count, width, even in part.prompts:
        found += count * width * (heads + keys + (0 if even else padded))
    for count, width, even, before in part.responses:
        found += count * width * (heads + (0 if even else padded)) + count * (before + width) * keys
    return found


def scores(net: Network, part: Pass) -> int:
    """H times 4, or a, for every query and key that meet, where attention is capped; else they are never all there."""
    if not any(layer.rule.cap for layer in getattr(net.model.model.shape, "layers", ())):
        return 0
    pairs = sum(count * width * width for count, width, _ in part.prompts)
    pairs += sum(count * width * (before + width) for count, width, _, before in part.responses)
    return pairs * net.H * max(4, net.a)


def kept_by_layer(net: Network, index: int, part: Pass) -> int:
    """What the backward pass of one layer needs.

    A norm keeps its rows, if it learns or gradients go on below: 4 D each; one of queries and keys 4 d (H + G) each.
    Elsewhere than on a processor the rows wait for what is below and the normalised ones for what it learns. The
    products that learn keep what they multiply with: p D for queries, keys and values, p H d for the output, p D and
    p F inside; and in bf16 the cast weights. Where adapters compute in fp64 the same is kept in fp32 for them; what
    else they keep says `kept_by_adapter`. Between the inner ones see `between_inner`.
    """
    layer: Any = net.layers[index]
    (first, after), (second, last) = getattr(net.model.model.shape, "norms", BEFORE)
    out = part.wanted if index == net.L - 1 and net.own else part.rows
    norms = any("norm" in name and weight.requires_grad for name, weight in layer.named_parameters())
    below = index > net.first or any_learns(*net.model.model.lower(0))
    norm = 4 if norms and not net.norms_once else 0
    found = part.rows * (4 * (below or (norms and net.norms_once)) + norm) * net.D if first else 0
    found += out * ((4 + norm) * net.D * sum(map(bool, (after, second, last))) + between_inner(net, layer))
    if getattr(net.model.model.shape, "query_key_norm", ""):
        found += part.rows * (4 + norm) * net.d * (net.H + net.G)
    for names, size, rows in (
        (("q_proj", "k_proj", "v_proj"), net.D, part.rows),
        (("o_proj",), net.H * net.d, out),
        (("gate_proj", "up_proj"), net.D, out),
        (("down_proj",), net.F, out),
    ):
        products: list[Any] = [module for name, module in layer.named_modules() if name.endswith(names)]
        adapters = [module.adapter for module in products if getattr(module, "adapter", None) is not None]
        learns = not products or any(module.weight.requires_grad for module in products)
        found += rows * size * net.p if learns or (adapters and net.p == 4) else 0
        found += rows * size * net.c if adapters and net.a > 4 else 0
        found += sum(net.p * module.weight.numel() for module in products) if learns and net.p < 4 else 0
        found += sum(kept_by_adapter(net, adapter, size, rows) for adapter in adapters)
    return found + kept_by_attention(net, part)


def between_inner(net: Network, layer: nn.Module) -> int:
    """12 F a row between the inner products; on a processor what comes of two of them alone.

    That is p F each, or 4 F where a bias or an adapter is added.
    """
    if not (net.own and net.on_cpu):
        return 12 * net.F
    inner: list[Any] = [module for name, module in layer.named_modules() if name.endswith(("gate_proj", "up_proj"))]
    added = any(module.bias is not None or getattr(module, "adapter", None) is not None for module in inner)
    return 2 * net.F * (4 if added else net.p)


def between_layers(net: Network, part: Pass) -> int:
    """What is kept of a layer that will be computed again: its rows, 4 D each."""
    return 4 * net.D * part.rows


def kept_by_adapter(net: Network, adapter: Any, size: int, rows: int) -> int:
    """c r a row, and where that is less than fp32 the operand once more, and A and B."""
    matrices = adapter.lora_A.numel() + adapter.lora_B.numel()
    return int(rows * net.c * adapter.rank + ((rows * size + matrices) * net.c if net.c < 4 else 0))


def kept_by_head(net: Network, part: Pass) -> int:
    """The last norm's rows, the normalised ones where they are kept, and the head's operand: 4 D a wanted row each."""
    return (12 if net.norm_learns and not net.norms_once else 8) * net.D * part.wanted


def given_to_head(net: Network, part: Pass) -> int:
    """The head's operand alone, where no gradient is asked for: 4 D for each wanted row."""
    return 4 * net.D * part.wanted


def masks(part: Pass) -> int:
    """4 bytes for each place that a response may look at, and the layout itself: three numbers of 8 bytes a row."""
    return 24 * part.rows + 4 * part.masked


def within_layer(net: Network, rows: int) -> int:
    """What one layer holds at a time beyond what is kept, where no gradient is asked for: 4 (3 D + 4 F) a row.

    On a processor there are what the pass began with and the rounded rows as well, (4 + p) D, and inside what comes of
    two products, and what they make together, p F.
    """
    if not (net.own and net.on_cpu):
        return 4 * rows * (3 * net.D + 4 * net.F)
    return rows * ((16 + net.p) * net.D + between_inner(net, net.layers[-1]) + net.p * net.F)


def within_attention(net: Network, part: Pass) -> int:
    """The same in attention: 8 D + d a (2 H + 2 G) a row, beside what a backward pass would need, and capped scores.

    On a processor it is made wider a run at a time: d a (2 H + 2 G) for each place of the largest.
    """
    wide, places = net.d * net.a * 2 * (net.H + net.G), part.rows
    if net.own and net.on_cpu and not scores(net, part):
        runs = [count * width for count, width, _ in part.prompts]
        places = max(runs + [count * (before + width) for count, width, _, before in part.responses], default=0)
    return part.rows * 8 * net.D + places * wide + kept_by_attention(net, part) + scores(net, part)


def within_backward(net: Network, part: Pass, *, wanted: bool) -> int:
    """Gradients inside one layer: 4 (2 D + 3 F) a row that leaves it, or d (c + 4) (H + 2 G) a row in attention.

    There those of capped scores as well, twice.
    """
    out = part.wanted if wanted and net.own else part.rows
    inner, attention = 4 * (2 * net.D + 3 * net.F), net.d * (net.c + 4) * (net.H + 2 * net.G)
    return max(out * inner, part.rows * attention + 2 * scores(net, part))


def head_gradients(net: Network) -> int:
    """Of the head's weight, newly made at the beginning of every backward pass: 4 V D, or 4 D."""
    head: Any = net.model.lm_head if isinstance(net.model, LanguageModel) else net.model.score
    return gradients(head)


def embedding_gradients(net: Network) -> int:
    """Of the embeddings, newly made at its end: 4 V D; tied ones beside those of the head."""
    return sum(gradients(module) for module in net.model.model.lower(0))
