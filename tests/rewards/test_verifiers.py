"""Verdicts worked out by hand: a right answer, a wrong one, none at all, and what tries to look right."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palate.errors import RecipeError, RewardError
from palate.recipe import Reward, Verifier, parse_recipe
from palate.records import Prompt
from palate.rewards.mix import Mix
from palate.rewards.verifiers.json_schema import check_schema, verify_json
from palate.rewards.verifiers.number import answer_of, verify_number
from palate.rewards.verifiers.pattern import verify_patterns
from palate.rewards.verifiers.quotes import quotes_of, verify_quotes
from palate.rewards.verifiers.shape import verify_shape

SUM = Prompt.from_text("What is 8 + 10?", tags={"answer": "8 + 10 = <<8+10=18>>18.\n#### 18"})


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It is 18.", 18),
        ("48/2 = 24, and 24 + 48 = 72 clips.", 72),
        ("#### 1,234", 1234),
        ("#### 7 because 3 + 4", 7),
        ("First #### 1, no: #### 2", 2),
        ("I said 5. #### none", None),
        (r"So \boxed{42}, after 7 days.", 42),
        (r"\boxed{\frac{3}{4}}", Fraction(3, 4)),
        (r"$\dfrac{1}{3}$", Fraction(1, 3)),
        ("$18.50", Fraction(37, 2)),
        (r"\$1,000,000 in all", 1_000_000),
        ("about 50%", 50),
        ("-5", -5),
        ("\u22125 degrees", -5),
        ("10-3", 3),
        ("10 - 3", 3),
        (".50", Fraction(1, 2)),
        ("1/2", Fraction(1, 2)),
        ("6/0", None),
        ("1,2", 2),
        ("1,2345", 2345),
        ("on 3/4/2020", 2020),
        ("version 1.2.3", 3),
        ("no number", None),
        ("", None),
        ("9" * 5000, None),
    ],
)
def test_the_answer_of_a_text(text: str, number: Fraction | int | None) -> None:
    assert answer_of(text) == number


@given(st.integers(-(10**12), 10**12), st.integers(0, 4))
def test_a_number_is_read_however_it_is_written(number: int, places: int) -> None:
    exact = Fraction(number, 10**places)
    sign, digits = "-" if number < 0 else "", f"{abs(number):0{places + 1}d}"
    whole, decimals = (digits[:-places], "." + digits[-places:]) if places else (digits, "")
    for text in (f"{sign}{whole}{decimals}", f"{sign}{int(whole):,}{decimals}", f"{number}/{10**places}"):
        assert answer_of(f"Together ${text} dollars.") == exact


def test_numbers_are_compared_exactly() -> None:
    third = Prompt.from_text("A third?", tags={"answer": "1/3"})
    assert verify_number(third, "2/6", tag="answer").score == 1
    assert verify_number(third, "0.3333333333333333", tag="answer").score == 0
    wrong = verify_number(SUM, "19", tag="answer")
    assert (wrong.score, wrong.reason) == (0, "19 instead of 18")
    assert verify_number(SUM, "eighteen", tag="answer").reason == "no number"


def test_a_prompt_whose_answer_is_not_known_is_named() -> None:
    with pytest.raises(RewardError, match=r"the prompt [0-9a-f]{16} \('And\?'\) has no tag 'answer'"):
        verify_number(Prompt.from_text("And?"), "1", tag="answer")
    with pytest.raises(RewardError, match="has no number in its tag 'answer'"):
        verify_number(Prompt.from_text("And?", tags={"answer": "many"}), "1", tag="answer")


SOURCE = Prompt.from_text(
    "From this, quote.\nShe said: \u201cThe   sea isn\u2019t calm\ntoday\u201d, and went home alone."
)


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ('It says "sea isn\'t calm today".', 1.0),
        ("\u201eThe sea isn\u2019t calm today.\u201c", 1.0),
        ("\u00ab and went home alone \u00bb", 1.0),
        ('"the sea isn\'t calm today"', 0.0),  # another case is another text
        ('"the calm sea today"', 0.0),
        ('"and went home alone" but "he stayed at sea"', 0.5),
        ("No quote.", 0.25),
        ('A "calm" word.', 0.25),
        ('"..." "" "- - -"', 0.0),
        ('An open " mark and went home alone', 0.25),
    ],
)
def test_quotes_must_stand_there(response: str, score: float) -> None:
    assert verify_quotes(SOURCE, response, tag="", fewest_words=3, without=0.25).score == score


def test_a_quote_without_a_letter_or_a_number_says_nothing() -> None:
    ruled = Prompt.from_text("First. - - - Then, 3.")
    assert verify_quotes(ruled, '"- - -" and "Then, 3."', tag="", fewest_words=2, without=0.25).score == 0.5


def test_quotes_are_looked_for_in_the_tag_that_is_named() -> None:
    prompt = Prompt.from_text("Quote what you read.", tags={"text": "the cat sat on the mat"})
    assert verify_quotes(prompt, '"cat sat on"', tag="text", fewest_words=3, without=0).score == 1
    invented = verify_quotes(prompt, '"Quote what you read."', tag="text", fewest_words=3, without=0)
    assert (invented.score, invented.reason) == (0, "0 of 1 quotes stand there; not: Quote what you read.")
    with pytest.raises(RewardError, match="has no tag 'text'"):
        verify_quotes(SOURCE, '"a b c"', tag="text", fewest_words=3, without=0)


@given(st.text(alphabet="ab \"'\n", max_size=40))
def test_what_is_cut_out_of_a_text_stands_in_it(text: str) -> None:
    prompt = Prompt.from_text(f"xy {text} z")
    words = " ".join(text.replace('"', " ").split())
    if words and words in " ".join(prompt.text.split()):
        says = any(map(str.isalnum, words))
        assert verify_quotes(prompt, f'"{words}"', tag="", fewest_words=1, without=0).score == says
    assert all('"' not in quote for quote in quotes_of(text))


def test_patterns() -> None:
    texts = ["Dear Ann, yours", "Dear Ann, damn", "Ann", "dear\nyours"]
    verdicts = verify_patterns(texts, must_match=[r"\bDear\b", "Ann"], must_not_match=["damn"])
    assert [verdict.score for verdict in verdicts] == [1, 0, 0, 0]
    assert [verdict.reason for verdict in verdicts][:3] == [
        "matches",
        "matches 'damn': 'damn'",
        r"does not match '\\bDear\\b'",
    ]


def test_a_catastrophic_pattern_ends() -> None:
    """It alone is given up, and what comes after it is still read."""
    begun = time.perf_counter()
    verdicts = verify_patterns(["a" * 60 + "!", "aaa"], must_match=["^(a+)+$"], must_not_match=[], seconds=0.2)
    assert [(each.score, each.reason) for each in verdicts] == [
        (0, "the patterns took more than 0.2 s"),
        (1, "matches"),
    ]
    assert time.perf_counter() - begun < 30


def test_shape() -> None:
    text = "## Answer:\nYes.\n\n**Why**\nBecause.\n"
    everything = {"starts_with": "## Answer", "ends_with": ".", "max_words": 5, "sections": ("Answer", "Why")}
    assert verify_shape(text, **everything) == verify_shape(text, sections=["answer"])
    assert verify_shape(text, sections=["Why", "Answer"]).score == 0.5
    verdict = verify_shape(text, starts_with="No", ends_with="!", max_words=4, sections=("Why", "Then"))
    assert verdict.score == pytest.approx(0.2)
    assert verdict.reason == (
        "does not start with 'No'; does not end with '!'; 5 words, more than 4; no section 'Then'"
    )
    assert verify_shape("a b c", max_words=3, sections=()).score == 1
    assert verify_shape("Why not?", sections=["Why"]).score == 0  # a sentence is no heading


SCHEMA = {
    "type": "object",
    "required": ["name", "age"],
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "age": {"type": ["integer", "null"], "minimum": 0, "exclusiveMaximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", 1]}, "maxItems": 2, "uniqueItems": True},
    },
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("response", "schema", "reason"),
    [
        ('{"name": "Ann", "age": 3}', SCHEMA, "fits"),
        ('\n```json\n{"name": "Ann", "age": 3.0}\n```\n', SCHEMA, "fits"),
        ('{"name": "Ann", "age": null, "tags": ["a", 1]}', SCHEMA, "fits"),
        ('{"name": "", "age": 3}', SCHEMA, "$.name breaks minLength = 1"),
        ('{"name": "Ann"}', SCHEMA, "$.age is missing"),
        ('{"name": "Ann", "age": 3.5}', SCHEMA, "$.age is no integer or null"),
        ('{"name": "Ann", "age": true}', SCHEMA, "$.age is no integer or null"),
        ('{"name": "Ann", "age": -1}', SCHEMA, "$.age breaks minimum = 0"),
        ('{"name": "Ann", "age": 150}', SCHEMA, "$.age breaks exclusiveMaximum = 150"),
        ('{"name": "Ann", "age": 3, "more": 1}', SCHEMA, "$.more may not be there"),
        ('{"name": "Ann", "age": 3, "tags": [true]}', SCHEMA, '$.tags[0] is none of ["a", 1]'),
        ('{"name": "Ann", "age": 3, "tags": ["a", "a"]}', SCHEMA, "$.tags has an item twice"),
        ('{"name": "Ann", "age": 3, "tags": ["a", "a", 1]}', SCHEMA, "$.tags breaks maxItems = 2"),
        ("[]", SCHEMA, "$ is no object"),
        ('Here: {"name": "Ann", "age": 3}', SCHEMA, "no JSON: Expecting value: line 1 column 1 (char 0)"),
        ("NaN", {"type": "number"}, "no JSON: NaN is no number"),
        ("1e999", {"type": "integer"}, "no JSON: 1e999 is no number"),
        ("[" * 100_000, True, "no JSON: maximum recursion depth exceeded"),
        ("2", {"anyOf": [{"const": 2.0}, {"type": "string"}]}, "fits"),
        ("3", {"oneOf": [{"minimum": 1}, {"maximum": 5}]}, "$ fits 2 of 2 of oneOf"),
        ("3", {"allOf": [{"minimum": 1}, {"maximum": 2}]}, "$ fits 1 of 2 of allOf"),
        ("3", {"not": {"type": "integer"}}, "$ fits what it must not"),
        ('{"a": [1]}', {"const": {"a": [True]}}, '$ is not {"a": [true]}'),
        ("1", False, "$ may not be there"),
    ],
)
def test_json_that_fits(response: str, schema: object, reason: str) -> None:
    check_schema(schema)
    verdict = verify_json(response, schema)
    assert verdict.reason.startswith(reason)
    assert verdict.score == (reason == "fits")


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"$ref": "#/x"}, r"json_schema.\$ref = '#/x': not among what is understood"),
        ({"properties": {"a": {"pattern": "x"}}}, "json_schema.properties.a.pattern"),
        ({"type": "text"}, "no such type: 'text'"),
        ({"minimum": "1"}, "json_schema.minimum = '1'"),
        ({"anyOf": []}, "json_schema.anyOf"),
        ({"items": 3}, "json_schema.items: a schema is a table"),
    ],
)
def test_a_schema_that_is_not_understood_is_refused(schema: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Mix([parse_recipe(Reward, {"verifier": {"kind": "schema", "json_schema": schema}})])


def test_a_schema_may_come_with_the_prompt() -> None:
    mix = Mix([Reward(verifier=Verifier(kind="schema", tag="like"))])
    prompts = [Prompt.from_text("?", tags={"like": like}) for like in ('{"type": "string"}', '{"type": "null"}')]
    assert mix(prompts, ['"a"', '"a"']).tolist() == [1.0, 0.0]
    for like in ("{", '{"$ref": "#"}'):
        with pytest.raises(RewardError, match=r"the prompt .* has no schema in its tag 'like'"):
            mix([Prompt.from_text("?", tags={"like": like})], ["1"])


def test_a_verifier_is_a_term_like_any_other() -> None:
    mix = Mix(
        [
            Reward(verifier=Verifier(kind="number"), weight=2.0),
            Reward(verifier=Verifier(kind="shape", max_words=1), weight=-0.5),
            Reward(verifier=Verifier(kind="shape", max_words=2)),
            Reward(length=1.0),
        ]
    )
    assert mix.names == ["number", "shape_1", "shape_2", "length"]
    found = mix.scored([SUM, SUM], ["18", "it is 17"])
    torch.testing.assert_close(found.total, torch.tensor([2.0 - 0.5 + 1.0, -0.2]))
    assert [verdict.reason for verdict in found.verdicts["number"]] == ["18, right", "17 instead of 18"]
    assert [verdict.score for verdict in found.verdicts["shape_1"]] == [1, 0]
    assert mix.sources[0]([SUM], ["18"]).tolist() == [1.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "pattern", "must_match": ["("]}, r"'\(' is no regular expression: missing \)"),
        ({"kind": "pattern"}, 'kind "pattern" checks nothing: set must_match or must_not_match'),
        ({"kind": "shape"}, 'kind "shape" checks nothing: set starts_with'),
        ({"kind": "number", "max_words": 3}, 'max_words is no setting of kind "number", which has tag'),
        ({"kind": "schema"}, 'kind "schema" checks nothing: set json_schema or tag'),
        ({"kind": "schema", "tag": "a", "json_schema": {"type": "null"}}, "either one schema for all"),
        ({"kind": "numbers"}, "Input should be 'number'"),
        ({}, "'verifier.kind' is required"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(Reward, {"verifier": settings})


def test_settings_survive_being_written_down() -> None:
    term = Reward(verifier=Verifier(kind="shape", max_words=3))
    assert parse_recipe(Reward, term.model_dump()) == term
