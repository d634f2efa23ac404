"""Decoding with our own `Decoder`: a fixed number of slots side by side.

Each prompt is computed once and its keys and values are copied to the slots of its K responses (`cache.py`). A slot
whose response has ended takes the next one waiting, and when none waits the remaining slots close up. On a GPU nothing
closes up: there a step is captured once as a graph, because launching its hundreds of kernels from Python takes longer
than they run, and a graph's tensors have to stay where they are.

Left out: paged caches (responses are short, and a slot's place is reused as it is).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from palate.lm.batch import Layout, Sequences
from palate.lm.decoder import Decoder, packed_attention
from palate.lm.families import Rule
from palate.lm.model import LanguageModel
from palate.recipe import Sampling
from palate.rollout.cache import Cache, Prefilled
from palate.rollout.drawing import Drawn, Pick

REFILL_SHARE = 0.25
"""Slots are refilled or closed up once this share of them is idle: prompts are best computed several at once."""

PREFILL_TOKENS = 4096
"""Prompts are computed in passes of so many tokens, or one prompt, at most."""


def stays_in_place(device: torch.device) -> bool:
    """Whether a step's tensors keep their memory and shapes, so that it can be captured."""
    return device.type == "cuda"


def captured(compute: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """What ``compute`` launches on a GPU, as one launch; it is run once on the way. Elsewhere ``compute`` itself."""
    if device.type != "cuda":
        return compute
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        compute()  # libraries set themselves up at their first call, which cannot be captured
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        compute()
    return graph.replay


class Decoding:
    """Fills in responses, each to one of ``prompt_tokens``, a number of them side by side."""

    def __init__(
        self,
        model: LanguageModel,
        decoder: Decoder,
        prompt_tokens: list[list[int]],
        responses: list[Drawn],
        sampling: Sampling,
        stop_id: int,
        pick: Pick,
    ) -> None:
        self.model, self.decoder, self.prompt_tokens = model, decoder, prompt_tokens
        self.sampling, self.stop_id, self.pick = sampling, stop_id, pick
        self.waiting = deque(responses)
        self.followers = Counter(response.prompt for response in responses)
        self.prefilled: dict[int, Prefilled] = {}
        slots = min(sampling.num_slots, len(responses))
        self.slots: list[Drawn | None] = [None] * slots
        longest = max(len(tokens) for tokens in prompt_tokens)
        self.cache = Cache(decoder, slots, longest=longest, new=sampling.max_new_tokens, device=model.device)
        self.last = torch.zeros(slots, decoder.shape.hidden_size, device=model.device)
        self.uniform = torch.zeros(slots, dtype=torch.float64, device=model.device)
        self.tokens, self.logprobs = torch.zeros_like(self.cache.positions), torch.zeros_like(self.uniform)
        self.fixed = stays_in_place(model.device)
        self.advance: Callable[[], None] | None = None

    def steps(self) -> Iterator[None]:
        """Until every response is done; between two yields every slot gets a token."""
        while self.waiting or any(self.slots):
            idle = [slot for slot, response in enumerate(self.slots) if response is None]
            if idle and len(idle) >= REFILL_SHARE * len(self.slots):
                if self.waiting:
                    self._refill(idle)
                elif not self.fixed:
                    self._close_up()
            self._step()
            yield

    def _step(self) -> None:
        """Draw a token in every slot, and compute the rows that the next tokens are drawn from."""
        numbers = [0.0 if response is None else response.next_uniform for response in self.slots]
        self.uniform.copy_(torch.tensor(numbers, dtype=torch.float64))
        if self.fixed:
            self.advance = self.advance or self._captured()
            self.advance()
            self._record()
        else:
            self._draw()
            self._record()
            if any(self.slots):
                self._read()
        active = [response is not None for response in self.slots]
        self.cache.positions += torch.tensor(active, device=self.last.device)

    def _draw(self) -> None:
        logits = self.model.logits(self.last, temperature=self.sampling.temperature)
        self.tokens, self.logprobs = self.pick(logits, self.uniform)

    def _read(self) -> None:
        attend = self.cache.attend(whole=self.fixed)
        self.last.copy_(self.model(self.decoder, self.tokens, self.cache.positions, attend))

    def _draw_and_read(self) -> None:
        self._draw()
        self._read()

    def _captured(self) -> Callable[[], None]:
        before = self.last.clone()
        advance = captured(self._draw_and_read, self.last.device)
        self.last.copy_(before)  # keys and values were written where the first step will write them again
        return advance

    def _record(self) -> None:
        tokens, logprobs = torch.stack([self.tokens.double(), self.logprobs]).tolist()  # one wait for the device
        for slot, (response, token, logprob) in enumerate(zip(self.slots, tokens, logprobs, strict=True)):
            if response is None:
                continue
            response.add(int(token), logprob, self.stop_id)
            if response.done:
                self.slots[slot] = None

    def _refill(self, idle: list[int]) -> None:
        entering = [self.waiting.popleft() for _ in range(min(len(idle), len(self.waiting)))]
        for part in self._passes(sorted({response.prompt for response in entering} - self.prefilled.keys())):
            self._prefill(part)
        for slot, response in zip(idle, entering, strict=False):
            prompt = self.prefilled[response.prompt]
            self.cache.admit(slot, response.prompt, prompt)
            self.last[slot] = prompt.last
            self.slots[slot] = response
            self.followers[response.prompt] -= 1
            if not self.followers[response.prompt]:
                del self.prefilled[response.prompt]

    def _close_up(self) -> None:
        active = [slot for slot, response in enumerate(self.slots) if response is not None]
        index = torch.tensor(active, device=self.last.device)
        self.cache.keep(active)
        self.last, self.uniform = self.last[index], self.uniform[index]
        self.slots = [self.slots[slot] for slot in active]

    def _passes(self, prompts: list[int]) -> Iterator[list[int]]:
        """The prompts in parts of at most `PREFILL_TOKENS`."""
        part: list[int] = []
        for prompt in prompts:
            if part and sum(len(self.prompt_tokens[each]) for each in [*part, prompt]) > PREFILL_TOKENS:
                yield part
                part = []
            part.append(prompt)
        if part:
            yield part

    def _prefill(self, prompts: list[int]) -> None:
        """Compute prompts once, in one pass, and keep what their responses will start from."""
        tokens = [self.prompt_tokens[prompt] for prompt in prompts]
        layout = Layout.of(Sequences.pack(tokens, [[] for _ in tokens]).to(self.model.device))
        seen, packed = [], packed_attention(layout, self.decoder.dtype)

        def attend(layer: int, rule: Rule, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            seen.append((k.contiguous(), v.contiguous()))  # or queries would be kept with them
            return packed(layer, rule, q, k, v)

        starts = layout.prompt_starts.tolist()
        ends = torch.tensor([start + len(ids) - 1 for start, ids in zip(starts, tokens, strict=True)])
        wanted = ends.to(self.last.device)
        lasts = self.model(self.decoder, layout.tokens, layout.positions, attend, wanted=wanted)
        keys, values = (torch.stack(parts).transpose(1, 2) for parts in zip(*seen, strict=True))
        for prompt, ids, start, last in zip(prompts, tokens, starts, lasts, strict=True):
            span = slice(start, start + len(ids))
            self.prefilled[prompt] = Prefilled(keys[:, :, span], values[:, :, span], last)
