"""Prompts of the demonstration: small talk about everyday things, made by crossing openings with subjects.

Whole subjects are held out, so that what is measured is taste and not memory.
"""

from __future__ import annotations

from itertools import product

from palate.records import Prompt

SYSTEM = "Answer in one short sentence."

OPENINGS = (
    "Tell me something about {}.",
    "What do you think of {}?",
    "Describe {} to a child.",
    "Why do some people like {}?",
    "What is the trouble with {}?",
    "Give me a thought about {} to start the day.",
    "What would you say to somebody who is tired of {}?",
    "What is special about {}?",
    "My neighbour keeps talking about {}. What should I answer?",
    "What do people remember about {}?",
    "How could one learn to like {}?",
    "Write a caption for a picture of {}.",
)

SUBJECTS = (
    "rain", "old trains", "washing dishes", "a long queue", "Monday mornings", "homemade soup", "a broken umbrella",
    "city pigeons", "learning the violin", "a crowded bus", "winter evenings", "gardening", "a slow computer", "cheese",
    "moving house", "a noisy fridge", "camping", "handwritten letters", "traffic lights", "growing tomatoes",
    "a lost key", "swimming in a lake", "tax forms", "baking bread", "an early alarm clock", "ferry rides", "chess",
    "a stubborn cat", "public libraries", "cold coffee", "hiking in fog", "a power cut", "second-hand books",
    "mending socks", "a job interview", "street musicians", "mosquitoes", "an empty beach", "paper maps", "a flat tyre",
    "a picnic", "an old radio", "porridge", "a squeaky chair", "fireflies", "a train station", "sewing",
    "the sound of bells", "a broken zip", "wild berries", "a small garden", "a long walk", "thunderstorms",
    "a borrowed book", "breakfast", "riding a horse", "spring cleaning", "a school play", "frozen windows",
    "a full moon",
)  # fmt: skip

HELD_OUT_SUBJECTS = (
    "snow", "waiting rooms", "a leaking tap", "apple trees", "night buses", "learning to cook", "a muddy dog",
    "wooden toys", "spam calls", "market stalls", "a stiff door", "sunrise", "moths", "long meetings", "knitting",
    "a rusty bicycle",
)  # fmt: skip


def demo_prompts(*, held_out: bool) -> list[Prompt]:
    """Every opening with every subject of one side: 720 prompts to learn from, 192 held out."""
    subjects = HELD_OUT_SUBJECTS if held_out else SUBJECTS
    return [
        Prompt.from_text(opening.format(subject), system=SYSTEM, tags={"subject": subject})
        for subject, opening in product(subjects, OPENINGS)
    ]
