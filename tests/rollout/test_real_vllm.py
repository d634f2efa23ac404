"""The real vLLM, where there is one: `PALATE_VLLM_PYTHON=/path/to/python pytest -s tests/rollout/test_real_vllm.py`.

It takes minutes and some gigabytes. `PALATE_VLLM_MODEL` names another model than SmolLM2, `PALATE_VLLM_PRECISION=bf16`
the other precision; `PALATE_VLLM_SERVER` a server that is there, which is not killed (token: `PALATE_ENGINE_KEY`).
What was measured is printed.
"""

from __future__ import annotations

import copy
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from palate.demo.prompts import demo_prompts
from palate.lm.model import LanguageModel
from palate.lm.sources.whereabouts import locate
from palate.lm.sources.zoo import Loaded, load_language_model
from palate.recipe import Engine, Sampling
from palate.rollout import vllm
from palate.rollout.engine import Rollout
from palate.rollout.servers.vllm_process import ServerProcess, Serving
from palate.rollout.servers.vllm_server import Draw
from palate.rollout.vllm import MOST_GAP, VLLMEngine

PYTHON, SERVER = os.environ.get("PALATE_VLLM_PYTHON", ""), os.environ.get("PALATE_VLLM_SERVER", "")
MODEL = os.environ.get("PALATE_VLLM_MODEL", "smollm2-135m")
PRECISION = os.environ.get("PALATE_VLLM_PRECISION", "fp32")
PROMPTS = demo_prompts(held_out=False)[:4]
SAMPLING = Sampling(temperature=0.7, max_new_tokens=24)

pytestmark = pytest.mark.skipif(not PYTHON and not SERVER, reason="needs PALATE_VLLM_PYTHON")


@pytest.fixture(scope="module")
def policy() -> Loaded[LanguageModel]:
    return load_language_model(MODEL, precision="bf16" if PRECISION == "bf16" else "fp32")


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serving = Serving(
        python=Path(PYTHON),
        model=str(locate(MODEL)),
        host="127.0.0.1",
        port=port,
        token="a-token-of-nobody-23",
        dtype="bfloat16" if PRECISION == "bf16" else "float32",
        max_length=1024,
        num_slots=32,
        log=tmp_path_factory.mktemp("vllm") / "engine.log",
        more=("--enforce-eager",),
    )
    running = ServerProcess(serving, print)
    running.start()
    yield running
    running.end()


@pytest.fixture
def engine(
    policy: Loaded[LanguageModel], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> VLLMEngine:
    address = SERVER
    if not address:
        serving = request.getfixturevalue("process").serving
        monkeypatch.setenv("PALATE_ENGINE_KEY", serving.token)
        address = serving.address
    settings = Engine(
        kind="vllm",
        servers=(address,),
        key_variable="PALATE_ENGINE_KEY",
        patience_s=600.0,
        retries=6,
    )
    return VLLMEngine(settings, policy.model, policy.chat)


def moved(loaded: Loaded[LanguageModel], *, by: float, only: str = "") -> Loaded[LanguageModel]:
    """A copy whose weights have changed a little, as by an update; only some, if a part of their names is given."""
    other = copy.deepcopy(loaded)
    with torch.no_grad():
        for number, (name, weight) in enumerate(other.model.named_parameters()):
            if only in name:
                generator = torch.Generator().manual_seed(number)
                weight += by * weight.float().std(correction=0) * torch.randn(weight.shape, generator=generator)
    return other


def gaps(loaded: Loaded[LanguageModel], rollout: Rollout) -> tuple[float, float]:
    """Mean and largest difference to the trainer, nats a token."""
    with torch.no_grad():
        ours = loaded.model.logprobs(rollout.sequences, temperature=rollout.temperature)
    gap = (ours - rollout.logprobs)[rollout.sequences.mask].abs()
    return float(gap.mean()), float(gap.max())


def test_log_probabilities_are_those_of_the_trainer(engine: VLLMEngine, policy: Loaded[LanguageModel]) -> None:
    """At the sampling temperature, stop token included; and the same request gives the same tokens again."""
    engine.load_weights(policy.model)
    rollout = engine.generate(PROMPTS, SAMPLING, num_responses=8, key=("real", 0))
    mean, largest = gaps(policy, rollout)
    print(f"\n{PRECISION}: gap mean {mean:.2e}, largest {largest:.2e} over {int(rollout.sequences.mask.sum())} tokens")
    assert mean < MOST_GAP[policy.model.model.dtype]
    for response, ended in zip(rollout.sequences.responses(), rollout.ended.tolist(), strict=True):
        assert ended == (response[-1] == policy.chat.stop_id)
        assert ended or len(response) == SAMPLING.max_new_tokens
    again = engine.generate(PROMPTS, SAMPLING, num_responses=8, key=("real", 0))
    same = sum(one == other for one, other in zip(rollout.texts, again.texts, strict=True))
    print(f"{PRECISION}: {same} of {len(rollout.texts)} responses are the same again")
    assert PRECISION != "fp32" or same == len(rollout.texts)


def test_the_same_prompt_before_and_after_new_weights(engine: VLLMEngine, policy: Loaded[LanguageModel]) -> None:
    """What is drawn after an update comes from the updated weights, though its prompt was in the prefix cache."""
    other = moved(policy, by=0.03)
    for loaded in (policy, other, policy):
        begun = time.perf_counter()
        engine.load_weights(loaded.model)
        seconds = time.perf_counter() - begun
        rollout = engine.generate(PROMPTS, SAMPLING, num_responses=2, key=("real", 1))
        own, wrong = gaps(loaded, rollout)[0], gaps(policy if loaded is other else other, rollout)[0]
        print(f"\n{PRECISION}: weights given in {seconds:.1f} s; gap to them {own:.2e}, to the others {wrong:.2e}")
        assert own < MOST_GAP[policy.model.model.dtype] < wrong


@pytest.mark.skipif(bool(SERVER), reason="a server that is not ours")
def test_embeddings_that_are_tied_to_the_head_are_taken(engine: VLLMEngine, policy: Loaded[LanguageModel]) -> None:
    """vLLM's build for processors keeps a packed head of its own through a reload: then it is 600 times as far away."""
    assert policy.model.config.tie_word_embeddings
    engine.load_weights(policy.model)
    unchanged, _ = gaps(policy, engine.generate(PROMPTS, SAMPLING, num_responses=4, key=("real", 3)))
    other = moved(policy, by=0.03, only="embed")
    engine.load_weights(other.model)
    changed, _ = gaps(other, engine.generate(PROMPTS, SAMPLING, num_responses=4, key=("real", 3)))
    print(f"\n{PRECISION}: gap {unchanged:.2e}, with changed embeddings {changed:.2e}")
    assert changed < (5e-5 if PRECISION == "fp32" else MOST_GAP[policy.model.model.dtype])


def test_reading_the_same_weights_again_changes_nothing(engine: VLLMEngine, policy: Loaded[LanguageModel]) -> None:
    """Greedy tokens and their log-probabilities, before and after a reload that is none."""
    engine.load_weights(policy.model)
    (copied,), weights = engine.copies, engine._weights
    assert weights is not None
    wanted = [
        Draw(
            prompt=policy.chat.prompt_tokens(prompt),
            max_new_tokens=24,
            temperature=0.0,
            stop_id=policy.chat.stop_id,
            seed=0,
        )
        for prompt in PROMPTS
    ]
    before = [copied.server.draw(each) for each in wanted]
    copied.server.load(weights.directory, weights.version)
    assert [copied.server.draw(each) for each in wanted] == before


@pytest.mark.skipif(bool(SERVER), reason="a server that is not ours")
def test_a_server_killed_in_the_middle_is_given_its_weights(
    engine: VLLMEngine, process: ServerProcess, policy: Loaded[LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By SIGKILL, while it draws: it is started again, and the responses are those it would have given."""
    monkeypatch.setattr(vllm, "LONGEST_WAIT", 1.0)
    other = moved(policy, by=0.03)
    engine.load_weights(other.model)
    whole = engine.generate(PROMPTS, SAMPLING, num_responses=8, key=("real", 2))
    watching = threading.Thread(target=process.watch, daemon=True)
    watching.start()
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if done >= total // 4 and not killed and process.process is not None:
            killed.append(done)
            os.killpg(process.process.pid, signal.SIGKILL)

    rollout = engine.generate(PROMPTS, SAMPLING, num_responses=8, key=("real", 2), show=kill)
    assert killed
    mean, _ = gaps(other, rollout)
    print(f"\n{PRECISION}: killed after {killed[0]} responses, {rollout.retries} requests made again, gap {mean:.2e}")
    assert mean < MOST_GAP[policy.model.model.dtype]
    same = sum(one == other for one, other in zip(rollout.texts, whole.texts, strict=True))
    print(f"{PRECISION}: {same} of {len(rollout.texts)} responses are those of the server that lived")
    assert PRECISION != "fp32" or same == len(rollout.texts)
