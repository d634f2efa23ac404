"""Debates that nobody judged: each a question with two sides, to be argued for by the second demonstration.

Half of them are learned on, the others held out, both sides together.
"""

from __future__ import annotations

from palate.records import Prompt

SYSTEM = "Argue in two or three sentences."
ARGUE = 'Argue for this side of the debate "{topic}": {stance}.'

DEBATES = (
    ("school uniforms", "they should be compulsory", "they should be abolished"),
    ("homework", "it helps children", "it should go"),
    ("cats or dogs", "cats are the better pets", "dogs are the better pets"),
    ("town or country", "it is better to live in a town", "it is better to live in the country"),
    ("working from home", "it should be a right", "offices are better"),
    ("zoos", "they protect animals", "they should be closed"),
    ("daylight saving time", "keep it", "abolish it"),
    ("cash or cards", "cash must stay", "cards are enough"),
    ("paper books or e-books", "paper books", "e-books"),
    ("the four-day week", "it should be the rule", "it would do harm"),
    ("phones in schools", "they should be banned", "they should be allowed"),
    ("tipping in restaurants", "it is fair", "it should end"),
    ("is space travel worth its price", "yes", "no"),
    ("should voting be compulsory", "yes", "no"),
    ("eating meat", "it is all right", "it is wrong"),
    ("cars in city centres", "they should be kept out", "they belong there"),
    ("should museums be free", "yes, for everyone", "no, visitors should pay"),
    ("early birds or night owls", "get up early", "stay up late"),
    ("fame", "it is worth having", "it is not worth having"),
    ("should children learn to play an instrument", "yes, all of them", "no, only if they want to"),
    ("nuclear power", "we need it", "we should give it up"),
    ("summer or winter", "summer is the better season", "winter is the better season"),
    ("zero for lateness", "late work should get no marks", "late work should get marks"),
    ("should billboards be banned", "yes", "no"),
)  # fmt: skip

HELD_OUT_DEBATES = (
    ("video games", "they are good for young people", "they are bad for young people"),
    ("public libraries", "they are worth their cost", "nobody needs them any more"),
    ("tea or coffee", "tea", "coffee"),
    ("should everyone learn to cook", "yes", "no"),
    ("holidays", "by the sea", "in the mountains"),
    ("exams", "they are fair", "they should be replaced"),
    ("self-driving cars", "they will make roads safer", "they should stay off the roads"),
    ("should shops open on Sundays", "yes", "no"),
    ("bicycles", "helmets should be compulsory", "helmets should be left to the rider"),
    ("social media", "it brings people together", "it drives people apart"),
    ("a gap year before university", "take one", "do not take one"),
    ("should plastic bags be banned", "yes", "no"),
    ("team sports or sports alone", "team sports", "sports alone"),
    ("graffiti", "it is art", "it is damage"),
    ("owning or renting a home", "own it", "rent it"),
    ("fireworks on new year's eve", "they should stay", "they should be banned"),
    ("should handwriting still be taught", "yes", "no"),
    ("fast trains or cheap flights", "fast trains", "cheap flights"),
    ("grades in kindergarten", "they would help", "they would harm"),
    ("should the rich pay higher taxes", "yes", "no"),
    ("horror films", "they are worth watching", "they are not worth watching"),
    ("big families or small families", "big families", "small families"),
    ("should robots care for the old", "yes", "no"),
    ("learning a second language", "it should be compulsory", "it should be a choice"),
)  # fmt: skip


def sides(*, held_out: bool) -> list[Prompt]:
    """Both sides of every debate of one half: 48 prompts to learn from, 48 held out."""
    debates = HELD_OUT_DEBATES if held_out else DEBATES
    return [to_argue(topic, stance) for topic, *stances in debates for stance in stances]


def to_argue(topic: str, stance: str, **tags: str) -> Prompt:
    """The prompt for one side of a debate."""
    text = ARGUE.format(topic=topic, stance=stance)
    return Prompt.from_text(text, system=SYSTEM, tags={"topic": topic, **tags})
