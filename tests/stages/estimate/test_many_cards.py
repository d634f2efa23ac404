"""A run on many cards, computed: against figures worked out by hand, and against what must hold of any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate import cli
from palate.recipe import ReinforceRecipe, SFTRecipe, parse_recipe
from palate.stages.estimate import footprint
from palate.stages.estimate.many_cards import CARDS, Card, Drawing, Layout, Step, Through, describe, plan, step_of
from palate.stages.estimate.trial import tell
from palate.stages.estimate.workload import Moment, Workload
from palate.stages.reinforcement import reinforce
from palate.stages.sft import train as sft

CARD = Card(
    flops=1000, memory=5000, bandwidth=100, link=50, network=5, per_machine=4, products=0.5, reads=1.0, moves=1.0
)
DRAWING = Drawing(responses=8, slots=2, tokens=10, prompts=40, prompt=5, weights=300, numbers=50, width=4, place=2)
STEP = Step(
    learning=6000,
    scoring=2000,
    passes=[
        Through(weights=400, learned=300, rows=60, times=2),
        Through(weights=400, learned=0, rows=60),
    ],
    updates=2,
    microbatch=10,
    drawing=DRAWING,
)


class Held(Workload):
    """A run of which it is known what is in memory."""

    def whole(self) -> Any:
        yield Moment(name="sampling", parts={"weights": 900, "optimizer": 600, "cache": 700, "packed copies": 50})
        yield Moment(name="learning", parts={"weights": 900, "optimizer": 600, "gradients": 300, "activations": 400})


def of(layout: Layout, step: Step = STEP, card: Card = CARD) -> Any:
    return plan(Held(nets=[]), step, layout, card)


def test_seconds_by_hand() -> None:
    """Two engines draw 4 each, 2 at a time; a step reads 200 + 2 (5 + 10 / 2) 2 = 240 of 100 a second."""
    found = of(Layout(trainers=2, engines=2))
    prompts = 2 * 50 * 40 / 2 / 500
    assert found.seconds["sampling"] == pytest.approx(prompts + 4 / 2 * 10 * 2.4)
    assert found.seconds["learning"] == pytest.approx(6000 / 500 / 2)
    assert found.seconds["scoring"] == pytest.approx(2000 / 500 / 2)
    assert found.sampling == pytest.approx(2 * found.seconds["sampling"])
    assert found.training == pytest.approx(8000 / 500)


def test_where_multiplying_takes_longer_than_reading() -> None:
    found = of(Layout(trainers=2, engines=2), replace(STEP, drawing=replace(DRAWING, numbers=5000, width=0)))
    assert found.seconds["sampling"] == pytest.approx(2 * 5000 * 40 / 2 / 500 + 20 * 2 * 5000 * 2 / 500)


def test_more_engines_than_fill_their_slots() -> None:
    """Eight draw one each: a step reads for one, not for two."""
    found = of(Layout(trainers=2, engines=8))
    assert found.seconds["sampling"] == pytest.approx(2 * 50 * 40 / 8 / 500 + 10 * 2.2)


def test_who_waits() -> None:
    """A trainer waits for what moves, and for engines; whoever samples itself does not wait for that."""
    for layout, engines in ((Layout(trainers=2, engines=2), 1), (Layout(trainers=2), 0)):
        found = of(layout)
        idle = found.seconds["moving"] + engines * found.seconds["sampling"]
        assert found.waits == pytest.approx(idle / sum(found.seconds.values()))


def test_an_engine_of_two_cards_is_twice_as_fast() -> None:
    one, two = (of(Layout(trainers=2, engines=1, tensor_parallel=each)) for each in (1, 2))
    assert one.seconds["sampling"] == pytest.approx(2 * two.seconds["sampling"])
    assert one.sampling == pytest.approx(two.sampling)


def test_what_moves_where_weights_are_divided() -> None:
    """60 rows over 2 trainers are 3 parts of 10: learning gathers twice a part, looking once."""
    moved = of(Layout(trainers=2, engines=3)).moved
    assert moved == {
        "gathering": pytest.approx(0.5 * 400 * (2 * 3 * 2 + 3)),
        "reducing": pytest.approx(0.5 * 300 * 2 * 3),
        "pushing": pytest.approx(300 * 3 / 2),
    }


def test_who_samples_with_divided_weights_gathers_them_once() -> None:
    with_engines, without = of(Layout(trainers=2, engines=1)).moved, of(Layout(trainers=2)).moved
    assert without["gathering"] - with_engines["gathering"] == pytest.approx(0.5 * 300)
    assert without["pushing"] == 0


def test_what_moves_where_all_have_all_weights() -> None:
    """A ring sends every gradient twice, at every update."""
    moved = of(Layout(trainers=4, sharded=False)).moved
    assert moved == {"gathering": 0, "reducing": pytest.approx(2 * 3 / 4 * 2 * 300), "pushing": 0}


@pytest.mark.parametrize("sharded", [True, False])
def test_one_process_is_sent_nothing(sharded: bool) -> None:
    assert not any(of(Layout(trainers=1, sharded=sharded)).moved.values())


def test_the_slower_line_counts_as_soon_as_there_are_two_machines() -> None:
    near, far = of(Layout(trainers=2, engines=2)), of(Layout(trainers=2, engines=3))
    assert near.seconds["moving"] == pytest.approx(sum(near.moved.values()) / 50)
    assert far.seconds["moving"] == pytest.approx(sum(far.moved.values()) / 5)


def test_memory_of_one_of_three() -> None:
    """Its third of what is divided; with engines the moments of sampling are elsewhere."""
    found = of(Layout(trainers=3, engines=1, sharded=False))
    assert (found.moment, sum(found.memory.values())) == ("learning", 2200)
    assert of(Layout(trainers=3, sharded=False)).moment == "sampling"


@given(st.floats(0.01, 1e6), st.floats(0.01, 1e6), st.integers(2, 512))
def test_the_shares_are_the_best(sampling: float, training: float, cards: int) -> None:
    """No other division of the cards takes less time, neither in turns nor side by side."""
    found = replace(of(Layout(trainers=1)), sampling=sampling, training=training)
    turns, ahead = found.shares()

    def in_turns(share: float) -> float:
        return sampling / share + training / (1 - share)

    def at_once(share: float) -> float:
        return max(sampling / share, training / (1 - share))

    for other in (number / cards for number in range(1, cards)):
        assert in_turns(turns) <= in_turns(other) * (1 + 1e-9)
        assert at_once(ahead) <= at_once(other) * (1 + 1e-9)


@pytest.fixture
def reinforced(files: dict[str, str], tmp_path: Path) -> tuple[Any, Workload]:
    tree = {
        "model": files["model"],
        "prompts": {"path": files["prompts"]},
        "rewards": [{"length": 3.0}],
        "sampling": {"max_new_tokens": 8, "num_slots": 3},
        "prompts_per_step": 4,
        "responses_per_prompt": 2,
        "epochs": 3,
        "minibatches": 2,
        "steps": 2,
        "frozen_layers": 1,
        "microbatch_tokens": 64,
        "precision": "fp32",
    }
    told = tell(reinforce.train, parse_recipe(ReinforceRecipe, tree), tmp_path / "run")
    return told.recipe, told.work


def test_a_real_recipe(reinforced: tuple[Any, Workload]) -> None:
    """Four layers of width 64, the lowest of them frozen, and a head of 3,000 x 64 that is tied to the embeddings."""
    recipe, work = reinforced
    step = step_of(recipe, work)
    layer = 64 * 64 * 2 + 2 * 64 * 32 + 3 * 64 * 176 + 2 * 64
    head = 3000 * 64
    assert step.drawing is not None
    assert (step.drawing.responses, step.drawing.slots, step.drawing.tokens) == (8, 3, 8)
    assert step.drawing.numbers == 4 * layer + head
    assert step.drawing.place == 2 * 4 * 2 * 16 * 4
    rows = step.drawing.prompts + 8 * 8
    learner = step.passes[0]
    assert (learner.rows, learner.times, step.updates) == (rows / 2, 6, 6)
    assert learner.weights == 4 * (4 * layer + head + 64 + 8)  # 8 frequencies of rotation
    assert learner.learned == 4 * (3 * layer + 64)
    assert step.learning == 3 * rows * 2 * ((4 * layer + head) + (3 * layer + head) + 3 * layer)


def test_what_is_computed_again_is_another_pass(reinforced: tuple[Any, Workload]) -> None:
    recipe, work = reinforced
    once, again = (step_of(recipe.model_copy(update={"recompute_activations": each}), work) for each in (False, True))
    assert once.drawing is not None
    rows = once.drawing.prompts + 8 * 8
    assert again.learning - once.learning == 3 * rows * 2 * once.drawing.numbers


def test_what_is_lent(reinforced: tuple[Any, Workload]) -> None:
    """While learning two layers and the root's weights; while sampling all; and no copies to multiply with."""
    recipe, work = reinforced
    layer, root = 4 * (64 * 64 * 2 + 2 * 64 * 32 + 3 * 64 * 176 + 2 * 64), 4 * (3000 * 64 + 64)
    step, layout = step_of(recipe, work), Layout(trainers=2, engines=1)
    found = plan(work, step, layout, CARDS["h100"])
    assert found.memory["lent"] == root + 2 * layer
    assert any("packed copies" in moment.parts for moment in work.moments())
    assert "packed copies" not in found.memory
    sampling = next(each for each in replace(work, processes=2).moments() if each.name == "sampling")
    assert sampling.parts["lent"] == footprint.weights([work.nets[0].model])


def test_more_trainers_hold_and_compute_less(reinforced: tuple[Any, Workload]) -> None:
    recipe, work = reinforced
    step = step_of(recipe, work)
    one, two = (plan(work, step, Layout(trainers=n), CARDS["h100"]) for n in (1, 2))
    assert two.seconds["learning"] == pytest.approx(one.seconds["learning"] / 2)
    assert two.memory["weights"] == one.memory["weights"] // 2
    assert "lent" not in one.memory


def test_what_is_said(reinforced: tuple[Any, Workload]) -> None:
    recipe, work = reinforced
    card = replace(CARDS["h100"], memory=1000.0)
    said = describe(plan(work, step_of(recipe, work), Layout(trainers=2, engines=1), card), card)
    assert said[0] == "computed, not measured: 2 trainers, 1 engines of 1"
    assert said[1].endswith("IT DOES NOT FIT")
    assert said[-1].startswith("of 3 cards ")


def test_a_stage_without_sampling(files: dict[str, str], tmp_path: Path) -> None:
    tree = {"model": files["model"], "data": {"path": files["demonstrations"]}, "microbatch_tokens": 64}
    told = tell(sft, parse_recipe(SFTRecipe, tree), tmp_path / "run")
    found = plan(told.work, step_of(told.recipe, told.work), Layout(trainers=2), CARDS["a100"])
    assert found.seconds["sampling"] == 0
    assert not any("should sample" in line for line in describe(found, CARDS["a100"]))


def test_the_command(files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every option of it reaches the plan, and nothing is left behind."""
    file = tmp_path / "sft.toml"
    file.write_text(f'model = "{files["model"]}"\ndata.path = "{files["demonstrations"]}"\n')

    def told(*options: str, trainers: int = 3, shard: str = "weights") -> str:
        settings = [f"cluster.trainers={trainers}", f"cluster.shard={shard}"]
        assert cli.main(["cluster", str(file), "--plan", *options, "--set", *settings]) == 0
        return capsys.readouterr().out

    cards = next(each for each in cli.build_parsers()["cluster"]._actions if each.dest == "card")
    assert list(cards.choices or ()) == sorted(CARDS)
    plain = told()
    assert plain.startswith("computed, not measured: 3 trainers, no engines: they sample\n")
    assert "of 80.0 GB, it fits" in plain
    assert "of 24.0 GB, it fits" in told("--card", "rtx4090")
    assert "3 trainers, 2 engines of 4\n" in told("--engines", "2", "--tensor-parallel", "4")
    assert "gathering" in plain
    assert "gathering" not in told(shard="none")
    assert sorted(tmp_path.iterdir()) == [file]


def test_a_plan_reads_engines_as_the_launcher_does(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An `[engine]` without addresses, for those that `cluster.engines`, or `--engines`, will start."""
    file = tmp_path / "reinforce.toml"
    recipe = (
        f'model = "{files["model"]}"\nprompts.path = "{files["prompts"]}"\nsteps = 2\nrewards = [{{ length = 3.0 }}]\n'
    )
    file.write_text(recipe + "engine.max_ratio = 3.0\n")

    def told(*words: str) -> tuple[int, str]:
        status = cli.main(["cluster", str(file), "--plan", *words])
        said = capsys.readouterr()
        return status, (said.out or said.err).splitlines()[0]

    assert told("--set", "cluster.engines=2") == (0, "computed, not measured: 1 trainers, 2 engines of 1")
    assert told("--engines", "1") == (0, "computed, not measured: 1 trainers, 1 engines of 1")
    alone = told("--engines", "0", "--set", "cluster.engines=2")
    assert alone == (0, "computed, not measured: 1 trainers, no engines: they sample")
    nobody = f"palate: {file}: 'engine': max_ratio is of vLLM servers: set kind = \"vllm\", or leave it out"
    assert told() == (2, nobody)
    servers = 'engine.servers=["http://a:1"]'
    assert told("--engines", "2", "--set", servers, "engine.kind=vllm")[0] == 0
    assert "leave one of them out" in told("--set", servers, "engine.kind=vllm", "cluster.engines=2")[1]


@pytest.mark.parametrize(
    "options", [["--engines", "2"], ["--plan", "--engines", "-1"], ["--plan", "--tensor-parallel", "0"]]
)
def test_engines_that_mean_nothing(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sft.toml").write_text('model = "tiny"\ndata.path = "d.jsonl"\n')
    with pytest.raises(SystemExit) as ended:
        cli.main(["cluster", str(tmp_path / "sft.toml"), *options])
    assert ended.value.code == 2
    assert "go with --plan" in capsys.readouterr().err
