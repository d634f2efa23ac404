"""All sections of a card put to one model, what it has answered before left out: likelihoods in passes of about equal
size, responses from the engine that samples in training.

After each pass its answers are on the disk, so that a run that is stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from palate.errors import TemplateError
from palate.evals.asking.likelihoods import Pair, encode, likelihoods, prefix_id, tokens_of, windows, within
from palate.evals.asking.model_identity import identity
from palate.evals.protocols.items import Asks, Continuation, Item, Likelihood, Opening, Reply, Said, Scores
from palate.lm.chat import Chat
from palate.lm.encode import usable_prompts
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded
from palate.recipe import Sampling
from palate.records import Prompt, content_id
from palate.rewards.judges.answer_cache import AnswerCache
from palate.rollout.drawing import Drawn, most_likely
from palate.rollout.local import LocalEngine, steps
from palate.run.trackers import showing

Raw: TypeAlias = list[list[Any]]
"""The answers to one item as JSON has them."""

PASSES = 4
"""Of likelihoods between two writes."""
PROMPTS = 32
"""That are responded to between two writes."""
DRAWN = 4
"""A token that is drawn takes about as long as so many that are read."""
RECALLED = 32
"""Tokens that follow an opening, or fewer where the model ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a model is asked.

    Attributes:
        window: of documents, in tokens.
        sampling, num_responses, seed: of responses.
        max_tokens: computed in one pass; it changes no answer.
    """

    window: int
    sampling: Sampling
    num_responses: int
    seed: int
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one section asks of one model.

    Attributes:
        asks: what kind of question.
        keys: [N] of the items, under which their answers are kept.
        pairs: [N] each item's continuations in tokens; empty for prompts.
        costs: [N] tokens that each takes.
        roomless: places of the items that the model has no room for: nothing of them is to be asked.
        cut: [N] whether it has no room for an item's context, whose beginning is then left out.
        prompt_lengths: [N] of prompts and openings, in tokens.
        openings: [N] in tokens.
    """

    asks: Asks
    items: Sequence[Item]
    keys: Sequence[str]
    pairs: Sequence[Sequence[Pair]]
    costs: Sequence[int]
    roomless: frozenset[int] = frozenset()
    cut: Sequence[bool] = ()
    prompt_lengths: Sequence[int] = ()
    openings: Sequence[list[int]] = ()

    @property
    def longest(self) -> list[Pair]:
        """The pairs of the items that take most."""
        order = sorted(range(len(self.items)), key=lambda place: -self.costs[place])
        return [pair for place in order[:16] for pair in (self.pairs[place] if self.pairs else ())]

    def without(self, places: Collection[int]) -> Task:
        """The same without these items, none of those that are left without room."""
        kept = [place for place in range(len(self.items)) if place not in places]
        columns = ("items", "keys", "pairs", "costs", "cut", "prompt_lengths", "openings")
        of_kept: dict[str, Any] = {
            name: [column[place] for place in kept] for name in columns if (column := getattr(self, name))
        }
        return replace(self, roomless=frozenset(), **of_kept)


def task(asks: Asks, items: Sequence[Item], chat: Chat, context: float, terms: Terms) -> Task:
    """A section's items for a model with this tokenizer and context."""
    if asks == "openings":
        openings = [_opened(chat, each) for item in items for each in item.asked if isinstance(each, Opening)]
        return Task(
            asks=asks,
            items=items,
            keys=[_key(asks, item, terms) for item in items],
            pairs=(),
            costs=[len(each) + RECALLED * DRAWN for each in openings],
            roomless=frozenset(place for place, each in enumerate(openings) if len(each) + RECALLED > context),
            prompt_lengths=list(map(len, openings)),
            openings=openings,
        )
    if asks == "prompts":
        drawn = terms.num_responses * terms.sampling.max_new_tokens * DRAWN
        room, limit = context - terms.sampling.max_new_tokens, "the context - max_new_tokens"
        usable = usable_prompts(chat, prompts_of(items), max_length=room, limit=limit)
        lengths, roomless = iter(usable.lengths), frozenset(each.index for each in usable.left_out)
        return Task(
            asks=asks,
            items=items,
            keys=[_key(asks, item, terms) for item in items],
            pairs=(),
            costs=[drawn] * len(items),
            roomless=roomless,
            prompt_lengths=[0 if place in roomless else next(lengths) for place in range(len(items))],
        )
    pairs: list[list[Pair]] = []
    cut: list[bool] = []
    without_room: set[int] = set()
    for place, found in enumerate(_in_tokens(asks, items, chat, window_of(terms, context))):
        try:
            kept, cut_here = within(found, context)
        except ValueError:
            kept, cut_here = [], 0
        if not kept:
            without_room.add(place)
        pairs.append(kept)
        cut.append(cut_here > 0)
    return Task(
        asks=asks,
        items=items,
        keys=[_key(asks, item, terms) for item in items],
        pairs=pairs,
        costs=[_tokens(each) for each in pairs],
        roomless=frozenset(without_room),
        cut=cut,
    )


def window_of(terms: Terms, context: float) -> int:
    """Tokens of a document in a row; a model that is too short for the window has a shorter one."""
    return int(min(terms.window, context - 1))


def _in_tokens(asks: Asks, items: Sequence[Item], chat: Chat, length: int) -> Iterator[list[Pair]]:
    """Of each item its pairs; none where the template cannot hold it."""
    if asks == "continuations":
        continuations = iter(encode(chat.tokenizer, [each for item in items for each in _continuations(item)]))
        yield from ([next(continuations) for _ in item.asked] for item in items)
    elif asks == "documents":
        first = prefix_id(chat.tokenizer)
        texts = ([tokens_of(chat.tokenizer, each.text) for each in _continuations(item)] for item in items)
        yield from ([pair for tokens in each for pair in windows(tokens, first, length)] for each in texts)
    else:
        for item in items:
            try:
                yield [
                    (chat.prompt_tokens(each.prompt), chat.response_tokens(each.text, ended=False))
                    for each in item.asked
                    if isinstance(each, Reply)
                ]
            except TemplateError:
                yield []


def _continuations(item: Item) -> list[Continuation]:
    return [each for each in item.asked if isinstance(each, Continuation)]


def _opened(chat: Chat, opening: Opening) -> list[int]:
    if opening.prompt is not None:
        return [*chat.prompt_tokens(opening.prompt), *chat.beginning_tokens(opening.text)]
    return tokens_of(chat.tokenizer, opening.text) or [prefix_id(chat.tokenizer)]


def _tokens(pairs: Sequence[Pair]) -> int:
    """Computed for these, each distinct context once."""
    contexts = {tuple(context) for context, _ in pairs}
    return sum(map(len, contexts)) + sum(len(text) for _, text in pairs)


def _key(asks: Asks, item: Item, terms: Terms) -> str:
    if asks == "prompts":
        (prompt,) = prompts_of([item])
        drawn = (terms.sampling.temperature, terms.sampling.max_new_tokens, terms.num_responses, terms.seed)
        return content_id(asks, "with their tokens", *map(str, drawn), prompt.id)
    window = str(terms.window) if asks == "documents" else str(RECALLED) if asks == "openings" else ""
    return content_id(asks, window, *(part for each in item.asked for part in _parts(each)))


def _parts(asked: object) -> tuple[str, str]:
    """What is asked, to the letter."""
    if isinstance(asked, Continuation):
        return asked.context, asked.text
    assert isinstance(asked, Reply | Opening)
    return "" if asked.prompt is None else asked.prompt.id, asked.text


def prompts_of(items: Sequence[Item]) -> list[Prompt]:
    """What is to be responded to, one an item."""
    return [each for item in items for each in item.asked if isinstance(each, Prompt)]


@dataclass(frozen=True, slots=True)
class Answered:
    """An item's answers, and what they are worth."""

    scores: Scores
    answers: Sequence[Likelihood | Said]


def answered(
    loaded: Loaded[LanguageModel], tasks: Mapping[str, Task], terms: Terms, cache: Path
) -> dict[str, list[Answered]]:
    """By section, of all its items; those that were answered before, or in another section, are not asked again.

    Args:
        tasks: by section, made for this model.
        cache: a folder for answers, of all models.
    """
    folder, found = cache / identity(loaded), {}
    files = {name: "prompts" if task.asks == "prompts" else name for name, task in tasks.items()}
    caches = {name: AnswerCache(folder / f"{name}.jsonl") for name in dict.fromkeys(files.values())}
    kept = {name: caches[file] for name, file in files.items()}
    met: set[tuple[str, str]] = set()
    left = {name: _unasked(task, kept[name], files[name], met) for name, task in tasks.items()}
    total = sum(tasks[name].costs[place] for name, places in left.items() for place in places)
    done = 0
    with showing(f"{loaded.name}: thousands of tokens") as show:
        for name, each in tasks.items():
            for places in _passes(each, left[name], terms):
                show(done // 1000, -(-total // 1000))
                for place, answers in zip(places, _ask(loaded, each, places, terms), strict=True):
                    kept[name].put(each.keys[place], {"answers": answers})
                done += sum(each.costs[place] for place in places)
            show(done // 1000, -(-total // 1000))
            found[name] = [_scored(each, place, kept[name]) for place in range(len(each.items))]
    return found


def _unasked(task: Task, kept: AnswerCache, file: str, met: set[tuple[str, str]]) -> list[int]:
    """The items that neither the cache nor a section before this one has; they are met now."""
    places = []
    for place, key in enumerate(task.keys):
        if kept.get(key) is None and (file, key) not in met:
            places.append(place)
            met.add((file, key))
    return places


def _scored(task: Task, place: int, kept: AnswerCache) -> Answered:
    found = kept.get(task.keys[place])
    assert found is not None, "all of them were asked"
    kind: Callable[..., Likelihood | Said] = Said if task.asks in ("prompts", "openings") else Likelihood
    answers = [kind(*raw) for raw in found["answers"]]
    return Answered(dict(task.items[place].score(answers)), answers)


def _passes(task: Task, places: Sequence[int], terms: Terms) -> Iterator[list[int]]:
    """The items in parts of some passes each."""
    most = PROMPTS * max(task.costs, default=0) if task.prompt_lengths else PASSES * terms.max_tokens
    taken: list[int] = []
    size = 0
    for place in places:
        if taken and size + task.costs[place] > most:
            yield taken
            taken, size = [], 0
        taken, size = [*taken, place], size + task.costs[place]
    if taken:
        yield taken


def _ask(loaded: Loaded[LanguageModel], task: Task, places: Sequence[int], terms: Terms) -> list[Raw]:
    """The answers to these items."""
    if task.asks == "prompts":
        engine = LocalEngine(loaded.model, loaded.chat)
        prompts = prompts_of([task.items[place] for place in places])
        rollout = engine.generate(prompts, terms.sampling, num_responses=terms.num_responses, key=(terms.seed, "card"))
        columns = (rollout.ended.tolist(), rollout.sequences.responses(), rollout.logprobs.double().sum(1).tolist())
        said = [list(each) for each in zip(rollout.texts, *columns, strict=True)]
        return [said[start : start + terms.num_responses] for start in range(0, len(said), terms.num_responses)]
    if task.asks == "openings":
        return [[said] for said in _recalled(loaded, [task.openings[place] for place in places], terms)]
    pairs = [pair for place in places for pair in task.pairs[place]]
    answers = iter(likelihoods(loaded.model, pairs, max_tokens=terms.max_tokens))
    of_items = [[next(answers) for _ in task.pairs[place]] for place in places]
    if task.asks == "documents":  # the windows of one are one answer
        return [[[sum(each.logprob for each in found), all(each.greedy for each in found)]] for found in of_items]
    return [[[each.logprob, each.greedy] for each in found] for found in of_items]


@torch.no_grad()
def _recalled(loaded: Loaded[LanguageModel], openings: Sequence[list[int]], terms: Terms) -> Raw:
    """What follows each, token for token the most likely one; and whether it came to an end."""
    sampling = Sampling(max_new_tokens=RECALLED, num_slots=terms.sampling.num_slots)
    drawn = [Drawn(number, [0.0] * RECALLED) for number in range(len(openings))]
    for _ in steps(loaded.model, list(openings), drawn, sampling, loaded.chat.stop_id, most_likely):
        pass
    tokenizer = loaded.chat.tokenizer
    return [[str(tokenizer.decode(each.tokens, skip_special_tokens=True)), each.ended] for each in drawn]
