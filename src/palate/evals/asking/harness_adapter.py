"""Every task of lm-evaluation-harness on a Palate model, contexts that are shared computed once.

    import lm_eval
    from palate.evals.asking.harness_adapter import PalateLM

    lm_eval.simple_evaluate(model=PalateLM("runs/mine/ppo/model"), tasks=["arc_easy"])

It is called "palate" among the harness's models once this module is imported. The harness makes the prompts, draws the
examples and counts; likelihoods are those of `likelihoods.py`, text is decoded as everywhere in Palate: greedily, or
from the full distribution at a task's temperature. Left out: top-p, top-k and the like, which are refused.

Needs `palate[lm-eval]`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch

from palate.errors import MissingExtraError, RecipeError
from palate.evals.asking.likelihoods import Pair, likelihoods, prefix_id, tokens_of, windows, within
from palate.lm.sources.zoo import Precision, load_language_model
from palate.randomness import uniforms
from palate.recipe import Sampling
from palate.rollout.drawing import Drawn, draw, most_likely
from palate.rollout.local import steps
from palate.run.trackers import showing

MISSING = ""
"""The package that is not installed; empty if all are."""
try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
except ModuleNotFoundError as error:
    MISSING = error.name or "lm_eval"
    TemplateLM = object

PASSES = 4
"""Between two looks at the progress."""
TAIL = 24
"""Tokens among which a stop sequence is looked for after each new one."""


class PalateLM(TemplateLM):  # type: ignore[misc]
    """A model of Palate's as the harness wants it.

    Args:
        pretrained: a path, a Hugging Face name, or one of the builtin models.
        precision: of matrix products.
        max_tokens: computed in one pass.
        max_length: longest context and continuation in tokens; 0: what the model was made for.
        num_slots: responses decoded side by side.
        seed: of text that is sampled.

    Raises:
        MissingExtraError: the harness is not installed.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        precision: Precision = "auto",
        max_tokens: int = 4096,
        max_length: int = 0,
        num_slots: int = 64,
        seed: int = 0,
        device: str | None = None,
        **_: Any,
    ) -> None:
        if MISSING:
            raise MissingExtraError(MISSING, "lm-eval")
        super().__init__()

        def settle(model: Any) -> None:
            model.freeze_all()
            model.join([])

        self.loaded = load_language_model(pretrained, precision=precision, device=device, settle=settle)
        self.model, self.tokenizer = self.loaded.model, self.loaded.chat.tokenizer
        self._device = self.model.device
        self.max_tokens, self.num_slots, self.seed = int(max_tokens), int(num_slots), int(seed)
        context = min(self.model.context, 2048 if self.model.context == float("inf") else self.model.context)
        self.max_length = int(max_length or context)

    @property
    def eot_token_id(self) -> int:
        """What ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that nothing stands before."""
        return prefix_id(self.tokenizer)

    @property
    def tokenizer_name(self) -> str:
        """For the harness's own caches."""
        return self.loaded.name.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """A text in tokens."""
        if add_special_tokens is None:
            return tokens_of(self.tokenizer, string)
        return list(self.tokenizer(string, add_special_tokens=add_special_tokens).input_ids)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the model's template has it."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        most = min(self.max_length + 1, self.model.context)  # as the harness counts: the last token is not read
        pairs, cut = within([(context, text) for _texts, context, text in requests], most)
        _say_cut(cut, len(pairs))
        found: list[tuple[float, bool]] = []
        with showing("requests") as show:
            for part in _parts(pairs, PASSES * self.max_tokens):
                show(len(found), len(pairs))
                answers = likelihoods(self.model, part, max_tokens=self.max_tokens)
                found += [(answer.logprob, answer.greedy) for answer in answers]
        for (texts, _before, _after), answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Of whole documents, each token once."""
        length = int(min(self.max_length, self.model.context - 1))
        documents = [
            windows(tokens_of(self.tokenizer, request.args[0]), self.prefix_token_id, length) for request in requests
        ]
        pairs = list(chain.from_iterable(documents))
        answers = [
            answer
            for part in _parts(pairs, PASSES * self.max_tokens)
            for answer in likelihoods(self.model, part, max_tokens=self.max_tokens)
        ]
        left = iter(answers)
        found = [sum(next(left).logprob for _ in document) for document in documents]
        for request, logprob in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, logprob)
        return found

    @torch.no_grad()
    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What follows each context, up to one of its stop sequences.

        Raises:
            RecipeError: a task that shapes the distribution it samples from.
        """
        found = [""] * len(requests)
        by_settings: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            by_settings.setdefault(repr(request.args[1]), []).append(place)
        for places in by_settings.values():
            texts = self._generated([requests[place].args for place in places], places)
            for place, text in zip(places, texts, strict=True):
                found[place] = text
                self.cache_hook.add_partial("generate_until", requests[place].args, text)
        return found

    def _generated(self, asked: Sequence[tuple[str, dict[str, Any]]], places: Sequence[int]) -> list[str]:
        """Of contexts that share their settings."""
        settings = normalize_gen_kwargs(asked[0][1], 256)
        stops = [*(each for each in settings.pop("until", []) if each), self.tokenizer.decode([self.eot_token_id])]
        length, temperature = int(settings.pop("max_gen_toks")), float(settings.pop("temperature", 0.0))
        sampled = bool(settings.pop("do_sample", False)) and temperature > 0
        if shaping := [name for name, value in settings.items() if value is not None]:
            raise RecipeError(f"{', '.join(shaping)}: Palate samples from the full distribution alone")
        sampling = Sampling(
            temperature=temperature if sampled else 1.0, max_new_tokens=length, num_slots=self.num_slots
        )
        whole = [self.tok_encode(context) or [self.prefix_token_id] for context, _ in asked]
        prompts = [tokens[-(self.max_length - length) :] for tokens in whole]
        _say_cut(sum(len(kept) < len(tokens) for kept, tokens in zip(prompts, whole, strict=True)), len(whole))
        drawn = [
            Drawn(number, uniforms(length, self.seed, "lm-eval", place).tolist()) for number, place in enumerate(places)
        ]
        decoding = steps(self.model, prompts, drawn, sampling, self.eot_token_id, draw if sampled else most_likely)
        for _ in decoding:
            for response in drawn:
                if not response.done and self._has_stopped(response, stops):
                    response.uniform = response.uniform[: len(response.tokens) + 1]  # one more, and it is done
        texts = [str(self.tokenizer.decode(response.tokens, skip_special_tokens=False)) for response in drawn]
        return [str(postprocess_generated_text(text, stops, None)) for text in texts]

    def _has_stopped(self, response: Drawn, stops: Sequence[str]) -> bool:
        tail = str(self.tokenizer.decode(response.tokens[-TAIL:], skip_special_tokens=False))
        return any(stop in tail for stop in stops)


def _say_cut(cut: int, count: int) -> None:
    if cut:
        print(f"{cut} of {count} contexts are longer than the model's: their beginning is left out", file=sys.stderr)


def _parts(pairs: Sequence[Pair], most: int) -> Iterator[list[Pair]]:
    """The pairs in parts of about so many tokens; those of one context, which stand side by side, are not divided."""
    taken: list[Pair] = []
    size = 0
    for pair in pairs:
        same = bool(taken) and taken[-1][0] == pair[0]
        if taken and not same and size > most:
            yield taken
            taken, size = [], 0
        size += len(pair[1]) + (0 if same else len(pair[0]))
        taken.append(pair)
    if taken:
        yield taken


if not MISSING:
    register_model("palate")(PalateLM)
