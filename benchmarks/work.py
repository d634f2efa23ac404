"""The work that both sides do: made up from a small vocabulary, with the lengths of real dialogues, always the same.

What the words say changes nothing about the time they take; how long they are changes much. Lengths follow log-normal
distributions with the spread measured on 800 dialogues of Anthropic's HH data (0.75 for prompts, 0.9 for responses),
scaled to a mean of 60 tokens a prompt and 34 a response; long rows are 1,024 and 256 tokens, all of them.

Only the standard library is used: every side reads this file.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VOCABULARY = """
the a river house old green small tree people with over light morning water bread song winter summer road stone
garden under bird story long quiet hand blue window day night walk find make new good first friend fire boat
"""
WORDS = VOCABULARY.split()
"""Each is one token after a space in the vocabulary of the embedded model."""


@dataclass(frozen=True)
class Sizes:
    """How long texts are, in tokens.

    Attributes:
        prompt, new: of every prompt that is sampled from, the template's included, and of every response to it.
        prompts, responses: means of texts that are learned from, responses with their stop token.
        spreads: of the two, of their logarithms.
    """

    prompt: int = 45
    new: int = 48
    prompts: float = 60
    responses: float = 34
    spreads: tuple[float, float] = (0.75, 0.9)


SIZES = {
    "short": Sizes(),
    "long": Sizes(prompt=1024, new=256, prompts=1024, responses=256, spreads=(0.0, 0.0)),
    "tiny": Sizes(prompt=12, new=8, prompts=12, responses=6),
}
"""The benchmark's own, long ones, and those for trying it out."""

SAMPLED_PROMPTS, SAMPLES_EACH = 16, 4
RL_PROMPTS, RL_SAMPLES = 8, 4
COMPARISONS = 8
DEMONSTRATIONS = 16
TEMPLATE_TOKENS = 7
"""What the chat template puts around one user turn and the opening of the assistant's."""

LONGEST = 2048
"""Tokens of a row that either side takes; there is none."""

LEARNING_RATE = 1e-5
BETAS, EPSILON = (0.9, 0.999), 1e-8
KL_COEF, DPO_BETA = 0.05, 0.1

TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ '<|im_start|>assistant\n' + message['content'] + eos_token }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Nothing follows the last stop token, so that both sides put the score of a response on the same one."""


def frozen(layers: int) -> int:
    """How many of them the frozen lines do not train: the lower two thirds."""
    return layers * 2 // 3


def words(count: int, chance: random.Random) -> str:
    """A text of ``count`` tokens."""
    return " ".join(["The", *chance.choices(WORDS, k=count - 1)])


def write(directory: Path, sizes: Sizes) -> None:
    """prompts.jsonl, rl_prompts.jsonl, demonstrations.jsonl, rankings-2.jsonl and rankings-4.jsonl."""
    chance = random.Random(0)

    def length(mean: float, spread: float, least: int) -> int:
        return max(least, round(chance.lognormvariate(math.log(mean) - spread**2 / 2, spread)))

    def prompt() -> str:
        return words(length(sizes.prompts - TEMPLATE_TOKENS, sizes.spreads[0], 4), chance)

    def response() -> str:
        return words(length(sizes.responses - 1, sizes.spreads[1], 3), chance)

    def rows(name: str, items: list[dict[str, Any]]) -> None:
        (directory / name).write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")

    for name, count in (("prompts.jsonl", SAMPLED_PROMPTS), ("rl_prompts.jsonl", RL_PROMPTS)):
        rows(name, [{"prompt": words(sizes.prompt - TEMPLATE_TOKENS, chance)} for _ in range(count)])
    # the last row of each file is held out: Palate wants to measure something at the end, the peers are not given it
    rows(
        "demonstrations.jsonl",
        [
            {"prompt": prompt(), "response": response(), "held": "yes" if number == DEMONSTRATIONS else "no"}
            for number in range(DEMONSTRATIONS + 1)
        ],
    )
    for size in (2, 4):
        rankings = []
        for number in range(COMPARISONS + 1):
            texts = [response() for _ in range(size)]
            held = "yes" if number == COMPARISONS else "no"
            rankings.append({"prompt": prompt(), "responses": texts, "ranks": [*range(1, size + 1)], "held": held})
        rows(f"rankings-{size}.jsonl", rankings)


def read(directory: Path, name: str) -> list[dict[str, Any]]:
    """The rows that are learned from."""
    lines = (directory / name).read_text(encoding="utf-8").split("\n")[:-1]
    return [row for row in map(json.loads, lines) if row.get("held") != "yes"]


def letters(texts: list[str]) -> list[float]:
    """A reward that costs nothing and varies: the share of the letter e."""
    return [text.count("e") / max(1, len(text)) for text in texts]


def reward(prompts: object, responses: list[str]) -> list[float]:
    """The same, as Palate calls it."""
    return letters(list(responses))
