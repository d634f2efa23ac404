"""What a recipe may say, and what the error says when it may not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.errors import RecipeError
from palate.recipe import (
    DistillRecipe,
    DPORecipe,
    JudgeRecipe,
    KTORecipe,
    PPORecipe,
    RAFTRecipe,
    ReinforceRecipe,
    ReviseRecipe,
    RewardRecipe,
    Section,
    SFTRecipe,
    load_recipe,
    parse_recipe,
)

SFT = '[data]\npath = "demonstrations.jsonl"\n'
PPO = '[prompts]\npath = "prompts.jsonl"\n\n[[rewards]]\nmodel = "runs/reward/model"\n\n[[rewards]]\nlength = 20\n'


@pytest.fixture
def sft(tmp_path: Path) -> Path:
    return write(tmp_path, SFT)


@pytest.fixture
def ppo(tmp_path: Path) -> Path:
    return write(tmp_path, PPO)


def write(directory: Path, text: str) -> Path:
    path = directory / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_filled_in(sft: Path) -> None:
    recipe = load_recipe(SFTRecipe, sft)
    assert recipe.data.path == "demonstrations.jsonl"
    assert recipe.model == "smollm2-135m"
    assert recipe.optimizer.learning_rate == 2e-5
    assert recipe.stage == "sft"


def test_reinforcement_learning_has_its_own_epsilon(ppo: Path) -> None:
    recipe = load_recipe(PPORecipe, ppo)
    assert (recipe.optimizer.epsilon, recipe.value_optimizer.epsilon) == (1e-5, 1e-5)


def test_recipe_is_frozen(sft: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_recipe(SFTRecipe, sft).seed = 1  # type: ignore[misc]


def test_missing_file_says_where_recipes_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such recipe; `recipes/` has one for every method"):
        load_recipe(SFTRecipe, tmp_path / "sft.toml")


def test_directory_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(SFTRecipe, tmp_path)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b'model = "\xff"')
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(SFTRecipe, path)


def test_bad_toml_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.toml: not valid TOML: .*line 2"):
        load_recipe(SFTRecipe, write(tmp_path, 'seed = 1\nmodel = "a\n'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 2\n" + SFT, "unknown key 'epoch'; did you mean 'epochs'?"),
        (
            SFT + "[optimizer]\nlearning_rat = 1e-5\n",
            "unknown key 'optimizer.learning_rat'; did you mean 'learning_rate'?",
        ),
        (SFT + "[holdout]\nxyz = 1\n", "unknown key 'holdout.xyz'; known keys: fraction, tag, value"),
        ("epochs = 0\n" + SFT, "'epochs': Input should be greater than 0"),
        ('precision = "fp16"\n' + SFT, "'precision': Input should be 'auto', 'bf16' or 'fp32'"),
        ("seed = 1\n", "'data' is required"),
        ("data = {}\n", "'data.path' is required"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(SFTRecipe, path)
    assert str(caught.value) == f"{path}: {message}"


def test_every_mistake_has_its_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(SFTRecipe, write(tmp_path, "epoch = 2\nseed = -1\n" + SFT))
    assert len(str(caught.value).splitlines()) == 2


def test_mistakes_inside_lists_and_optional_sections(tmp_path: Path) -> None:
    text = (
        PPO + '\n[[rewards]]\nmodel = "a"\nwieght = 2\n\n[pretraining]\ncof = 1\n[pretraining.data]\npath = "t.txt"\n'
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(PPORecipe, write(tmp_path, text))
    assert "unknown key 'rewards.2.wieght'; did you mean 'weight'?" in str(caught.value)
    assert "unknown key 'pretraining.cof'; did you mean 'coef'?" in str(caught.value)


@pytest.mark.parametrize("term", ["", 'model = "a"\nlength = 20\n', "weight = 2\n"])
def test_a_reward_is_of_exactly_one_kind(tmp_path: Path, term: str) -> None:
    text = f'[prompts]\npath = "p.jsonl"\n[[rewards]]\n{term}'
    with pytest.raises(
        RecipeError, match=r"'rewards\.0': name exactly one of model, ensemble, function, length, verifier"
    ):
        load_recipe(PPORecipe, write(tmp_path, text))


def test_set_replaces_keys_of_every_type(sft: Path) -> None:
    overrides = [
        "seed=3",
        "optimizer.learning_rate=1e-4",
        "model=runs/sft/model",
        'data.path="a b.jsonl"',
        "data.tags=['topic']",
        "holdout.fraction = 0.5",
    ]
    recipe = load_recipe(SFTRecipe, sft, overrides)
    assert (recipe.seed, recipe.optimizer.learning_rate, recipe.model) == (3, 1e-4, "runs/sft/model")
    assert (recipe.data.path, recipe.data.tags, recipe.holdout.fraction) == ("a b.jsonl", ("topic",), 0.5)


def test_set_reaches_into_lists(ppo: Path) -> None:
    recipe = load_recipe(PPORecipe, ppo, ["rewards.1.length=30", "whiten_rewards=true"])
    assert [reward.length for reward in recipe.rewards] == [None, 30.0]
    assert recipe.whiten_rewards


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set seed: write it as key=value"),
        ("sed=1", "unknown key 'sed'; did you mean 'seed'?"),
        ("optimizer.learningrate=1", "did you mean 'learning_rate'?"),
        ("data.path.x=1", "--set data.path.x=1: path is not a section"),
        ("seed=x", "'seed': Input should be a valid integer"),
    ],
)
def test_set_with_a_mistake(sft: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(SFTRecipe, sft, [override])
    assert message in str(caught.value)


def test_last_set_wins(sft: Path) -> None:
    assert load_recipe(SFTRecipe, sft, ["seed=1", "seed=2"]).seed == 2


def test_table_of_weights_keeps_its_keys(tmp_path: Path) -> None:
    recipe = load_recipe(
        RewardRecipe, write(tmp_path, SFT + "[labeler_weights]\nanna = 1.5\n"), ["labeler_weights.bo=0"]
    )
    assert recipe.labeler_weights == {"anna": 1.5, "bo": 0.0}


@given(st.text(max_size=30), st.integers(0, 2**40), st.floats(1e-9, 1.0))
def test_what_was_resolved_reads_back_the_same(model: str, seed: int, rate: float) -> None:
    tree = {"model": model, "seed": seed, "optimizer": {"learning_rate": rate}, "data": {"path": "a.jsonl"}}
    recipe = parse_recipe(SFTRecipe, tree)
    assert parse_recipe(SFTRecipe, recipe.model_dump()) == recipe


def every_section(kind: type[Section]) -> list[type[Section]]:
    return [kind, *(each for child in kind.__subclasses__() for each in every_section(child))]


@pytest.mark.parametrize("kind", every_section(Section)[1:], ids=lambda kind: kind.__name__)
def test_every_key_is_documented_and_every_section_frozen(kind: type[Section]) -> None:
    assert kind.__doc__
    undocumented = [name for name, field in kind.model_fields.items() if not field.description and name != "stage"]
    assert undocumented == []
    assert kind.model_config["frozen"]
    assert kind.model_config["extra"] == "forbid"


DISTILL = 'teachers = ["a"]\n[prompts]\npath = "p.jsonl"\n'
JUDGE = 'constitution = "c.toml"\n[candidates]\npath = "c.jsonl"\n'
REVISE = 'constitution = "c.toml"\n[prompts]\npath = "p.jsonl"\n'
RLOO = '[prompts]\npath = "p.jsonl"\n[[rewards]]\nlength = 20\n'


@pytest.mark.parametrize(
    ("kind", "text", "overrides", "message"),
    [
        (ReinforceRecipe, RLOO, ["responses_per_prompt=1"], 'baseline = "leave_one_out" needs 2 responses_per_prompt'),
        (ReinforceRecipe, RLOO, ["rewards.0.weight=0"], "every reward has weight 0"),
        (ReinforceRecipe, RLOO, ["max_length=48"], "sampling.max_new_tokens = 48 leaves no room for a prompt within"),
        (ReinforceRecipe, RLOO, ["truncation_score=nan"], "'truncation_score': Input should be a finite number"),
        (ReinforceRecipe, RLOO, ["rewards.0.weight=inf"], "'rewards.0.weight': Input should be a finite number"),
        (PPORecipe, PPO, ["prompts_per_step=3", "minibatches=4"], "at most prompts_per_step of them"),
        (PPORecipe, PPO, ["value_warmup=20"], "value_warmup = 20 leaves none of 20 steps in which the policy learns"),
        (PPORecipe, PPO, ["kl_target=-1"], "'kl_target': Input should be greater than 0"),
        (PPORecipe, PPO, ["kl_target=0"], "'kl_target': Input should be greater than 0"),
        (PPORecipe, PPO, ["kl_target=6", "kl_coef=0"], "kl_target adapts kl_coef by factors, and 0 stays 0"),
        (PPORecipe, PPO, ["kl_target=6", "kl_horizon=12"], "kl_horizon = 12 is too short for 64 responses a step"),
        (PPORecipe, RLOO, [], "no reward model to start the value model from: set value_model"),
        (PPORecipe, PPO, ["pretraining={data={path='t'}, sequence_length=1}"], "'pretraining.sequence_length'"),
        (RewardRecipe, SFT, ["batch_responses=1"], "'batch_responses': Input should be greater than or equal to 2"),
        (DPORecipe, SFT, ["batch_responses=1"], "'batch_responses': Input should be greater than or equal to 2"),
        (DPORecipe, SFT, ["loss=ipo", "label_smoothing=0.1"], 'label_smoothing belongs to loss = "dpo"; loss = "ipo"'),
        (KTORecipe, SFT, ["batch_size=1"], "'batch_size': Input should be greater than or equal to 2"),
        (RAFTRecipe, RLOO, ["responses_per_prompt=1"], "'responses_per_prompt': Input should be greater than or equal"),
        (DistillRecipe, DISTILL, ["teachers=['a', 'b']"], "several teachers: name rewards, of a weight other than 0"),
        (DistillRecipe, DISTILL, ["rewards=[{ length = 3 }]"], "one teacher alone teaches every prompt: leave rewards"),
        (JudgeRecipe, JUDGE, ["sampling.temperature=1"], "nothing is drawn without samples: set samples, or leave out"),
        (JudgeRecipe, JUDGE, ["endpoint.url=http://a/v1", "precision=fp32"], "are of a model that runs here"),
        (ReviseRecipe, REVISE, ["endpoint.url=http://a/v1", "chat_template=plain"], "are of a model that runs here"),
        (ReviseRecipe, REVISE, ["endpoint.url=a.b/v1"], "'endpoint.url': an address such as http://localhost:8000/v1"),
        (SFTRecipe, SFT, ["optimizer.beta1=1"], "'optimizer.beta1': Input should be less than 1"),
        (SFTRecipe, SFT, ["optimizer.learning_rate=inf"], "'optimizer.learning_rate': Input should be a finite number"),
        (SFTRecipe, SFT, ["holdout.fraction=0"], "'holdout': fraction = 0 leaves nothing to train on, or nothing to"),
        (SFTRecipe, SFT, ["holdout.fraction=1"], "'holdout': fraction = 1 leaves nothing to train on, or nothing to"),
        (SFTRecipe, SFT, ["holdout.tag=topic"], "'holdout': a holdout by tag needs both: a tag, and the value of it"),
        (SFTRecipe, SFT, ["holdout.value=tea"], "'holdout': a holdout by tag needs both: a tag, and the value of it"),
        (SFTRecipe, SFT, ["max_left_out=2"], "'max_left_out': Input should be less than or equal to 1"),
    ],
)
def test_settings_that_cannot_work_together_are_refused_with_the_recipe(
    kind: type[Section], text: str, overrides: list[str], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path, text)
    load_recipe(kind, path, ["value_model=tiny"] if kind is PPORecipe else [])
    with pytest.raises(RecipeError) as caught:
        load_recipe(kind, path, overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "text", "overrides"),
    [
        (ReinforceRecipe, RLOO, ["responses_per_prompt=2", "max_length=49"]),
        (PPORecipe, PPO, ["prompts_per_step=4", "minibatches=4", "responses_per_prompt=1"]),
        (PPORecipe, PPO, ["value_warmup=19", "kl_target=6", "kl_horizon=13"]),
        (PPORecipe, RLOO, ["value_model=tiny"]),
        (JudgeRecipe, JUDGE, ["samples=3", "sampling.temperature=1", "endpoint.url=https://a/v1/"]),
        (RewardRecipe, SFT, ["batch_responses=2"]),
        (SFTRecipe, SFT, ["holdout.tag=topic", "holdout.value=tea", "holdout.fraction=0"]),
    ],
)
def test_settings_that_only_just_work(kind: type[Section], text: str, overrides: list[str], tmp_path: Path) -> None:
    load_recipe(kind, write(tmp_path, text), overrides)


def test_a_mistake_in_the_only_entry_is_told_once() -> None:
    """And not also as a list without entries, which nobody wrote."""
    tree = {"model": "tiny", "prompts": {"path": "p.jsonl"}}
    with pytest.raises(RecipeError) as caught:
        parse_recipe(ReinforceRecipe, tree | {"rewards": [{"modl": "x"}]})
    assert str(caught.value) == "recipe: unknown key 'rewards.0.modl'; did you mean 'model'?"
    with pytest.raises(RecipeError, match="at least 1 item"):
        parse_recipe(ReinforceRecipe, tree | {"rewards": []})
