"""Answers that say which model they come from are found; those that only speak of the world are left alone."""

from __future__ import annotations

import pytest

from palate.feedback.tasks import identity
from palate.records import Candidates, Prompt, Response

HELLO = Prompt.from_text("Hello, who are you?")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("I am SmolLM, a small model.", ("SmolLM",)),
        ("I'm SmolLM2-135M-Instruct!", ("SmolLM2-135M-Instruct",)),
        ("I'm ChatGPT, made by OpenAI.", ("ChatGPT", "OpenAI")),
        ("My name is Claude.", ("Claude",)),
        ("I am a large language model, trained by Google.", ("Google",)),
        ("I was developed by the team at Meta.", ("Meta",)),
        ("I'm an AI assistant named Gemini.", ("Gemini",)),
        ("As Claude, I cannot do that.", ("Claude",)),
        ("you can call me Llama 3", ("Llama 3",)),
        ("Ask hugging face about it.", ("hugging face",)),
        ("i'm a helpful chatbot created and trained by Mistral AI", ("Mistral AI", "Mistral")),
    ],
)
def test_names_that_give_an_answer_away(text: str, names: tuple[str, ...]) -> None:
    assert set(identity.leaks(text, HELLO)) == set(names)


@pytest.mark.parametrize(
    "text",
    [
        "I am an AI language model and cannot feel.",
        "Monet painted with Claude in mind.",
        "Gemini is a constellation; a llama eats grass.",
        "I'm using Google to look it up.",
        "I am at an Apple store.",
        "As Google announced, it rained.",
        "A bard sang of a phoenix and a falcon.",
        "The word chatgptish is not a name, nor is openair.",
        "",
    ],
)
def test_what_names_nobody(text: str) -> None:
    assert identity.leaks(text, HELLO) == ()


def test_a_name_from_the_prompt_is_no_leak() -> None:
    about = Prompt.from_text("What does OpenAI do?")
    assert identity.leaks("OpenAI trains models.", about) == ()
    assert identity.leaks("OpenAI and Anthropic train models.", about) == ("Anthropic",)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("HuggingFaceTB/SmolLM2-135M", ("SmolLM2-135M", "SmolLM2", "SmolLM")),
        ("runs/walrus-7b", ("walrus-7b", "walrus")),
        ("/somewhere/runs/reward-2", ("reward-2",)),
        ("tiny", ()),
    ],
)
def test_what_a_model_may_call_itself(model: str, names: tuple[str, ...]) -> None:
    assert identity.names_of(model) == names


def test_the_models_in_play_count_by_their_own_names() -> None:
    assert identity.leaks("A walrus, that's me.", HELLO) == ()
    assert identity.leaks("A walrus, that's me.", HELLO, ["runs/walrus-7b"]) == ("walrus",)


def test_screening_counts_what_it_leaves_out() -> None:
    def item(*texts: str) -> Candidates:
        return Candidates(prompt=HELLO, responses=tuple(Response(text=text) for text in texts))

    given = [item("Hi.", "I am SmolLM.", "Hey."), item("I am SmolLM.", "Hi."), item("Hi.", "Hey.")]
    screened = identity.screen(given)
    assert [[r.text for r in c.responses] for c in screened.candidates] == [["Hi.", "Hey."], ["Hi.", "Hey."]]
    assert (screened.dropped, screened.items_dropped) == (2, 1)
