"""A model here and one elsewhere say of the same questions what they should."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.scripted_endpoint import ScriptedEndpoint, serving
from tests.stages.in_transformers import Network

from palate.errors import DataError, EndpointError, RecipeError, RewardError
from palate.lm.sources.zoo import load_language_model, locate
from palate.recipe import Endpoint, Principle, Sampling
from palate.records import Prompt
from palate.rewards.judges import endpoint_client
from palate.rewards.judges.constitutions import drawn, read_constitution, revising
from palate.rewards.judges.endpoint_client import EndpointClient
from palate.rewards.judges.local_judge import LocalJudge
from palate.rewards.judges.questions import question, whether
from palate.rewards.judges.reader_principles import PrinciplesReward
from palate.rewards.judges.remote_judge import RemoteJudge

CALM = Principle(name="calm", compare="Which answer is calmer?")
TEXTS = [("It is good.", "Hm."), ("Hm.", "It is good."), ("What?", "It is bad and goes on for too long.")]
QUESTIONS = [question(Prompt.from_text(f"What of {n}?"), texts, CALM) for n, texts in enumerate(TEXTS)]
STARTER = Path(__file__).parents[3] / "recipes" / "constitutions" / "starter.toml"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedEndpoint]:
    monkeypatch.setattr(endpoint_client, "LONGEST_WAIT", 0.0)
    with serving() as served:
        yield served


def remote(endpoint: ScriptedEndpoint, directory: Path, **settings: Any) -> RemoteJudge:
    client = EndpointClient(Endpoint(url=endpoint.url), "m", directory)
    return RemoteJudge(client, Sampling(temperature=0.5, max_new_tokens=9), seed=3, **settings)


# A model here.


def test_the_share_of_the_first_letter_is_that_of_plain_transformers() -> None:
    network = Network(locate("tiny"))
    judge = LocalJudge(load_language_model("tiny", precision="fp32"), Sampling(), seed=0)
    for asked, choice in zip(QUESTIONS, judge.choose(QUESTIONS), strict=True):
        tokens = torch.tensor([network.opened(asked.messages)])
        with torch.no_grad():
            logits = network.network(tokens).logits[0, -1]
        first, second = (logits[network.tokens(letter)[0]] for letter in "AB")
        assert choice.first == pytest.approx(float(torch.sigmoid(first - second)), abs=1e-5)


@pytest.mark.parametrize("max_tokens", [1, 900, 100_000])
def test_it_does_not_depend_on_the_passes(max_tokens: int) -> None:
    loaded = load_language_model("tiny", precision="fp32")
    whole = LocalJudge(loaded, Sampling(), seed=0).first_shares(QUESTIONS)
    parts = LocalJudge(loaded, Sampling(), seed=0, max_tokens=max_tokens).first_shares(QUESTIONS)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)


def test_what_does_not_fit_its_context_is_not_taken_and_the_rest_is_written() -> None:
    judge = LocalJudge(load_language_model("tiny", precision="fp32"), Sampling(max_new_tokens=4), seed=0)
    prompts = [Prompt.from_text("Hi"), Prompt.from_text("long " * 600), Prompt.from_text("Ho")]
    written = judge.write(prompts, purpose="draft")
    alone = judge.write([prompts[2]], purpose="draft")
    assert [each.response is None for each in written] == [False, True, False]
    assert "the model's context - max_new_tokens = 2044" in written[1].reason
    assert written[2] == alone[0]
    assert judge.write(prompts[1:2], purpose="draft") == written[1:2]
    assert judge.write([prompts[2]], purpose="critique") != alone


def test_how_far_it_says_yes_is_that_of_plain_transformers() -> None:
    network = Network(locate("tiny"))
    judge = LocalJudge(load_language_model("tiny", precision="fp32"), Sampling(), seed=0)
    prompts, answers = [Prompt.from_text("What of mills?"), Prompt.from_text("What of\nrain?")], ["Good.", "A\nB"]
    found = PrinciplesReward(judge, ("Be brief", "No lists")).by_principle(prompts, answers)
    assert found.shape == (2, 2)
    for row, principle in zip(found.tolist(), ("Be brief", "No lists"), strict=True):
        for log_odds, prompt, answer in zip(row, prompts, answers, strict=True):
            opened = network.opened(whether(prompt, answer, principle).messages)
            logprobs = []
            for word in ("Yes", "No"):
                said = network.tokens(word)
                with torch.no_grad():
                    logits = network.network(torch.tensor([opened + said])).logits[0, len(opened) - 1 : -1]
                logprobs.append(float(logits.log_softmax(-1)[range(len(said)), said].sum()))
            assert log_odds == pytest.approx(logprobs[0] - logprobs[1], abs=1e-4)


def test_a_liking_for_yes_changes_no_choice(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    """Only differences between answers count, whatever is said to all of them alike."""

    def scores(liking: float) -> list[float]:
        def reply(body: dict[str, Any]) -> dict[str, Any]:
            merit = len(body["messages"][-1]["content"]) / 100 + liking
            tops = [{"token": " Yes", "logprob": -8 + merit}, {"token": "No", "logprob": -8.0}]
            return {"choices": [{"message": {"content": ""}, "logprobs": {"content": [{"top_logprobs": tops}]}}]}

        endpoint.reply = reply  # type: ignore[method-assign]
        judge = remote(endpoint, tmp_path / f"{liking}")
        rows = PrinciplesReward(judge, ("Be long",)).by_principle(
            [Prompt.from_text("Hm?")] * 3, ["a" * 9, "b", "c" * 5]
        )
        return [each - max(rows[0].tolist()) for each in rows[0].tolist()]

    assert scores(0.0) == pytest.approx(scores(4.0))
    assert scores(0.0) == pytest.approx([0, -0.08, -0.04])


@pytest.mark.parametrize(
    ("tops", "log_odds"),
    [
        ({"Yes": -0.5, " Yes": -1.5, "No": -2.0}, 1.813),
        ({"Yes": -0.1, "The": -3.0}, 2.9),
        ({"No": -0.1, "no": -4.0}, -3.9),
        ({"The": -0.1, "I": -2.0}, None),
    ],
)
def test_a_word_that_is_not_told_counts_as_the_least_likely_that_is(
    tops: dict[str, float], log_odds: float | None, endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    listed = [{"token": token, "logprob": logprob} for token, logprob in tops.items()]
    choice = {"message": {"content": ""}, "logprobs": {"content": [{"top_logprobs": listed}]}}
    endpoint.reply = lambda body: {"choices": [choice]}  # type: ignore[method-assign]
    (found,) = remote(endpoint, tmp_path).lean([whether(Prompt.from_text("Hi"), "Ho", "Be kind")])
    assert found.log_odds == (None if log_odds is None else pytest.approx(log_odds, abs=1e-3))
    if log_odds is None:
        with pytest.raises(RewardError, match="neither Yes nor No among the likeliest first tokens"):
            PrinciplesReward(remote(endpoint, tmp_path), ("Be kind",)).by_principle([Prompt.from_text("Hi")], ["Ho"])


def test_what_cannot_be_asked_is_one_clear_line(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.gives_logprobs = False
    with pytest.raises(EndpointError, match="gives no log-probabilities, by which principles are judged"):
        remote(endpoint, tmp_path).lean([whether(Prompt.from_text("Hi"), "Ho", "Be kind")])
    judge = LocalJudge(load_language_model("tiny", precision="fp32"), Sampling(), seed=0)
    with pytest.raises(DataError, match="tokens is too long for tiny"):
        judge.lean([whether(Prompt.from_text("long " * 600), "Ho", "Be kind")])


# A model elsewhere.


def test_it_goes_by_the_letters_among_the_first_tokens(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    shares = [choice.first for choice in remote(endpoint, tmp_path).choose(QUESTIONS)]
    assert shares == pytest.approx([0.9, 0.1, 0.1])
    asked = endpoint.asked[0]
    assert (asked["logprobs"], asked["top_logprobs"], asked["max_tokens"]) == (True, 20, 1)


@pytest.mark.parametrize(
    ("tops", "first"),
    [
        ({"A": -0.7, " A": -0.7, "B": -3.0}, 0.952),
        ({"A": -0.1, "The": -2.0}, 1.0),
        ({"B": -0.1, "a": -2.0}, 0.0),
        ({"The": -0.1, "I": -2.0}, None),
    ],
)
def test_a_letter_counts_with_a_space_before_it(
    tops: dict[str, float], first: float | None, endpoint: ScriptedEndpoint, tmp_path: Path
) -> None:
    listed = [{"token": token, "logprob": logprob} for token, logprob in tops.items()]
    choice = {"message": {"content": "A"}, "logprobs": {"content": [{"top_logprobs": listed}]}}
    endpoint.reply = lambda body: {"choices": [choice]}  # type: ignore[method-assign]
    (chosen,) = remote(endpoint, tmp_path).choose(QUESTIONS[:1])
    assert chosen.first == (None if first is None else pytest.approx(first, abs=1e-3))
    assert bool(chosen.reason) == (first is None)


def test_without_log_probabilities_it_says_what_to_do(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.gives_logprobs = False
    with pytest.raises(EndpointError, match="gives no log-probabilities: set samples = 1, or more"):
        remote(endpoint, tmp_path).choose(QUESTIONS)
    shares = [choice.first for choice in remote(endpoint, tmp_path, samples=1).choose(QUESTIONS)]
    assert shares == [1.0, 0.0, 0.0]


def test_samples_have_seeds_of_their_own_and_the_majority_counts(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    said = {"one": "A", "two": "Answer B", "three": "Hm", "four": "B"}
    seeds: dict[int, str] = {}

    def reply(body: dict[str, Any]) -> dict[str, Any]:
        word = seeds.setdefault(body["seed"], list(said)[len(seeds) % 4])
        return {"choices": [{"message": {"content": said[word]}}]}

    endpoint.reply = reply  # type: ignore[method-assign]
    judge = remote(endpoint, tmp_path, samples=4)
    (chosen,) = judge.choose(QUESTIONS[:1])
    assert chosen.first == pytest.approx(1 / 3)
    assert len(seeds) == len(endpoint.asked) == 4
    assert {(asked["temperature"], asked["max_tokens"]) for asked in endpoint.asked} == {(0.5, 9)}


def test_what_an_endpoint_does_not_take_has_its_reason(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.failures = [(400, {})] * 2
    judge = remote(endpoint, tmp_path)
    judge.client.settings = judge.client.settings.model_copy(update={"at_once": 1})
    choices = judge.choose(QUESTIONS)
    assert [choice.first is None for choice in choices] == [True, True, False]
    assert choices[0].reason.startswith("400 ")
    endpoint.failures = [(413, {})]
    first, second = judge.write([Prompt.from_text("Hi"), Prompt.from_text("Ho")], purpose="draft")
    assert (first.response, first.reason[:3]) == (None, "413")
    assert second.response is not None
    assert second.response.text == "On 1 turns."
    assert second.response.provenance is not None
    assert (second.response.provenance.model, second.response.provenance.ended) == ("m", True)


def test_an_endpoint_that_takes_no_question_at_all_ends_it(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    endpoint.failures = [(400, {})] * 8
    questions = [question(Prompt.from_text(f"What of {n}?"), TEXTS[0], CALM) for n in range(8)]
    with pytest.raises(EndpointError, match="takes none of 8 questions, the first because of: 400 "):
        remote(endpoint, tmp_path).choose(questions)
    assert len(remote(endpoint, tmp_path).choose(questions)) == 8


# Constitutions.


def test_the_starter_has_principles_that_compare_and_revise() -> None:
    constitution = read_constitution(STARTER)
    assert len(constitution.principles) == len(revising(constitution, STARTER)) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'principles' is required"),
        ("principles = []", "at least 1 item"),
        ('[[principles]]\nname = "a"\n', "'principles.0.compare' is required"),
        (
            '[[principles]]\nname = "a"\ncompare = "x?"\ncritiqe = "c"\n',
            "unknown key 'principles.0.critiqe'; did you mean 'critique'?",
        ),
        (
            '[[principles]]\nname = "a"\ncompare = "x?"\n[[principles]]\nname = "b"\ncompare = "x?"\nrevise = "r"\n',
            "'principles.1': a critique goes with a revision",
        ),
        (2 * '[[principles]]\nname = "a"\ncompare = "x?"\n', "two principles are called 'a'"),
        ('[[principles]]\nname = ""\ncompare = "x?"\n', "'principles.0.name'"),
        ("principles = [", "not valid TOML"),
    ],
)
def test_a_mistake_names_the_file_and_the_entry(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "constitution.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(Exception, match=r"constitution\.toml: ") as caught:
        read_constitution(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file_and_nothing_to_revise_by(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"nowhere\.toml: no constitution: No such file"):
        read_constitution(tmp_path / "nowhere.toml")
    path = tmp_path / "constitution.toml"
    path.write_text('[[principles]]\nname = "a"\ncompare = "x?"\n', encoding="utf-8")
    with pytest.raises(RecipeError, match="no principle has a critique and a revise"):
        revising(read_constitution(path), path)


def test_a_version_is_of_what_is_said(tmp_path: Path) -> None:
    path = tmp_path / "constitution.toml"
    versions = []
    for text in ('name = "a"\ncompare = "x?"', '# so\nname = "a"\n\ncompare = "x?"', 'name = "a"\ncompare = "y?"'):
        path.write_text(f"[[principles]]\n{text}\n", encoding="utf-8")
        versions.append(read_constitution(path).version)
    assert versions[0] == versions[1] != versions[2]


def test_lots_are_of_seed_and_key_each_principle_once() -> None:
    principles = [Principle(name=name, compare="x?") for name in "abcd"]
    lots = [tuple(each.name for each in drawn(principles, 2, seed, "judge", "p", 0, 1)) for seed in range(40)]
    assert lots == [tuple(each.name for each in drawn(principles, 2, seed, "judge", "p", 0, 1)) for seed in range(40)]
    assert all(len(set(lot)) == 2 for lot in lots)
    assert {lot[0] for lot in lots} == set("abcd")
    assert sorted(each.name for each in drawn(principles, 9, 0, "judge")) == list("abcd")
