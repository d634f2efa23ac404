"""Any other causal language model, through transformers' own code: GPT-2, mixtures of experts and the rest.

Sequences are padded on the right for training and on the left for sampling, every sequence computes its own prompt, and
nothing is kept of frozen layers. What is promised is that the numbers are transformers' own, and that is checked on a
few tokens whenever such a model is loaded.

Left out: encoders and encoder-decoders, and code that comes with a model.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from palate.errors import ModelError
from palate.lm.backbone import Backbone, Size, Unembedding, draw_scalar_heads
from palate.lm.batch import Layout, Sequences
from palate.lm.logprobs import logprobs_by_rows
from palate.lm.model import Model, ModelT, ScalarModel


def read(
    directory: Path, name: str, kind: type[ModelT], config: Any, dtype: torch.dtype, *, head_seed: int, what: str
) -> ModelT:
    """The model in a directory.

    Args:
        directory: in the Hugging Face layout.
        name: as the user gave it, for messages.
        kind: `LanguageModel` or `ScalarModel`.
        config: of the model; of a scalar one it says how many heads there are.
        dtype: of matrix products.
        head_seed: for scalar heads that are not in the directory.
        what: runs here, in the plural, for whoever reads it.

    Raises:
        ModelError: transformers cannot read it, or it is not a causal language model.
    """
    network, missing = _read_network(directory, name, kind, config)
    check(network, name)
    _announce(name, what)
    model = kind(network.config, Foreign(network, dtype))
    if isinstance(model, ScalarModel) and "score.weight" in missing:
        draw_scalar_heads(model.score, head_seed)
    return model


def sketch(name: str, kind: type[ModelT], config: Any, dtype: torch.dtype) -> ModelT:
    """The model without its weights, made on whatever device is the default now."""
    network = _auto_class(name, kind, config).from_config(config, dtype=torch.float32)
    return kind(network.config, Foreign(network, dtype))


def _auto_class(name: str, kind: type[Model], config: Any) -> Any:
    """transformers' way to a model with this head.

    Raises:
        ModelError: it has none for this family.
    """
    import transformers

    scalar = kind is ScalarModel
    known = (
        transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING if scalar else transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    )
    auto: Any = getattr(transformers, f"AutoModel{kind.head}")
    if type(config) not in known:
        raise ModelError(f"{name}: transformers has no {auto.__name__} for {config.model_type} models")
    return auto


@cache
def _announce(name: str, what: str) -> None:
    print(
        f"{name}: {what} run through transformers' own code: correct, but without shared prompts, "
        "cached trunks or refilled slots",
        file=sys.stderr,
    )


def _read_network(directory: Path, name: str, kind: type[Model], config: Any) -> tuple[Any, set[str]]:
    """transformers' model with the head that is wanted, and the weights the directory does not have."""
    scalar, auto = kind is ScalarModel, _auto_class(name, kind, config)
    try:
        with quiet():
            network, info = auto.from_pretrained(
                directory,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:
        raise ModelError(f"{name}: transformers cannot read it: {' '.join(str(error).split())}") from None
    missing, body = set(info["missing_keys"]), f"{network.base_model_prefix}."
    left = {key for key in info["unexpected_keys"] if not scalar or key.startswith(body)}
    wrong = sorted((missing - {"score.weight"}) | left | {str(key) for key in info["mismatched_keys"]})
    if wrong:
        raise ModelError(f"{name}: the weights do not fit the config: {', '.join(wrong[:5])}")
    return network, missing


class Foreign(Backbone):
    """transformers' model with its head.

    Args:
        network: ``AutoModelForCausalLM`` or ``AutoModelForSequenceClassification``.
        dtype: of the body's matrix products, by autocast.
    """

    prefix = "model.network."

    def __init__(self, network: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype
        text = network.config.get_text_config()
        self.shape = Size(vocab_size=text.vocab_size, hidden_size=text.hidden_size, num_layers=text.num_hidden_layers)
        accepted = inspect.signature(self.body.forward).parameters
        self.takes_positions = "position_ids" in accepted

    @property
    def body(self) -> Any:
        """The network without its head."""
        return self.network.base_model

    def autocast(self) -> torch.autocast:
        """Matrix products in `dtype`."""
        device = next(self.parameters()).device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.dtype != torch.float32)

    def lower(self, layers: int) -> list[nn.Module]:
        """As in `Backbone`: all embeddings that are not inside a layer, and the lowest layers."""
        stack = self._layers()
        inside = set(stack.modules())
        embeddings = [m for m in self.body.modules() if isinstance(m, nn.Embedding) and m not in inside]
        return [*embeddings, *list(stack)[:layers]]

    def _layers(self) -> nn.ModuleList:
        """The decoder's layers, whatever the family calls them."""
        lists = [module for module in self.body.get_decoder().modules() if isinstance(module, nn.ModuleList)]
        return next(module for module in lists if len(module) == self.shape.num_layers)

    def rows(self, sequences: Sequences, layout: Layout, wanted: Tensor) -> Tensor:
        """As in `Backbone`; a shared prompt's rows are those of the first sequence that has it."""
        with self.autocast():
            hidden = self.body(input_ids=sequences.tokens, use_cache=False).last_hidden_state.float()
        width = hidden.shape[1]
        own = [layout.order, sequences.prompt_lengths[layout.order], sequences.lengths[layout.order]]
        first = torch.full_like(layout.groups, len(sequences)).scatter_reduce(0, layout.prompt_of, own[0], "amin")
        shared = [first, torch.zeros_like(first), sequences.prompt_lengths[first]]
        places = [
            row * width + torch.arange(start, end, device=hidden.device)
            for spans in (shared, own)
            for row, start, end in zip(*(span.tolist() for span in spans), strict=True)
        ]
        rows: Tensor = hidden.flatten(0, 1).index_select(0, torch.cat(places)[wanted])
        return rows

    def past(self) -> Any:
        """Nothing read yet; for `extend`."""
        from transformers import DynamicCache

        return DynamicCache(config=self.network.config)

    def extend(self, tokens: Tensor, seen: Tensor, past: Any) -> Tensor:
        """Read more tokens.

        Args:
            tokens: [S, T] the new ones; a prompt is padded on the left, so that what follows it stays next to it.
            seen: [S, all so far] bool, false at padding.
            past: from `past`; changed.

        Returns:
            [S, D] the last row of each.
        """
        positions = (seen.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        extra = {"position_ids": positions} if self.takes_positions else {}
        with self.autocast():
            out = self.body(input_ids=tokens, attention_mask=seen.long(), past_key_values=past, use_cache=True, **extra)
        rows: Tensor = out.last_hidden_state[:, -1].float()
        return rows

    def unembedding(self, *, tied: bool) -> nn.Module:
        """As in `Backbone`; whether it is tied is transformers' affair."""
        return ForeignHead(self)

    def scalar_heads(self, count: int) -> nn.Linear:
        """As in `Backbone`."""
        heads: nn.Linear = self.network.score
        assert len(heads.weight) == count
        return heads

    def write(self, directory: Path, config: Any, state: Mapping[str, Tensor], head: str) -> None:
        """As in `Backbone`."""
        from transformers import GenerationConfig

        if self.network.can_generate():  # the sampling habits of the original would be another policy
            self.network.generation_config = GenerationConfig.from_model_config(config)
        with quiet():
            self.network.save_pretrained(directory)


class ForeignHead(nn.Module, Unembedding):
    """The head as transformers computes it: with its own bias, scale or soft cap.

    It is the whole network, its body replaced by one that hands the given rows through. The weights stay the network's.
    """

    def __init__(self, foreign: Foreign) -> None:
        super().__init__()
        network = copy.copy(foreign.network)  # shallow: modules and parameters are shared
        network._modules = {**network._modules, network.base_model_prefix: _HandThrough()}
        self._network = (network,)  # a tuple: no submodules, the parameters belong to the backbone

    def forward(self, rows: Tensor, tokens: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """As in `Unembedding`."""
        if tokens is None:
            return self._logits(rows).div_(temperature)
        return logprobs_by_rows(self._logits, rows, tokens, temperature=temperature)

    def _logits(self, rows: Tensor) -> Tensor:
        """[N, D] -> [N, V] fp32; autocast would round them, so the head's product is all of it in fp32."""
        (network,) = self._network
        with torch.autocast(rows.device.type, enabled=False):
            logits: Tensor = network(inputs_embeds=rows[None], use_cache=False).logits[0]
        return logits


class _HandThrough(nn.Module):
    """In place of a body."""

    @property
    def decoder(self) -> _HandThrough:
        """OPT asks its body's decoder."""
        return self

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> _Output:
        return _Output(inputs_embeds)


class _Output:
    """What any family's head may look for in its body's output."""

    def __init__(self, rows: Tensor) -> None:
        self.last_hidden_state = rows

    def __getitem__(self, index: int) -> Tensor | None:
        return self.last_hidden_state if index == 0 else None

    def __getattr__(self, _: str) -> None:
        return None


@torch.no_grad()
def check(network: Any, name: str) -> None:
    """Eight tokens: later ones do not change earlier rows, a cache changes nothing, and the head is the network's.

    Raises:
        ModelError: one of these does not hold.
    """
    foreign = Foreign(network, torch.float32)
    tokens = (torch.arange(8) * 37 % foreign.shape.vocab_size)[None]
    seen = torch.ones_like(tokens, dtype=torch.bool)
    try:
        rows = foreign.body(input_ids=tokens, use_cache=False).last_hidden_state[0]
        earlier = foreign.body(input_ids=tokens[:, :5], use_cache=False).last_hidden_state[0]
        past = foreign.past()
        last = [foreign.extend(tokens[:, a:b], seen[:, :b], past)[0] for a, b in ((0, 5), (5, 6), (6, 8))]
        foreign.lower(1)  # layers that can be frozen are found
        agree = _close(rows[:5], earlier) and _close(rows[[4, 5, 7]], torch.stack(last))
        if hasattr(network, "score"):
            heads = network.score.weight
            agree = agree and heads.shape == (network.config.num_labels, rows.shape[-1]) and network.score.bias is None
        else:
            agree = agree and _close(ForeignHead(foreign)(rows), network(input_ids=tokens).logits[0])
    except Exception as error:
        agree, reason = False, f" ({' '.join(str(error).split())[:200]})"
    else:
        reason = ""
    if not agree:
        raise ModelError(
            f"{name}: {network.config.model_type} is not a causal language model that can be trained here{reason}; "
            "name a decoder-only one"
        )


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-4 * (1 + a.abs().max()))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing of transformers' on stderr, no bars and no advice: they are not for people who run a recipe."""
    import transformers

    logging: Any = transformers.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # the bars it does not know how to disable write to whatever stderr is when they are made
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
