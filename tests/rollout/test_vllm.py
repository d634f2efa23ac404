"""Sampling by vLLM servers: what is asked, what of the answers is believed, and what ends a run.

The server is a scripted one that draws with the weights that it was given; the real one is in `test_real_vllm.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cluster.gangs import in_gang
from tests.scripted_vllm import TOKEN, ScriptedVLLM, serving, several

from palate.cluster.gang import Gang
from palate.errors import DataError, EndpointError, TrainingError
from palate.lm.model import LanguageModel
from palate.lm.sources.zoo import Loaded
from palate.recipe import Engine, Sampling
from palate.records import Prompt
from palate.rollout import vllm
from palate.rollout.servers import vllm_server
from palate.rollout.vllm import VLLMEngine

HERE, THERE = "http://here.test:8300", "http://there.test:8300"
PROMPTS = [
    Prompt.from_text(text) for text in ("What is a mill?", "And a river?", "Why do they meet in every old town?")
]
SAMPLING = Sampling(temperature=0.8, max_new_tokens=12)
KEY = (0, "reinforce", 3)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> ScriptedVLLM:
    """At `HERE`, without a network."""
    scripted = ScriptedVLLM()
    monkeypatch.setattr(vllm_server, "send", several({HERE: scripted}))
    monkeypatch.setattr(vllm_server, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(vllm, "LONGEST_WAIT", 0.0)
    monkeypatch.setattr(vllm, "PROBED", 4)
    return scripted


def engine_of(loaded: Loaded[LanguageModel], *servers: str, **settings: Any) -> VLLMEngine:
    return VLLMEngine(Engine(kind="vllm", servers=servers or (HERE,), **settings), loaded.model, loaded.chat)


@pytest.fixture
def policy(stopping: Loaded[LanguageModel]) -> Loaded[LanguageModel]:
    """A model that likes to stop, to be changed."""
    return copy.deepcopy(stopping)


def learn(loaded: Loaded[LanguageModel], by: float = 0.02) -> None:
    """Change the weights a little, as an update does."""
    with torch.no_grad():
        for number, weight in enumerate(loaded.model.parameters()):
            generator = torch.Generator().manual_seed(number)
            weight += by * weight.std(correction=0) * torch.randn(weight.shape, generator=generator)


def in_training(loaded: Loaded[LanguageModel], rollout: Any) -> torch.Tensor:
    with torch.no_grad():
        return loaded.model.logprobs(rollout.sequences, temperature=rollout.temperature)


def test_what_is_drawn_comes_back_whole(server: ScriptedVLLM, policy: Loaded[LanguageModel]) -> None:
    """Tokens, log-probabilities at the temperature, ends by the stop token, and which weights drew them."""
    engine = engine_of(policy)
    learn(policy)
    engine.load_weights(policy.model)
    rollout = engine.generate(PROMPTS, SAMPLING, num_responses=4, key=KEY)
    assert torch.allclose(rollout.logprobs, in_training(policy, rollout), atol=1e-5)
    assert [prompt.text for prompt in rollout.prompts] == [prompt.text for prompt in PROMPTS for _ in range(4)]
    responses = rollout.sequences.responses()
    assert [response[-1] == policy.chat.stop_id for response in responses] == rollout.ended.tolist()
    assert 0 < int(rollout.ended.sum()) < 12
    assert {len(response) for response, ended in zip(responses, rollout.ended, strict=True) if not ended} == {12}
    assert rollout.texts == tuple(policy.chat.text(response) for response in responses)
    assert rollout.weights == server.version == engine._weights.version  # type: ignore[union-attr]
    assert rollout.layout == policy.chat.fingerprint
    assert rollout.retries == 0


def test_every_response_has_a_seed_of_its_own(server: ScriptedVLLM, policy: Loaded[LanguageModel]) -> None:
    """A function of the key, the prompt and its number alone, in whatever company it is asked for."""
    engine = engine_of(policy)
    engine.load_weights(policy.model)

    def drawn(prompts: list[Prompt], key: tuple[int | str, ...] = KEY, many: int = 2) -> dict[str, list[str]]:
        server.seeds.clear()
        rollout = engine.generate(prompts, SAMPLING, num_responses=many, key=key)
        assert len(set(server.seeds)) == len(server.seeds) == len(prompts) * many
        found: dict[str, list[str]] = {}
        for prompt, text in zip(rollout.prompts, rollout.texts, strict=True):
            found.setdefault(prompt.text, []).append(text)
        return found

    whole = drawn(PROMPTS)
    assert drawn([PROMPTS[1]])[PROMPTS[1].text] == whole[PROMPTS[1].text]
    assert drawn([PROMPTS[2]], many=4)[PROMPTS[2].text][:2] == whole[PROMPTS[2].text]
    assert drawn([PROMPTS[0], PROMPTS[0]])[PROMPTS[0].text][:2] == whole[PROMPTS[0].text]
    assert drawn(PROMPTS, key=(0, "reinforce", 4)) != whole


def test_prompts_are_split_over_the_servers(
    server: ScriptedVLLM, policy: Loaded[LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is given the weights; a prompt's responses come from one of them, and are the same from any."""
    one = engine_of(policy)
    one.load_weights(policy.model)
    alone = one.generate(PROMPTS, SAMPLING, num_responses=3, key=KEY)
    other = ScriptedVLLM()
    monkeypatch.setattr(vllm_server, "send", several({HERE: server, THERE: other}))
    server.seeds.clear()
    both = engine_of(policy, HERE, THERE)
    both.load_weights(policy.model)
    told: list[tuple[int, int]] = []
    rollout = both.generate(PROMPTS, SAMPLING, num_responses=3, key=KEY, show=lambda *done: told.append(done))
    assert rollout.texts == alone.texts
    assert [len(each.seeds) - 1 for each in (server, other)] == [6, 3]  # and the probe
    assert told == [(number, 9) for number in range(1, 10)]


@pytest.mark.parametrize("fault", ["forgets", "rereads", "reads"])
def test_new_weights_are_what_is_drawn_from(
    fault: str, server: ScriptedVLLM, policy: Loaded[LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same prompt before and after: with kept keys and values, or old weights under a new name, a run ends."""
    engine = engine_of(policy)
    for _ in range(3):  # a new directory each time: a server that keeps what a path once gave is no fault
        learn(policy)
        engine.load_weights(policy.model)
        rollout = engine.generate(PROMPTS, SAMPLING, num_responses=2, key=KEY)
        assert torch.allclose(rollout.logprobs, in_training(policy, rollout), atol=1e-5)
    assert len(set(server.loaded)) == 3
    setattr(server, fault, False)
    learn(policy)
    if fault == "rereads":
        engine.load_weights(policy.model)
    else:
        with pytest.raises(TrainingError, match="does not sample from them"):
            engine.load_weights(policy.model)


def test_what_is_tied_is_packed_again_with_the_same_weights(
    server: ScriptedVLLM, policy: Loaded[LanguageModel]
) -> None:
    """While the server is paused; one that knows no such method is looked at by what it draws, another error counts."""
    engine = engine_of(policy, retries=0)
    engine.load_weights(policy.model)
    assert server.packed == server.loaded
    server.packs = False
    learn(policy)
    engine.load_weights(policy.model)
    server.packs_not = "out of memory"
    learn(policy)
    with pytest.raises(EndpointError, match="out of memory"):
        engine.load_weights(policy.model)
    assert server.paused


def test_a_server_that_draws_exactly_as_before_has_not_taken_them(
    server: ScriptedVLLM, policy: Loaded[LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bf16 the gap of one update is rounding's size; that nothing at all has changed is not."""
    monkeypatch.setattr(vllm, "MOST_GAP", {torch.float32: 5.0})
    engine = engine_of(policy)
    engine.load_weights(policy.model)
    server.reads = False
    learn(policy, by=0.4)
    with pytest.raises(TrainingError, match="draws to the last digit what it drew before"):
        engine.load_weights(policy.model)


def test_the_same_weights_are_one_version_and_sent_once(server: ScriptedVLLM, policy: Loaded[LanguageModel]) -> None:
    """A run that goes on names them alike; only two are kept, and none when the process has ended."""
    engine = engine_of(policy)
    engine.load_weights(policy.model)
    first = server.version
    engine.load_weights(policy.model)
    assert len(server.loaded) == 1
    again = engine_of(policy)
    again.load_weights(policy.model)
    assert server.version == first
    assert len(set(server.loaded)) == 2, "of another engine, in a folder of its own"
    for _ in range(3):
        learn(policy)
        engine.load_weights(policy.model)
    assert [Path(path).exists() for path in dict.fromkeys(server.loaded)] == [False, True, False, True, True]
    del engine
    assert [Path(path).exists() for path in dict.fromkeys(server.loaded)] == [False, True, False, False, False]


def test_weights_go_where_the_recipe_says(server: ScriptedVLLM, policy: Loaded[LanguageModel], tmp_path: Path) -> None:
    engine = engine_of(policy, weights=str(tmp_path / "shared"))
    engine.load_weights(policy.model)
    assert Path(server.loaded[0]).is_relative_to((tmp_path / "shared").resolve())
    assert Path(server.loaded[0], "model.safetensors").exists()


def test_a_server_is_asked_nothing_before_it_has_the_weights(
    server: ScriptedVLLM, policy: Loaded[LanguageModel]
) -> None:
    """Killed among the responses it comes back with the weights it was started with: the run does not notice.

    What was on its way to it just then is drawn with those, and thrown away.
    """
    engine = engine_of(policy)
    learn(policy)
    engine.load_weights(policy.model)
    whole = engine.generate(PROMPTS, SAMPLING, num_responses=4, key=KEY)
    server.dies_after = 5
    rollout = engine.generate(PROMPTS, SAMPLING, num_responses=4, key=KEY)
    assert server.lives == 2
    assert rollout.texts == whole.texts
    assert torch.equal(rollout.logprobs, whole.logprobs)
    assert server.loaded[-1].endswith(rollout.weights)
    assert rollout.retries > 0


def test_a_server_that_died_between_two_rollouts_is_given_the_weights(
    server: ScriptedVLLM, policy: Loaded[LanguageModel]
) -> None:
    engine = engine_of(policy)
    learn(policy)
    engine.load_weights(policy.model)
    server.start()
    server.held_at_draws.clear()
    rollout = engine.generate(PROMPTS, SAMPLING, num_responses=2, key=KEY)
    assert set(server.held_at_draws) == {rollout.weights}


def test_a_server_that_does_not_come_back_is_named(server: ScriptedVLLM, policy: Loaded[LanguageModel]) -> None:
    engine = engine_of(policy, patience_s=0.001)
    engine.load_weights(policy.model)
    server.dies_after, server.back_after = 0, 10**9
    with pytest.raises(EndpointError, match=r"here\.test:8300: the vLLM server is not there, .* 0\.001 s"):
        engine.generate(PROMPTS, SAMPLING, num_responses=2, key=KEY)


def test_what_fails_is_asked_again_and_counted(server: ScriptedVLLM, policy: Loaded[LanguageModel]) -> None:
    engine = engine_of(policy, retries=2)
    engine.load_weights(policy.model)
    server.failures = [503, 500]
    rollout = engine.generate(PROMPTS[:1], SAMPLING, num_responses=1, key=KEY)
    assert rollout.retries == 2
    server.failures = [503] * 3
    with pytest.raises(EndpointError, match=r"here\.test:8300/inference/v1/generate: 503 .*busy; asked 3 times"):
        engine.generate(PROMPTS[:1], SAMPLING, num_responses=1, key=KEY)


def test_two_engines_of_one_process_take_turns_on_a_server(
    server: ScriptedVLLM, policy: Loaded[LanguageModel], tiny: Loaded[LanguageModel]
) -> None:
    """A teacher and a student: whoever is asked has its own weights there first."""
    student, teacher = engine_of(policy), engine_of(tiny)
    student.load_weights(policy.model)
    teacher.load_weights(tiny.model)
    for engine, loaded in ((student, policy), (teacher, tiny), (student, policy)):
        rollout = engine.generate(PROMPTS, SAMPLING, num_responses=2, key=KEY)
        assert torch.allclose(rollout.logprobs, in_training(loaded, rollout), atol=1e-5)


def test_a_server_of_another_run_is_refused(server: ScriptedVLLM, policy: Loaded[LanguageModel]) -> None:
    engine = engine_of(policy)
    engine.load_weights(policy.model)
    server.version = "0123456789abcdef"
    with pytest.raises(EndpointError, match="somebody else has given this server other weights"):
        engine.generate(PROMPTS, SAMPLING, num_responses=2, key=KEY)


def test_a_prompt_that_leaves_no_room_is_refused_before_anything_is_asked(
    server: ScriptedVLLM, policy: Loaded[LanguageModel]
) -> None:
    engine = engine_of(policy)
    engine.load_weights(policy.model)
    with pytest.raises(DataError, match="do not fit the model's context"):
        engine.generate([Prompt.from_text("a" * 3000)], SAMPLING, num_responses=1, key=KEY)


def test_over_a_network_with_its_token(policy: Loaded[LanguageModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """The token comes from the environment; without it there is one clear line, in which it does not stand."""
    server = ScriptedVLLM(token=TOKEN)
    monkeypatch.setenv("PALATE_ENGINE_KEY", TOKEN)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # a server is never asked through one
    with serving(server) as address:
        engine = engine_of(policy, address, key_variable="PALATE_ENGINE_KEY")
        engine.load_weights(policy.model)
        assert len(engine.generate(PROMPTS, SAMPLING, num_responses=2, key=KEY).texts) == 6
        monkeypatch.setenv("PALATE_ENGINE_KEY", "another")
        with pytest.raises(EndpointError, match=r"401 Unauthorized: name the variable"):
            engine_of(policy, address, key_variable="PALATE_ENGINE_KEY").load_weights(policy.model)
        monkeypatch.delenv("PALATE_ENGINE_KEY")
        with pytest.raises(EndpointError, match="PALATE_ENGINE_KEY is not set"):
            engine_of(policy, address, key_variable="PALATE_ENGINE_KEY")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda choice: choice.pop("logprobs"), "not an answer of vLLM 0.32"),
        (lambda choice: choice["token_ids"].append(7), "not an answer of vLLM 0.32"),
        (lambda choice: choice.update(weight_versions=None), "does not say which weights drew it"),
        (lambda choice: choice.update(finish_reason="abort"), "somebody has paused the server"),
    ],
)
def test_an_answer_that_is_none(
    spoil: Callable[[dict[str, Any]], object], told: str, server: ScriptedVLLM, policy: Loaded[LanguageModel]
) -> None:
    engine = engine_of(policy)
    engine.load_weights(policy.model)
    draw = server._inference_v1_generate

    def spoiled(body: Any) -> tuple[int, Any]:
        status, said = draw(body)
        spoil(said["choices"][0])
        return status, said

    server._inference_v1_generate = spoiled  # type: ignore[method-assign]
    with pytest.raises(EndpointError, match=told):
        engine.generate(PROMPTS[:1], SAMPLING, num_responses=1, key=KEY)


def test_of_several_processes_the_first_one_asks(
    server: ScriptedVLLM, policy: Loaded[LanguageModel], tmp_path: Path
) -> None:
    """All of them have the same rollout, and the weights of the step were written and looked at once."""
    learn(policy)

    def work(gang: Gang) -> tuple[tuple[str, ...], str, int]:
        engine = engine_of(policy)
        engine.load_weights(policy.model)
        rollout = engine.generate(PROMPTS, SAMPLING, num_responses=2, key=KEY)
        return rollout.texts, rollout.weights, len(server.asked)

    (texts, weights, asked), (other_texts, other_weights, other_asked) = in_gang(2, tmp_path / "gang", work)
    assert (texts, weights) == (other_texts, other_weights)
    assert len(texts) == 6
    assert asked > 6
    assert other_asked == 0
