"""`palate cluster` without Ray: places, environments, what is missing, and when a gang is started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import types
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from tests.cluster.scripted import ScriptedMachines

from palate import cli
from palate.cluster import cluster_commands, keeper, places, restarting
from palate.cluster.places import Machine, Needs, Place
from palate.commands import STAGES, stage_of
from palate.errors import PeerError, RecipeError, RunError
from palate.recipe import Cluster, Data, SFTRecipe, read_tree
from palate.run import leash
from palate.run.directory import Run

KILLED, DONE, PEER, MISTAKE, LOST = -signal.SIGKILL, 0, 3, 2, None


def run(machines: ScriptedMachines, **section: Any) -> tuple[int, list[str]]:
    said: list[str] = []
    status = restarting.run(machines, ["-m", "palate"], Cluster(**({"trainers": 2} | section)), say=said.append)
    return status, said


def test_a_gang_that_comes_to_its_end_is_started_once() -> None:
    machines = ScriptedMachines([[], [(1, DONE)], [(0, DONE)]])
    assert run(machines, trainers=2, cpus=3, gpus=1) == (0, [])
    assert machines.needs == Needs(trainers=2, cpus=3, gpus=1)
    assert machines.commands == [(0, ["-m", "palate"])]
    assert machines.gangs[0].was_ended


@pytest.mark.parametrize("lost", [KILLED, LOST, 1])
def test_one_that_is_lost_has_all_started_again(lost: int | None) -> None:
    """Whoever is lost is named, and not those that ended because of it."""
    machines = ScriptedMachines([[(0, PEER)], [(1, lost)]], [[(0, DONE), (1, DONE)]])
    status, said = run(machines)
    assert status == 0
    assert [attempt for attempt, _ in machines.commands] == [0, 1]
    assert all(gang.was_ended for gang in machines.gangs)
    [line] = said
    if lost != 1:
        assert line.startswith("trainer 1 on 10.0.0.1 ")
    assert line.endswith("all are started again, from the newest checkpoint; restart 1 of 3")


def test_what_is_gone_while_it_is_started_counts_too() -> None:
    machines = ScriptedMachines(PeerError("a machine is gone"), [[(0, DONE), (1, DONE)]])
    status, said = run(machines, restarts=1)
    assert status == 0
    assert said == ["a machine is gone: all are started again, from the newest checkpoint; restart 1 of 1"]


@pytest.mark.parametrize("restarts", [0, 1, 3])
def test_it_is_given_up_after_so_many_restarts(restarts: int) -> None:
    machines = ScriptedMachines(*[[[(0, KILLED), (1, PEER)]]] * 9)
    with pytest.raises(PeerError, match=r"trainer 0 on 10.0.0.1 was ended by SIGKILL.*; go on with --resume") as error:
        run(machines, restarts=restarts)
    assert error.value.status == 3
    assert len(machines.commands) == restarts + 1


@pytest.mark.parametrize(
    "ends", [[(0, MISTAKE), (1, MISTAKE)], [(1, MISTAKE), (0, MISTAKE)], [(0, MISTAKE), (1, PEER)]]
)
def test_a_mistake_is_not_made_again(ends: list[tuple[int, int | None]]) -> None:
    machines = ScriptedMachines([[end] for end in ends])
    assert run(machines) == (2, [])
    assert len(machines.commands) == 1


def test_a_stop_is_passed_on_once_and_waited_for() -> None:
    """The trainers finish their step and write a checkpoint; nothing is started again."""
    asked = [lambda number: os.kill(os.getpid(), signal.SIGINT) if number == 1 else None]
    machines = ScriptedMachines([[], [], [], [], [(0, 130)], [(1, 130)]], on_look=asked[0])
    assert run(machines) == (130, [])
    assert machines.gangs[0].signals == [signal.SIGINT]
    assert machines.gangs[0].was_ended


def test_a_second_stop_is_at_once() -> None:
    machines = ScriptedMachines([[]] * 9, on_look=lambda number: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match="stopped at once"):
        run(machines)
    assert machines.gangs[0].was_ended


def test_those_that_do_not_notice_are_ended_after_a_while() -> None:
    """A machine whose cable is cut says nothing, and neither do those that wait for it."""
    seconds = iter(range(0, 1000, 10))
    machines = ScriptedMachines([[], [(1, LOST)], *[[]] * 99], [[(0, DONE), (1, DONE)]])

    class Unasked:
        asked = False

    with machines.joined(Needs(trainers=2), print) as place:
        status = restarting.keep_going(
            lambda attempt: place.trainers([], attempt, Unasked(), {}),
            restarts=1,
            stop=Unasked(),
            say=lambda line: None,
            clock=lambda: float(next(seconds)),
        )
    assert status == 0
    assert next(seconds) == 50, "more than thirty seconds after it, and no sooner"


PLACES = st.lists(st.integers(0, 3), min_size=1, max_size=9)


@given(PLACES)
def test_every_rank_has_one_place_and_machines_stay_together(machines: list[int]) -> None:
    found = [Place(machine=str(each), address=f"10.0.0.{each}", gpus=(str(n),)) for n, each in enumerate(machines)]
    order = places.ranks(found)
    assert sorted(order) == list(range(len(machines)))
    assert order[0] == 0, "the first is where the others meet"
    told = places.environments([found[n] for n in order], Needs(trainers=len(found)), port=7, attempt=2, given={})
    names = [found[n].machine for n in order]
    assert sum(a != b for a, b in pairwise(names)) == len(set(names)) - 1
    for rank, each in enumerate(told):
        here = [n for n, name in enumerate(names) if name == names[rank]]
        assert each["RANK"] == str(rank)
        assert each["LOCAL_RANK"] == str(here.index(rank))
        assert each["LOCAL_WORLD_SIZE"] == str(len(here))
        assert each["WORLD_SIZE"] == str(len(machines))
        assert each["MASTER_ADDR"] == found[0].address
        assert each["TORCHELASTIC_RESTART_COUNT"] == "2"
        # SCALE's trap: what Ray hides, and what LOCAL_RANK counts, have to be one numbering
        visible = each["CUDA_VISIBLE_DEVICES"].split(",")
        assert visible[int(each["LOCAL_RANK"])] == found[order[rank]].gpus[0]
        assert len(set(visible)) == int(each["LOCAL_WORLD_SIZE"])


def test_nothing_looks_for_gpus_before_a_trainer_is_started() -> None:
    """A process that has asked torch once never learns which of them are its own: only trainers import it."""
    code = "import sys, palate.cli, palate.cluster.restarting, palate.cluster.keeper; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    kept = (Path(keeper.__file__).parent / "on_ray.py").read_text()
    assert not [line for line in kept.splitlines() if "import" in line and "torch" in line]


def test_without_gpus_none_is_seen() -> None:
    [found] = places.environments([Place(machine="a", address="b")], Needs(trainers=1, cpus=4), port=1, attempt=0)
    assert found["CUDA_VISIBLE_DEVICES"] == ""
    assert found["OMP_NUM_THREADS"] == "4"


def test_what_a_trainer_is_told_of_the_command_s_environment() -> None:
    """And never of a torchrun or a Ray that the command itself runs under."""
    given = {"PALATE_PEER_TIMEOUT": "9", "PYTHONPATH": "src", "NCCL_DEBUG": "INFO", "RAY_JOB_ID": "1", "RANK": "7"}
    kept = {"PALATE_PEER_TIMEOUT": "9", "PYTHONPATH": "src", "NCCL_DEBUG": "INFO"}
    assert places.forwarded(given | {"TORCHELASTIC_RUN_ID": "none", "AWS_SECRET": "x"}) == kept


@pytest.mark.parametrize(
    ("needs", "machines", "count"),
    [
        (Needs(trainers=4), [(2, 0), (2, 0)], 0),
        (Needs(trainers=4), [(2, 0), (1.5, 0)], 1),
        (Needs(trainers=2, cpus=3), [(4, 0), (2, 0)], 1),
        (Needs(trainers=2, gpus=1), [(8, 1), (8, 0)], 1),
        (Needs(trainers=1), [], 1),
    ],
)
def test_what_has_no_place(needs: Needs, machines: list[tuple[float, float]], count: int) -> None:
    there = [Machine(address="10.0.0.1", cpus=cpus, gpus=gpus) for cpus, gpus in machines]
    assert places.missing(needs, there) == count


def test_what_is_missing_is_said_in_a_line() -> None:
    """Nothing waits without a word (verl 7180)."""
    whole = [Machine(address="10.0.0.1", cpus=4, gpus=1), Machine(address="10.0.0.2", cpus=4, gpus=0)]
    busy = [Machine(address="10.0.0.1", cpus=1, gpus=0), Machine(address="10.0.0.2", cpus=4, gpus=0)]
    assert places.what_is_missing(Needs(trainers=2, cpus=2, gpus=1), whole, whole) == (
        "no place for 1 of 2 trainers of 2 cores and 1 GPU each: the cluster has 10.0.0.1 with 4 cores and 1 GPUs, "
        "10.0.0.2 with 4 cores and 0 GPUs"
    )
    assert places.what_is_missing(Needs(trainers=6), whole, busy) == (
        "no place for 1 of 6 trainers of 1 core each: others use the cluster, and cores and GPUs left are "
        "1 and 0 at 10.0.0.1, 4 and 0 at 10.0.0.2"
    )


@pytest.mark.parametrize("terminal", [False, True])
def test_a_keeper_passes_on_what_its_trainer_says_and_how_it_ends(terminal: bool, tmp_path: Path) -> None:
    """Where somebody looks at a terminal, the trainer has one: its line of progress moves."""
    kept = keeper.Keeper()
    said_to_be = "print('a terminal' if sys.stderr.isatty() else 'a pipe', file=sys.stderr)"
    code = f"import os, sys; print(os.getcwd(), os.environ['RANK']); {said_to_be}; sys.exit(5)"
    assert (
        kept.start(Path(leash.__file__).read_text(), ["-c", code], str(tmp_path), {"RANK": "3"}, terminal=terminal)
        == ""
    )
    said: dict[int, bytes] = {1: b"", 2: b""}
    status = None
    while status is None:
        texts, status = kept.look(60)
        for stream, text in texts:
            said[stream] += text
    assert said == {1: f"{tmp_path} 3\n".encode(), 2: b"a terminal\r\n" if terminal else b"a pipe\n"}
    assert status == 5
    kept.end()


def test_a_keeper_says_that_a_directory_is_not_there(tmp_path: Path) -> None:
    assert "all machines must see the same disk" in keeper.Keeper().start(
        "", [], str(tmp_path / "no"), {}, terminal=False
    )


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a parent's death goes unnoticed")
def test_a_trainer_ends_with_its_keeper_and_hears_an_interrupt(tmp_path: Path) -> None:
    """The keeper is killed, as when its machine's Ray ends; Ray blocks SIGINT in all that it starts."""
    said, trainer = tmp_path / "said", tmp_path / "trainer.py"
    os.mkfifo(said)
    trainer.write_text(
        "import os, signal, sys, time\n"
        f"out = open({str(said)!r}, 'w')\n"  # stays open as long as the trainer lives
        "print(os.getpid(), signal.pthread_sigmask(signal.SIG_BLOCK, []), file=out, flush=True)\n"
        "time.sleep(20)\n"
        "print('still here', file=out)\n"
    )
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from palate.cluster import keeper\nfrom palate.run import leash\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})\n"
        "kept = keeper.Keeper()\n"
        f"kept.start(Path(leash.__file__).read_text(), [{str(trainer)!r}], {str(tmp_path)!r}, {{}}, terminal=False)\n"
        "signal.pause()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    with said.open() as file:
        assert file.readline().split(maxsplit=1)[1] == "set()\n"
        process.kill()
        process.wait()
        assert file.read() == "", "the end of the file is the end of the trainer"


def test_the_stage_is_what_the_recipe_says_or_its_name() -> None:
    """Every recipe that we ship finds its own."""
    names = {each.name for each in STAGES}
    assert stage_of({"stage": "dpo"}, Path("ppo.toml")).name == "dpo"
    assert stage_of({"stage": "dpo"}, Path("ppo.toml"), "online-dpo").name == "online-dpo"
    for path in sorted((Path(__file__).parents[2] / "recipes").glob("*.toml")):
        if path.stem in names:
            assert stage_of(read_tree(path), path).name == path.stem
    for tree, stage in (({"stage": "nonsense"}, None), ({}, None), ({}, "nonsense")):
        with pytest.raises(RecipeError, match=r'write stage = "..." into it'):
            stage_of(tree, Path("mine.toml"), stage)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake is told once, before anything is placed; otherwise every trainer gets the stage's own command."""
    asked: list[Any] = []
    scripted = ScriptedMachines([[(0, DONE), (1, DONE)]])
    monkeypatch.setattr(
        cluster_commands, "imported_extra", lambda *_, **__: lambda *given: asked.append(given) or scripted
    )
    path = tmp_path / "reinforce.toml"
    tree = {"model": "tiny", "prompts": {"path": "p.jsonl"}, "rewards": [{"length": 3.0}], "cluster": {"trainers": 2}}
    path.write_text(tomli_w.dumps(tree | {"stpes": 3}))
    assert cli.main(["cluster", str(path)]) == 2
    assert capsys.readouterr().err.count("steps") == 1
    assert not asked
    path.write_text(tomli_w.dumps(tree))
    out = str(tmp_path / "run")
    assert cli.main(["cluster", str(path), "--set", "seed=4", "--out", out, "--resume", "--address", "local"]) == 0
    assert asked == [("local", Path.cwd())]
    assert scripted.commands == [
        (0, ["-m", "palate", "reinforce", str(path), "--out", out, "--set", "seed=4", "--resume"])
    ]
    assert cli.main(["cluster", str(path), "--stage", "eval"]) == 2
    assert capsys.readouterr().err == f"palate: {path}: of eval, which does not train: run it with palate eval\n"


def small(**section: Any) -> SFTRecipe:
    return SFTRecipe(data=Data(path="x.jsonl"), cluster=Cluster(**section))


def test_a_run_goes_on_with_another_number_of_trainers(tmp_path: Path) -> None:
    """It is the same run elsewhere; what it learns from is another matter."""
    Run.open(tmp_path / "run", small(trainers=2))
    assert Run.open(tmp_path / "run", small(trainers=4, cpus=2, gpus=1, restarts=0), resume=True).resumed
    with pytest.raises(RunError, match=r"a resume with a changed recipe \(seed: 0 is now 1\)"):
        Run.open(tmp_path / "run", small(trainers=2).model_copy(update={"seed": 1}), resume=True)


@pytest.mark.parametrize(
    ("trainers", "world", "says"), [(1, 1, False), (1, 2, False), (3, 3, False), (3, 1, True), (3, 2, True)]
)
def test_a_recipe_that_asks_for_trainers_which_are_not_there_is_told(
    trainers: int, world: int, says: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": str(world), "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    said: list[str] = []
    cli._say_how_many(small(trainers=trainers), said.append)
    told = [f"cluster.trainers = {trainers}, and this run has {world}: `palate cluster` is what starts so many"]
    assert said == (told if says else [])


def test_one_trainer_goes_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started again by whoever started it first, without --resume."""
    opened: list[bool] = []

    def train(recipe: object, run: Run) -> None:
        opened.append(run.resumed)
        run.append("metrics.jsonl", '{"step": 0}\n')

    monkeypatch.setitem(sys.modules, "palate.stages.sft", types.SimpleNamespace(train=train))
    path, out = tmp_path / "sft.toml", str(tmp_path / "run")
    path.write_text(tomli_w.dumps({"data": {"path": "x.jsonl"}}))
    assert cli.main(["sft", str(path), "--out", out]) == 0
    assert cli.main(["sft", str(path), "--out", out]) == 2
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert cli.main(["sft", str(path), "--out", out]) == 0
    assert opened == [False, True]
