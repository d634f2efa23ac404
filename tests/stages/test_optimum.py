"""The stages themselves arrive where their mathematics says.

A random Llama that knows seven tokens and may say two of them has 43 responses. All of them can be enumerated, and with
them the policy that maximises E[reward] - kl_coef * KL(policy || reference): pi_ref * exp(reward / kl_coef) / Z. Whole
stages, run directory, engine and sampling included, have to get there, and best of n has to earn what order statistics
say. `tests/objectives/test_optimum.py` asks the same of the bare objectives.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from palate.lm.batch import Sequences
from palate.lm.sources.zoo import load_language_model
from palate.objectives.divergence import best_of_n_kl_bound, best_of_n_win_rate_bound
from palate.recipe import (
    BestOfNRecipe,
    DistillRecipe,
    DPORecipe,
    OnlineDPORecipe,
    PPORecipe,
    RAFTRecipe,
    ReinforceRecipe,
    parse_recipe,
)
from palate.records import Demonstration, Prompt, Ranking, Record, Response
from palate.run.directory import Run
from palate.stages import best_of_n, dpo
from palate.stages.own_samples import distill, online_dpo, raft
from palate.stages.reinforcement import ppo, reinforce

STAGES: dict[str, tuple[Any, Any]] = {
    "reinforce": (ReinforceRecipe, reinforce.train),
    "ppo": (PPORecipe, ppo.train),
    "dpo": (DPORecipe, dpo.train),
    "online_dpo": (OnlineDPORecipe, online_dpo.train),
    "raft": (RAFTRecipe, raft.train),
    "distill": (DistillRecipe, distill.train),
    "best_of_n": (BestOfNRecipe, best_of_n.choose),
}
PROMPT = Prompt.from_text("cab")
TEMPERATURE, KL_COEF, BETA = 0.7, 0.6, 0.5
SAMPLING = {"temperature": TEMPERATURE, "max_new_tokens": 2, "num_slots": 512}
REWARDS = [{"function": "tests.stages.test_optimum:reward"}]
NUM_RESPONSES = 128
OPTIMIZER = {"learning_rate": 0.01}  # decays to zero, and so does the noise of sampling

LETTERS = {"a": 1.0, "b": -0.5, "c": 0.5, "d": 0.0}
STRENGTHS = {"a": 1, "b": 2, "ab": 3, "ba": 1, "cd": 4, "dcb": 2}  # preferences are then fractions


def reward(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
    """What the letters are worth, less one for a repetition."""
    return [sum(LETTERS[letter] for letter in text) - len(text) + len(set(text)) for text in responses]


def write_model(directory: Path, seed: int = 10) -> None:
    """Seven tokens: padding, the beginning and the end of a turn, four letters. Other characters are not seen."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate(["<pad>", "<turn>", "<end>", *LETTERS])}
    letters = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    letters.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=letters, eos_token="<end>", pad_token="<pad>", additional_special_tokens=["<turn>"]
    )
    tokenizer.chat_template = (
        "{% for message in messages %}<turn>{{ message['content'] }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<turn>{% endif %}"
    )
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


@dataclass(frozen=True)
class Language:
    """A model and everything it can say to the prompt.

    Attributes:
        directory: of the model.
        responses: [S] token ids, ended or cut off.
        rewards, ref_logprobs: [S].
    """

    directory: str
    responses: list[list[int]]
    rewards: Tensor
    ref_logprobs: Tensor


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Language:
    directory = tmp_path_factory.mktemp("language")
    write_model(directory)
    loaded = load_language_model(str(directory), precision="fp32")
    end, tokens = loaded.chat.stop_id, range(loaded.model.config.vocab_size)
    responses = [[end], *([first, second] for first, second in itertools.product(tokens, tokens) if first != end)]
    scores = reward([], [loaded.chat.text(response) for response in responses])
    ref_logprobs = response_logprobs(directory, responses)
    assert len(responses) == 43
    assert ref_logprobs.exp().sum().item() == pytest.approx(1, abs=1e-6)
    return Language(str(directory), responses, torch.tensor(scores, dtype=torch.float64), ref_logprobs)


def response_logprobs(model: Path, responses: Sequence[Sequence[int]]) -> Tensor:
    """[S] under a model or a run's model."""
    loaded = load_language_model(str(model), precision="fp32")
    prompt = loaded.chat.prompt_tokens(PROMPT)
    sequences = Sequences.pack([prompt] * len(responses), responses, group_ids=[0] * len(responses))
    with torch.no_grad():
        return loaded.model.logprobs(sequences, temperature=TEMPERATURE).sum(1).double()


def divergence(logprobs: Tensor, other: Tensor) -> float:
    """KL(one || other), by summation."""
    return (logprobs.exp() * (logprobs - other)).sum().item()


def moments(probabilities: Tensor, numbers: Tensor) -> tuple[float, float]:
    """Mean and standard deviation."""
    mean = (probabilities * numbers).sum()
    return mean.item(), (probabilities * (numbers - mean).square()).sum().sqrt().item()


def trained(stage: str, tree: dict[str, Any], directory: Path) -> Path:
    kind, train = STAGES[stage]
    recipe = parse_recipe(kind, {"precision": "fp32", **tree})
    train(recipe, Run.open(directory / "run", recipe))
    return directory / "run"


def written(path: Path, records: Sequence[Record]) -> dict[str, str]:
    path.write_text("".join(record.to_json() + "\n" for record in records), encoding="utf-8")
    return {"path": str(path)}


def check_arrival(language: Language, run: Path) -> None:
    """The policy of a run is the optimum, which is far from where it began; and what it logged is so."""
    optimum = (language.ref_logprobs + language.rewards / KL_COEF).log_softmax(0)
    logprobs = response_logprobs(run, language.responses)
    assert divergence(language.ref_logprobs, optimum) > 0.3
    assert divergence(logprobs, optimum) < 0.01

    last = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    exact = {"objective/score": language.rewards, "objective/kl": logprobs - language.ref_logprobs}
    for name, number in exact.items():
        mean, deviation = moments(logprobs.exp(), number)
        assert last[name] == pytest.approx(mean, abs=4 * deviation / NUM_RESPONSES**0.5)


def rl(language: Language, directory: Path) -> dict[str, Any]:
    return {
        "model": language.directory,
        "prompts": written(directory / "prompts.jsonl", [PROMPT]),
        "prompts_per_step": 1,
        "responses_per_prompt": NUM_RESPONSES,
        "rewards": REWARDS,
        "sampling": SAMPLING,
        "kl_coef": KL_COEF,
        "checkpoint_every": 1000,
        "optimizer": OPTIMIZER,
    }


def test_reinforce(language: Language, tmp_path: Path) -> None:
    check_arrival(language, trained("reinforce", rl(language, tmp_path) | {"steps": 80}, tmp_path))


CLIPPED = {"epochs": 2, "steps": 60}
DESCENDANTS: dict[str, dict[str, Any]] = {
    "group mean, over a constant": {"baseline": "group_mean", "denominator": "constant", "clip_range": 0.2, **CLIPPED},
    "group normalized, by responses": {
        "baseline": "group_normalized",
        "denominator": "sequences",
        "clip_range": 0.2,
        "clip_range_high": 0.28,
        **CLIPPED,
    },
    "the mean of the rollout, a ratio for the response": {
        "baseline": "batch_mean",
        "surrogate": "sequence",
        "denominator": "sequences",
        "clip_range": 0.2,
        **CLIPPED,
    },
    "clipped weights": {"surrogate": "weight", "clip_range": 1.0, "clip_range_high": 0.2, "epochs": 2, "steps": 150},
}


@pytest.mark.parametrize("case", DESCENDANTS)
def test_descendants_of_reinforce(case: str, language: Language, tmp_path: Path) -> None:
    """With the price in the reward all of them arrive at its optimum.

    There every response has one reward, so that no factor that is positive matters: not the spread of a group, and not
    the weight of a length, for advantages that were proportional to a length could not have mean 0. A policy that can
    be fitted to every response therefore ends in one place; the tolerance is that of every other method.
    """
    check_arrival(language, trained("reinforce", rl(language, tmp_path) | DESCENDANTS[case], tmp_path))


def test_the_price_in_the_loss_has_an_optimum_of_its_own(language: Language, tmp_path: Path) -> None:
    """GRPO's k3: token by token the policy is ref * beta / (beta + mean reward - reward), from the last one on."""
    tree = {"baseline": "group_mean", "kl_coef": 0.0, "kl_loss_coef": KL_COEF, "steps": 120}
    run = trained("reinforce", rl(language, tmp_path) | tree, tmp_path)
    groups: dict[int, list[int]] = {}
    for place, response in enumerate(language.responses):
        groups.setdefault(response[0], []).append(place)
    probabilities, first_rewards, first_ref = language.ref_logprobs.exp(), [], []
    within = []
    for places in groups.values():
        ref = probabilities[places]
        second = tilted(ref / ref.sum(), language.rewards[places])
        within.append(second)
        first_rewards.append((second * language.rewards[places]).sum())
        first_ref.append(ref.sum())
    first = tilted(torch.stack(first_ref), torch.stack(first_rewards))
    expected = torch.zeros(len(language.responses), dtype=torch.float64)
    for probability, places, second in zip(first, groups.values(), within, strict=True):
        expected[places] = probability * second
    logprobs = response_logprobs(run, language.responses)
    optimum = (language.ref_logprobs + language.rewards / KL_COEF).log_softmax(0)
    assert expected.sum().item() == pytest.approx(1, abs=1e-5)
    assert divergence(logprobs, expected.log()) < 0.01
    assert divergence(logprobs, optimum) > 0.02


def tilted(ref: Tensor, rewards: Tensor) -> Tensor:
    """KL_COEF * ref / (KL_COEF + mean - r) [V], the mean being the number for which that adds up to 1."""
    low, high = rewards.max() - KL_COEF, rewards.max()
    for _ in range(100):
        mean = (low + high) / 2
        too_much = (KL_COEF * ref / (KL_COEF + mean - rewards)).sum() > 1
        low, high = (mean, high) if too_much else (low, mean)
    return KL_COEF * ref / (KL_COEF + high - rewards)


@pytest.mark.parametrize(("gae_lambda", "epochs", "steps"), [(1.0, 1, 80), (0.95, 2, 60)])
def test_ppo(gae_lambda: float, epochs: int, steps: int, language: Language, tmp_path: Path) -> None:
    """Whitened advantages, as always: a positive factor and a constant do not move the optimum."""
    tree = {
        "value_model": language.directory,
        "value_optimizer": OPTIMIZER,
        "gae_lambda": gae_lambda,
        "epochs": epochs,
        "steps": steps,
    }
    check_arrival(language, trained("ppo", rl(language, tmp_path) | tree, tmp_path))


@pytest.mark.parametrize(("batch_responses", "epochs"), [(6, 60), (4, 30)])
def test_dpo(batch_responses: int, epochs: int, language: Language, tmp_path: Path) -> None:
    """In every pair, a is chosen `strength[a]` times and b `strength[b]` times: Bradley-Terry to the last digit.

    That holds for a part of the pairs too, so that even small batches agree on the optimum.
    """
    judgements = [
        Ranking(prompt=PROMPT, responses=(Response(text=a), Response(text=b)), ranks=(1, 2), labeler=str(number))
        for a, b in itertools.permutations(STRENGTHS, 2)
        for number in range(STRENGTHS[a])
    ]
    held_out = judgements[0].model_copy(update={"prompt": Prompt.from_text("d", tags={"split": "held out"})})
    tree = {
        "model": language.directory,
        "data": written(tmp_path / "rankings.jsonl", [*judgements, held_out]),
        "holdout": {"tag": "split", "value": "held out"},
        "epochs": epochs,
        "batch_responses": batch_responses,
        "beta": BETA,
        "temperature": TEMPERATURE,
        "checkpoint_every": 1000,
        "optimizer": OPTIMIZER,
    }
    run = trained("dpo", tree, tmp_path)
    assert json.loads((run / "report.json").read_text(encoding="utf-8"))["pairs"] == len(judgements) == 65

    # preferences between some responses say nothing of the probability of all of them together
    chat = load_language_model(language.directory).chat
    compared = [chat.response_tokens(text) for text in STRENGTHS]
    reference = response_logprobs(Path(language.directory), compared).log_softmax(0)
    optimum = (reference + torch.tensor([*STRENGTHS.values()]).double().log() / BETA).log_softmax(0)
    assert divergence(reference, optimum) > 0.1
    assert divergence(response_logprobs(run, compared).log_softmax(0), optimum) < 0.001


def test_ipo(language: Language, tmp_path: Path) -> None:
    """Of four people so many prefer a to b: pi_ref(y) * exp(P(y is preferred to y') / beta) / Z; `dpo` with its loss.

    Azar et al. 2023 (arXiv 2310.12036), theorem 1. The preferences go in circles, so that no strengths explain them.
    """
    texts, beta = list(STRENGTHS), 0.25
    votes = {(a, b): (3 * i + 2 * j + i * j) % 5 for (i, a), (j, b) in itertools.combinations(enumerate(texts), 2)}
    votes |= {(b, a): 4 - count for (a, b), count in votes.items()}
    judgements = [
        Ranking(prompt=PROMPT, responses=(Response(text=a), Response(text=b)), ranks=(1, 2), labeler=str(number))
        for (a, b), count in votes.items()
        for number in range(count)
    ]
    held_out = judgements[0].model_copy(update={"prompt": Prompt.from_text("d", tags={"split": "held out"})})
    tree = {
        "model": language.directory,
        "data": written(tmp_path / "rankings.jsonl", [*judgements, held_out]),
        "holdout": {"tag": "split", "value": "held out"},
        "epochs": 80,
        "batch_responses": 6,
        "loss": "ipo",
        "beta": beta,
        "temperature": TEMPERATURE,
        "checkpoint_every": 1000,
        "optimizer": OPTIMIZER,
    }
    run = trained("dpo", tree, tmp_path)
    chat = load_language_model(language.directory).chat
    compared = [chat.response_tokens(text) for text in texts]
    reference = response_logprobs(Path(language.directory), compared).log_softmax(0)
    shares = [(0.5 + sum(votes[a, b] / 4 for b in texts if b != a)) / len(texts) for a in texts]
    optimum = (reference + torch.tensor(shares, dtype=torch.float64) / beta).log_softmax(0)
    assert divergence(reference, optimum) > 0.02
    assert divergence(response_logprobs(run, compared).log_softmax(0), optimum) < 0.001


def by_level(language: Language, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Distinct rewards, which of them each response has, and the chances of each: of one response, of one that earns at
    most as much, and of the best of n."""
    levels, level_of = language.rewards.unique(return_inverse=True)
    once = torch.zeros_like(levels).index_add_(0, level_of, language.ref_logprobs.exp())
    at_most = once.cumsum(0).clamp(max=1)
    return levels, level_of, once, at_most, at_most**n - (at_most - once).clamp(min=0) ** n


def test_raft(language: Language, tmp_path: Path) -> None:
    """A round on many prompts, which to this model are all the same, ends at the best of K, ties as likely as before.

    As many prompts as this are as far from it as chance has it: (responses - 1) / (2 prompts) nats, 0.02.
    """
    prompts = [Prompt.from_text(f"{PROMPT.text} {number}") for number in range(1000)]
    tree = rl(language, tmp_path) | {
        "prompts": written(tmp_path / "many.jsonl", prompts),
        "prompts_per_step": len(prompts),
        "responses_per_prompt": 2,
        "steps": 1,
        "epochs": 60,
        "optimizer": OPTIMIZER,
    }
    del tree["kl_coef"]
    _, level_of, once, _, best = by_level(language, 2)
    target = language.ref_logprobs + (best / once).log()[level_of]
    logprobs = response_logprobs(trained("raft", tree, tmp_path), language.responses)
    assert divergence(language.ref_logprobs, target) > 0.1
    assert divergence(logprobs, target) < 0.04


def test_distill(language: Language, tmp_path: Path) -> None:
    """The policy arrives at the teacher, and what it logs is the divergence that is left."""
    write_model(tmp_path / "teacher", seed=11)
    target = response_logprobs(tmp_path / "teacher", language.responses)
    assert divergence(language.ref_logprobs, target) > 0.3
    tree = rl(language, tmp_path) | {"teachers": [str(tmp_path / "teacher")], "steps": 60, "rewards": []}
    del tree["kl_coef"]
    run = trained("distill", tree, tmp_path)
    assert divergence(response_logprobs(run, language.responses), target) < 0.005
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[-1]["distill/loss"] < 0.005 < 0.1 < rows[0]["distill/loss"]


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_online_dpo(loss: str, language: Language, tmp_path: Path) -> None:
    """It earns more, at the price of divergence from the policy it began as, and a larger beta holds it back.

    A judge that never errs has no strengths behind it, so that there is no optimum to compare with.
    """
    sizes = {"steps": 20, "responses_per_prompt": 32, "prompts_per_step": 1, "pairs": "all"}
    tree = rl(language, tmp_path) | sizes | {"loss": loss, "optimizer": {"learning_rate": 0.005}}
    del tree["kl_coef"]
    found = []
    for beta in (0.5, 5.0):
        (tmp_path / f"{beta}").mkdir()
        run = trained("online_dpo", tree | {"beta": beta}, tmp_path / f"{beta}")
        logprobs = response_logprobs(run, language.responses)
        score = float((logprobs.exp() * language.rewards).sum())
        found.append((score, divergence(logprobs, language.ref_logprobs)))
    before = float((language.ref_logprobs.exp() * language.rewards).sum())
    (score, kl), (held_score, held_kl) = found
    assert score > before + 0.2
    assert score > held_score + 0.2
    assert kl > 1.5 * held_kl > 0


@pytest.mark.parametrize("n", [2, 8])
def test_best_of_n(n: int, language: Language, tmp_path: Path) -> None:
    """The best of n earns at most v with probability P(reward <= v) ** n; among equals it is as likely as before."""
    prompts = [Prompt.from_text(f"{PROMPT.text} {number}") for number in range(300)]  # to this model, all the same
    tree = {
        "model": language.directory,
        "prompts": written(tmp_path / "prompts.jsonl", prompts),
        "rewards": REWARDS,
        "sampling": SAMPLING,
        "n": n,
    }
    run = trained("best_of_n", tree, tmp_path)
    lines = (run / "responses.jsonl").read_text(encoding="utf-8").splitlines()
    picked = torch.tensor(reward([], [Demonstration.model_validate_json(line).response.text for line in lines]))

    levels, level_of, once, at_most, best = by_level(language, n)
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert len(picked) == len(prompts)
    assert report["score"] == pytest.approx(picked.mean().item())
    for score, chances, num_scores in (("score", best, 300), ("score_of_one", once, 300 * n)):
        mean, deviation = moments(chances, levels)
        assert report[score] == pytest.approx(mean, abs=3 * deviation / num_scores**0.5)

    logprobs = language.ref_logprobs + (best / once).log()[level_of]
    assert logprobs.exp().sum().item() == pytest.approx(1, abs=1e-5)  # sums of fp32 logarithms
    assert 0.5 * best_of_n_kl_bound(n) < divergence(logprobs, language.ref_logprobs) < best_of_n_kl_bound(n)
    wins = (best * (at_most - once / 2)).sum().item()
    assert 0.5 < wins < best_of_n_win_rate_bound(n)
