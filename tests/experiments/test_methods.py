"""What is compared: names, overrides, seeds, and what is refused; each mistake in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.experiments.conftest import Write

from palate.cli import main
from palate.commands import STAGES
from palate.errors import RecipeError
from palate.experiments.methods import differing_keys, filled, read_comparison, read_methods


@pytest.fixture
def judged(evaluation: dict[str, Any], write: Write) -> str:
    return write("judged", evaluation)


def test_a_recipe_is_called_after_its_file_or_as_one_says(settings: dict[str, Any], write: Write) -> None:
    ppo, plain = write("ppo_low_kl", settings["ppo"]), write("reinforce", settings["reinforce"])
    methods = read_methods([ppo, plain, f"again={plain}"], ["steps=3", "again:steps=4", "again:kl_coef=0.5"])
    assert [(method.name, method.stage.name) for method in methods] == [
        ("ppo_low_kl", "ppo"),
        ("reinforce", "reinforce"),
        ("again", "reinforce"),
    ]
    assert [method.recipe(7).steps for method in methods] == [3, 3, 4]
    assert [method.recipe(7).seed for method in methods] == [7, 7, 7]
    assert [method.recipe(0).kl_coef for method in methods] == [0.05, 0.05, 0.5]


def test_every_recipe_for_a_policy_says_its_stage_or_is_called_after_it() -> None:
    policies = {stage.name for stage in STAGES if stage.makes_policy}
    shipped = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))
    others = {
        "pretrain",
        "reward",
        "reward_ensemble",
        "reward_objectives",
        "convarg",
        "llmfao",
        "hh_harmless",
        "sample",
        "judge",
        "revise",
        "rounds",
        "demo",
        "pendulum",
        "best_of_n",
        "win_rate",
        "card",
    }
    methods = read_methods([str(path) for path in shipped if path.stem not in others])
    assert {method.stage.name for method in methods} == policies
    assert {method.name for method in methods if method.stage.name == "reinforce"} == {
        "reinforce", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "verified",
    }  # fmt: skip


def test_a_resolved_recipe_says_its_stage_and_is_called_after_its_run(
    settings: dict[str, Any], write: Write, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    write("mine/recipe", settings["dpo"] | {"stage": "dpo"})
    (method,) = read_methods([str(tmp_path / "mine" / "recipe.toml")])
    assert (method.name, method.stage.name) == ("mine", "dpo")


def test_the_seed_stands_wherever_a_text_says_so() -> None:
    tree = {"model": "runs/{seed}/sft", "rewards": [{"model": "a{seed}"}], "steps": 3}
    assert filled(tree, 5) == {"model": "runs/5/sft", "rewards": [{"model": "a5"}], "steps": 3}


def test_a_recipe_of_palate_eval_will_do(evaluation: dict[str, Any], settings: dict[str, Any], write: Write) -> None:
    tree = {key: value for key, value in evaluation.items() if key not in ("points", "best_of")}
    path = write("win_rate", tree | {"model": "elsewhere", "chat_template": "plain", "stage": "win_rate"})
    _, measured_by = read_comparison([write("dpo", settings["dpo"])], Path(path), ["eval:points=7"])
    assert (measured_by.baseline, measured_by.points) == ("tiny", 7)


UNLIKE: dict[str, dict[str, Any]] = {
    "model": {"model": "elsewhere"},
    "prompts": {"prompts": {"path": "others.jsonl"}},
    "rewards": {"rewards": [{"length": 9.0}]},
    "temperature": {"sampling": {"max_new_tokens": 8, "temperature": 1.0}},
}


@pytest.mark.parametrize("what", UNLIKE)
def test_what_cannot_be_compared_is_refused_unless_one_says_so(
    what: str, settings: dict[str, Any], write: Write, judged: str
) -> None:
    files = [write("reinforce", settings["reinforce"]), write("ppo", settings["ppo"], **UNLIKE[what])]
    with pytest.raises(RecipeError, match=rf"^{what}: reinforce has .* ppo has .*--allow-different {what}$"):
        read_comparison(files, Path(judged))
    methods, _ = read_comparison(files, Path(judged), allow_different=[what])
    assert len(methods) == 2
    others = [other for other in UNLIKE if other != what]
    with pytest.raises(RecipeError):
        read_comparison(files, Path(judged), allow_different=others)


def test_what_only_some_have_is_no_difference(settings: dict[str, Any], write: Write, judged: str) -> None:
    files = [write(stage, settings[stage]) for stage in ("dpo", "ppo", "sft")]
    assert len(read_comparison(files, Path(judged))[0]) == 3


def test_the_temperature_is_also_that_of_the_evaluation(settings: dict[str, Any], write: Write, judged: str) -> None:
    files = [write("dpo", settings["dpo"], temperature=1.0)]
    with pytest.raises(RecipeError, match=r"temperature: dpo has 1, eval has 0\.7"):
        read_comparison(files, Path(judged))


def test_keys_that_differ(settings: dict[str, Any], write: Write) -> None:
    changed = {"kl_coef": 0.2, "seed": 3}
    methods = read_methods(
        [write("ppo", settings["ppo"]), write("reinforce", settings["reinforce"], **changed)], ["ppo:gamma=0.9"]
    )
    rows = dict(differing_keys(methods))
    assert rows["stage"] == ["ppo", "reinforce"]
    assert rows["kl_coef"] == ["0.05", "0.2"]
    assert rows["gamma"] == ["0.9", "–"]  # only one knows it, and sets it
    assert rows["value_model"] == ["tiny", "–"]
    assert not rows.keys() & {"seed", "gae_lambda", "steps"}  # the run's, a default, and alike


MISTAKES: dict[str, tuple[list[str], str]] = {
    "an unknown key": (
        ["bad.toml", "--eval", "judged.toml"],
        "bad.toml: unknown key 'kl_coeff'; did you mean 'kl_coef'?",
    ),
    "no such file": (["nowhere.toml", "--eval", "judged.toml"], "nowhere.toml: no such recipe"),
    "no such evaluation": (["dpo.toml", "--eval", "nowhere.toml"], "nowhere.toml: no such recipe"),
    "no stage": (
        ["mine.toml", "--eval", "judged.toml"],
        "mine.toml: it does not say of which stage it is; write stage",
    ),
    "a stage without a policy": (["reward.toml", "--eval", "judged.toml"], "reward.toml: reward makes no policy"),
    "two of one name": (["dpo.toml", "dpo.toml", "--eval", "judged.toml"], "two recipes are called 'dpo': name each"),
    "an override of nobody": (
        ["dpo.toml", "--eval", "judged.toml", "--set", "dop:beta=1"],
        "--set dop:beta=1: no recipe is called 'dop'",
    ),
    "no evaluation": (["dpo.toml"], "the following arguments are required: --eval"),
    "no seeds": (["dpo.toml", "--eval", "judged.toml", "--seeds", "0"], "argument --seeds: '0' is no number of seeds"),
    "prompts by seed": (
        ["dpo.toml", "--eval", "judged.toml", "--set", "eval:prompts.path=a{seed}.jsonl"],
        "judged.toml: prompts must be the same for every seed",
    ),
    "data that is not there": (
        ["dpo.toml", "--eval", "judged.toml", "--set", "dpo:data.path=nowhere.jsonl"],
        "nowhere.jsonl",
    ),
    "a name that is no directory": (["a/b=dpo.toml", "--eval", "judged.toml"], "a/b=dpo.toml: a recipe's name becomes"),
    "no name at all": (["=dpo.toml", "--eval", "judged.toml"], "=dpo.toml: a recipe's name becomes a directory"),
    "a hidden name": ([".dpo=dpo.toml", "--eval", "judged.toml"], ".dpo=dpo.toml: a recipe's name becomes"),
    "the evaluation's name": (["eval=dpo.toml", "--eval", "judged.toml"], "two recipes are called 'eval': name each"),
    "a stage that is none": (["odd.toml", "--eval", "judged.toml"], "odd.toml: 'dance' is no stage; write stage"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_made(
    mistake: str,
    settings: dict[str, Any],
    write: Write,
    judged: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write("dpo", settings["dpo"])
    write("reward", settings["reward"])
    write("mine", settings["dpo"])
    write("bad", settings["ppo"], stage="ppo", kl_coeff=0.1)
    write("odd", settings["dpo"], stage="dance")
    arguments, message = MISTAKES[mistake]
    try:
        status = main(["compare", *arguments])
    except SystemExit as error:
        status = int(error.code or 0)
    said = capsys.readouterr().err
    assert status == 2
    assert said.count("\n") == 1
    assert message in said
    assert not (tmp_path / "runs").exists()
