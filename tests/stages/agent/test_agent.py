"""The agent from end to end: who it asks, what it is paid, and that a kill at any instant changes nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from safetensors.torch import load_file

from palate.cli import main
from palate.corpus import read_rankings
from palate.errors import DataError, LabelsNeededError
from palate.recipe import AgentRecipe, Data, parse_recipe
from palate.run.directory import Run
from palate.stages.agent.agent import train
from palate.stages.agent.clip_answers import PAIRS, comparison_of, read_answers, read_pairs, waiting
from palate.stages.agent.clip_pages import ask_people
from palate.stages.agent.clips import Pairs
from palate.stages.agent.paying import EnvironmentReward, TaughtReward, share_foretold
from palate.stages.agent.reward_networks import stacked_inputs

pytest.importorskip("gymnasium", reason="needs palate[gym]")


def trained(tree: dict[str, Any], out: Path, *, resume: bool = False) -> list[dict[str, float]]:
    recipe = parse_recipe(AgentRecipe, tree)
    train(recipe, Run.open(out, recipe, resume=resume))
    return rows(out)


def rows(out: Path) -> list[dict[str, float]]:
    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def with_labels(tree: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return tree | {"labels": tree["labels"] | changes}


@pytest.mark.parametrize("teacher", ["perfect", "mistaken", "noisy", "skipping", "equal", "myopic", "random"])
def test_every_teacher_is_asked_within_the_budget(teacher: str, small_agent: dict[str, Any], tmp_path: Path) -> None:
    tree = with_labels(small_agent, teacher=teacher, threshold=0.8)
    told = trained(tree, tmp_path / "run")
    asked = [row["labels/asked"] for row in told]
    assert asked == sorted(asked)
    assert asked[-1] == 12
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    said = read_rankings(Data(path=str(tmp_path / "run" / "comparisons.jsonl"))).records
    assert report["comparisons"] == 12
    assert report["answers"] == len(said) == 12 - report["skipped"]
    assert (report["skipped"] > 0) == (teacher == "skipping")
    assert (report["ties"] > 0) == (teacher == "equal")
    assert {ranking.source for ranking in said} == {"simulated"}


def test_choices_are_learned_too(small_agent: dict[str, Any], tmp_path: Path) -> None:
    told = trained(small_agent | {"environment": "CartPole-v1"}, tmp_path / "run")
    assert all(row["agent/beyond_bounds"] == 0 for row in told)
    assert load_file(tmp_path / "run" / "model" / "policy.safetensors")["logits.4.weight"].shape == (2, 8)


def test_the_environment_s_own_reward_asks_nobody(small_agent: dict[str, Any], tmp_path: Path) -> None:
    told = trained(small_agent | {"reward": "environment"}, tmp_path / "run")
    assert not [name for row in told for name in row if name.startswith(("labels/", "reward/"))]
    assert [row["agent/reward_correlation"] for row in told] == pytest.approx([1.0] * 4)
    assert not (tmp_path / "run" / "comparisons.jsonl").exists()


def test_the_environment_s_own_reward_keeps_its_zero_and_what_was_learned_has_none(small_agent: dict[str, Any]) -> None:
    """It is only scaled: where episodes end early, a shift would change what is best."""
    from palate.stages.agent.actor_critic import Scale, policy_for
    from palate.stages.agent.environments import Environments
    from palate.stages.agent.trajectories import act

    recipe = parse_recipe(AgentRecipe, small_agent)
    environments = Environments("Pendulum-v1", 2, seed=0, purpose="test")
    policy = policy_for(3, 0, 1, width=8, layers=1, seed=0)
    done = act(environments, policy, Scale(3), steps=30, key=("test",))
    own = EnvironmentReward(recipe, environments.spaces)
    own.learn(done, 0)
    torch.testing.assert_close(own.rewards(done).double(), done.rewards / done.rewards.std(correction=0))
    taught = TaughtReward(recipe, environments.spaces, Path())
    taught.learn(done, 0)
    clips = taught.comparisons.pairs
    members = taught.ensemble.members(stacked_inputs(taught.scale(clips.observations), clips.actions)).flatten(0, 2)
    torch.testing.assert_close(members.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(members.std(0, correction=0), torch.ones(3))
    torch.testing.assert_close(taught.paid(clips.observations, clips.actions).flatten(), members.mean(1))


def test_what_the_true_reward_is_does_not_reach_the_agent(
    small_agent: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With answers by lot, all that is learned is the same whatever the environment pays."""
    from palate.stages.agent.environments import Environments

    tree = with_labels(small_agent, teacher="random")
    trained(tree, tmp_path / "one")
    act = Environments._act

    def pays_otherwise(self: Environments, copy: int, drawn: Any) -> Any:
        seen, _, terminated, truncated = act(self, copy, drawn)
        return seen, float(seen[0]), terminated, truncated

    monkeypatch.setattr(Environments, "_act", pays_otherwise)
    trained(tree, tmp_path / "other")
    for name in ("policy", "value", "reward"):
        files = [(tmp_path / out / "model" / f"{name}.safetensors").read_bytes() for out in ("one", "other")]
        assert files[0] == files[1]


def test_foretold_is_the_share_of_ordered_answers_that_were_right() -> None:
    ranks = torch.tensor([[1, 2], [2, 1], [1, 2], [1, 1], [2, 1]])
    assert share_foretold(torch.tensor([1.0, -1.0, -1.0, 5.0, 0.0]), ranks) == pytest.approx(2.5 / 4)
    assert share_foretold(torch.tensor([1.0]), torch.tensor([[1, 1]])) is None


def test_killed_and_resumed_ends_with_the_same_bits(small_agent: dict[str, Any], tmp_path: Path) -> None:
    tree = small_agent | {"steps": 40, "checkpoint_every": 3, "evaluate_every": 10}
    recipe = tmp_path / "agent.toml"
    recipe.write_text(tomli_w.dumps(tree), encoding="utf-8")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["agent", str(recipe), "--alone", "--out", str(whole)]) == 0

    command = [sys.executable, "-m", "palate", "agent", str(recipe), "--alone", "--out", str(killed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    chance = random.Random("agent")
    until, deadline = chance.randint(4, 15), time.monotonic() + 120
    while len(rows(killed / "learned" / "seed-0")) < until and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed: give it more steps"
    assert not (killed / "learned" / "seed-0" / "model").exists()

    assert main(["agent", str(recipe), "--alone", "--out", str(killed)]) == 0
    ends = [out / "learned" / "seed-0" for out in (whole, killed)]
    for name in ("policy", "value", "reward", "scale", "reward_scale"):
        first, second = ((end / "model" / f"{name}.safetensors").read_bytes() for end in ends)
        assert first == second, name
    untimed = [
        [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows(end)]
        for end in ends
    ]
    assert untimed[0] == untimed[1]
    assert (ends[0] / "comparisons.jsonl").read_text() == (ends[1] / "comparisons.jsonl").read_text()


def judge(directory: Path, *, ranks: dict[str, tuple[int, int]] | None = None, skip: int = 0) -> None:
    """Say of every pair so far the ranks that each labeler gives; the last ones are skipped."""
    pairs = read_pairs(directory)
    judged, left = pairs[: len(pairs) - skip], pairs[len(pairs) - skip :]
    said = ranks or {"ann": (1, 2)}
    lines = [pair.model_dump() | {"ranks": given, "labeler": by} for pair in judged for by, given in said.items()]
    if lines:
        (directory / "rankings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    if skip:
        with (directory / "skipped.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(pair.to_json() + "\n" for pair in left)


def waited_for(tree: dict[str, Any], out: Path, **said: Any) -> None:
    """A run with people who answer whenever it waits for them."""
    recipe = parse_recipe(AgentRecipe, tree)
    for waited in range(20):
        try:
            return train(recipe, Run.open(out, recipe, resume=waited > 0))
        except LabelsNeededError:
            judge(out, **said)
    pytest.fail("it waits and waits")


def test_people_are_asked_and_waited_for(small_agent: dict[str, Any], tmp_path: Path) -> None:
    """The run ends while answers are missing, and then is the one that never waited."""
    tree, out = with_labels(small_agent, teacher="people"), tmp_path / "run"
    recipe = parse_recipe(AgentRecipe, tree)
    for waited in range(4):
        with pytest.raises(LabelsNeededError, match="comparisons wait for people") as stop:
            train(recipe, Run.open(out, recipe, resume=waited > 0))
        assert "\n" not in str(stop.value)
        pair = json.loads((out / PAIRS).read_text().splitlines()[-1])
        assert all((out / response["text"]).read_text().startswith("<svg") for response in pair["responses"])
        assert f"comparison {pair['prompt']['tags']['comparison']}:" in (out / "clips" / "index.html").read_text()
        judge(out)
    train(recipe, Run.open(out, recipe, resume=True))
    assert rows(out)[-1]["labels/asked"] == 12
    said = read_rankings(Data(path=str(out / "comparisons.jsonl"))).records
    assert {(ranking.source, ranking.ranks) for ranking in said} == {("human", (1, 2))}
    known = tmp_path / "known.jsonl"
    known.write_text((out / "rankings.jsonl").read_text(), encoding="utf-8")
    trained(with_labels(tree, rankings=str(known)), tmp_path / "again")
    for name in ("policy", "reward"):
        path = Path("model") / f"{name}.safetensors"
        assert (out / path).read_bytes() == (tmp_path / "again" / path).read_bytes()


def test_several_people_share_the_weight_of_a_pair(small_agent: dict[str, Any], tmp_path: Path) -> None:
    tree = small_agent | {"reward_model": small_agent["reward_model"] | {"bootstrap": False, "batch_size": 24}}
    waited_for(with_labels(tree, teacher="people"), tmp_path / "run", ranks={"ann": (1, 2), "bob": (2, 1)})
    told = rows(tmp_path / "run")
    assert told[-1]["labels/asked"] == 12
    assert min(row["reward/loss"] for row in told) > 0.69  # whoever contradict each other teach nothing
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert (report["comparisons"], report["answers"]) == (12, 24)


def test_a_pair_weighs_as_much_however_many_judge_it(tmp_path: Path) -> None:
    """Of three pairs one is judged by two people, one by one, one by nobody."""
    numbers = torch.arange(3 * 2 * 4 * 3, dtype=torch.float32).view(3, 2, 4, 3)
    pairs = Pairs(observations=numbers, actions=numbers[..., :1], rewards=numbers[..., 0].double())
    with pytest.raises(LabelsNeededError, match="3 of 3 comparisons"):
        ask_people(pairs, tmp_path, "", environment="Pendulum-v1", first=5)
    first, second, third = read_pairs(tmp_path)
    said = [(first, "ann", [1, 2]), (second, "ann", [2, 1]), (first, "bob", [1, 1])]
    lines = [json.dumps(pair.model_dump() | {"ranks": ranks, "labeler": by}) for pair, by, ranks in said]
    (tmp_path / "rankings.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "skipped.jsonl").write_text(third.to_json() + "\n", encoding="utf-8")
    answers = ask_people(pairs, tmp_path, "", environment="Pendulum-v1", first=5)
    assert answers.rows.tolist() == [0, 0, 1]
    assert answers.ranks.tolist() == [[1, 2], [1, 1], [2, 1]]
    assert answers.weights.tolist() == [0.5, 0.5, 1.0]


def test_while_nobody_has_answered_all_recent_rollouts_are_the_unit(small_agent: dict[str, Any]) -> None:
    """A teacher that always skips: the networks are as they began, and what they give has one unit all the same."""
    from palate.stages.agent.actor_critic import Scale, policy_for
    from palate.stages.agent.environments import Environments
    from palate.stages.agent.trajectories import act

    tree = with_labels(small_agent, teacher="skipping", threshold=1.0)
    environments = Environments("Pendulum-v1", 2, seed=0, purpose="test")
    taught = TaughtReward(parse_recipe(AgentRecipe, tree), environments.spaces, Path())
    policy = policy_for(3, 0, 1, width=8, layers=1, seed=0)
    taken = []
    for rollout in range(2):
        taken.append(act(environments, policy, Scale(3), steps=30, key=("test", rollout)))
        taught.clips.add(taken[-1], environments.spaces.seen(taken[-1].actions))
        taught.scale.update(taken[-1].observations)
    taught.due = [0] * len(taught.due)
    taught.learn(taken[-1], 0)  # the second once more, so that three are kept
    paid = torch.cat([taught.rewards(done).flatten() for done in (*taken, taken[-1])])
    assert float(paid.mean()) == pytest.approx(0.0, abs=1e-5)


def test_what_people_skip_is_counted_and_not_waited_for(small_agent: dict[str, Any], tmp_path: Path) -> None:
    tree = with_labels(small_agent, teacher="people", budget=6, first_share=1.0)
    with pytest.raises(LabelsNeededError):
        trained(tree, tmp_path / "run")
    judge(tmp_path / "run", skip=2)
    assert waiting(tmp_path / "run") == []
    told = trained(tree, tmp_path / "run", resume=True)
    assert (told[0]["labels/asked"], told[0]["labels/skipped"]) == (6, 2)
    assert json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))["answers"] == 4


def test_nobody_has_to_answer_anything(small_agent: dict[str, Any], tmp_path: Path) -> None:
    """A run of which everything was skipped ends, having learned nothing from anybody."""
    tree = with_labels(small_agent, teacher="people", budget=3, first_share=1.0)
    with pytest.raises(LabelsNeededError):
        trained(tree, tmp_path / "run")
    judge(tmp_path / "run", skip=3)
    told = trained(tree, tmp_path / "run", resume=True)
    assert told[0]["labels/skipped"] == 3
    assert not [name for row in told for name in row if name.startswith("reward/")]


def test_rankings_of_something_else_are_refused(small_agent: dict[str, Any], tmp_path: Path) -> None:
    known = tmp_path / "known.jsonl"
    names = ("clips/000000-a-000000000000.svg", "clips/000000-b-000000000000.svg")
    record = comparison_of("Acrobot-v1", 0, names).model_dump() | {"ranks": [1, 2]}
    known.write_text(json.dumps(record) + "\n", encoding="utf-8")
    tree = with_labels(small_agent, teacher="people", rankings=str(known))
    with pytest.raises(DataError, match=r"known\.jsonl:1: .*not the two clips of one comparison of this run"):
        trained(tree, tmp_path / "run")


def test_answers_to_another_run_are_refused(small_agent: dict[str, Any], tmp_path: Path) -> None:
    """Comparison 0 of another seed has the same number and other clips: its answer is no answer here."""
    tree = with_labels(small_agent, teacher="people")
    for seed in (0, 1):
        with pytest.raises(LabelsNeededError):
            trained(tree | {"seed": seed}, tmp_path / str(seed))
    judge(tmp_path / "1")
    (tmp_path / "1" / "rankings.jsonl").rename(tmp_path / "0" / "rankings.jsonl")
    with pytest.raises(DataError, match=r"rankings\.jsonl:1: .*not the two clips of one comparison of this run"):
        trained(tree, tmp_path / "0", resume=True)


def test_what_waits_is_what_nobody_dealt_with(small_agent: dict[str, Any], tmp_path: Path) -> None:
    assert waiting(tmp_path) == []
    with pytest.raises(LabelsNeededError):
        trained(with_labels(small_agent, teacher="people"), tmp_path / "run")
    pairs = read_pairs(tmp_path / "run")
    assert waiting(tmp_path / "run") == pairs
    judge(tmp_path / "run", skip=0)
    lines = (tmp_path / "run" / "rankings.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "run" / "rankings.jsonl").write_text("".join(lines[1:]), encoding="utf-8")
    assert waiting(tmp_path / "run") == pairs[:1]
    turned = json.loads(lines[0])
    turned |= {"responses": turned["responses"][::-1], "ranks": [2, 1]}  # listed the other way round
    (tmp_path / "run" / "rankings.jsonl").write_text(json.dumps(turned) + "\n", encoding="utf-8")
    assert read_answers(tmp_path / "run", "", "Pendulum-v1", asked={}).ranks == {0: [(1, 2)]}


def test_the_command_waits_for_people_with_one_line(
    small_agent: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "agent.toml"
    recipe.write_text(tomli_w.dumps(with_labels(small_agent, teacher="people")), encoding="utf-8")
    for _ in range(2):  # the same again: nothing has begun that could not
        assert main(["agent", str(recipe), "--out", str(tmp_path / "out")]) == 75
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("palate: 7 of 7 comparisons wait for people: open ")


def test_without_gymnasium_the_command_says_what_to_install(
    small_agent: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = tmp_path / "agent.toml"
    recipe.write_text(tomli_w.dumps(small_agent), encoding="utf-8")
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    assert main(["agent", str(recipe), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.strip().endswith("run `pip install 'palate[gym]'`")
