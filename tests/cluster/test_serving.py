"""Engines of `palate cluster` without Ray and vLLM: what is started in which order, who knows the token, who ends."""

from __future__ import annotations

import http.server
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from tests.cluster.scripted import ScriptedMachines

from palate import cli
from palate.cluster import cluster_commands, keeper, places, restarting
from palate.cluster.places import Machine, Needs, Place
from palate.cluster.serving import VARIABLE, engine_settings
from palate.errors import PeerError, RunError
from palate.recipe import Cluster, ReinforceRecipe, parse_recipe, read_tree
from palate.run import leash
from palate.run.directory import Run

KILLED, DONE, STOPPED, PEER, MISTAKE, LOST = -signal.SIGKILL, 0, 130, 3, 2, None
BOTH_DONE = [[(0, DONE), (1, DONE)]]
TREE = {"model": "tiny", "prompts": {"path": "p.jsonl"}, "rewards": [{"length": 3.0}]}


def run(machines: ScriptedMachines, **more: Any) -> int:
    section = Cluster(trainers=2, engines=2)
    return restarting.run(machines, ["-m", "palate"], section, say=print, engine=["-m", "palate", "engine"], **more)


def test_engines_come_before_trainers_and_end_after_them(tmp_path: Path) -> None:
    """Started once, also when the trainers are started again; what was on its way to them is gone."""
    weights = tmp_path / "weights"
    weights.mkdir()
    machines = ScriptedMachines([[(1, KILLED), (0, PEER)]], PeerError("a machine is gone"), BOTH_DONE, engines_late=3)
    assert run(machines, weights=weights) == 0
    assert machines.events == [
        *("engines", "trainers", "trainers end"),
        *("trainers", "trainers", "trainers end", "engines end"),
    ]
    assert machines.needs == Needs(trainers=2, engines=2)
    assert not weights.exists()


def test_what_trainers_are_told_of_their_engines(tmp_path: Path) -> None:
    """By --set, which the recipe understands; every attempt the same."""
    machines = ScriptedMachines([[(1, KILLED), (0, PEER)]], BOTH_DONE)
    assert run(machines, weights=tmp_path / "weights") == 0
    path = tmp_path / "reinforce.toml"
    path.write_text(tomli_w.dumps(TREE))
    for _, command in machines.commands:
        *start, told = command[: command.index("--set")], command[command.index("--set") + 1 :]
        assert start == [["-m", "palate"]]
        engine = parse_recipe(ReinforceRecipe, read_tree(path, told)).engine
        assert (engine.kind, engine.key_variable) == ("vllm", "PALATE_ENGINE_KEY")
        assert [*engine.servers] == machines.served.addresses  # type: ignore[union-attr]
        assert engine.weights == str(tmp_path / "weights")
    assert not any("weights" in word for word in engine_settings(["http://a:1"], None))


def test_the_token_is_in_environments_and_on_no_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everybody on a machine can read command lines. A new one for every run, whatever was set before."""
    monkeypatch.setenv(VARIABLE, "of-somebody-else-1")
    tokens = set()
    for _ in range(2):
        machines = ScriptedMachines([[(1, KILLED), (0, PEER)]], BOTH_DONE)
        run(machines)
        [token] = {told[VARIABLE] for told in machines.told}
        assert len(machines.told) == 3
        assert len(token) >= 32
        place = Place(machine="a", address="b", gpus=("3",))
        found = places.engine_environment(place, Needs(trainers=1, engines=1, cpus=5), machines.told[0])
        assert found[VARIABLE] == token
        assert (found["OMP_NUM_THREADS"], found["CUDA_VISIBLE_DEVICES"]) == ("5", "3")
        assert "RANK" not in found
        assert not any(token in word for _, command in machines.commands for word in command)
        assert not any(token in word for word in machines.engine_command)
        captured = capsys.readouterr()
        assert token not in captured.out + captured.err
        tokens.add(token)
    assert len(tokens) == 2
    assert "of-somebody-else-1" not in tokens


@pytest.mark.parametrize(
    ("script", "end"),
    [
        (BOTH_DONE, 0),
        ([[(0, MISTAKE), (1, PEER)]], MISTAKE),
        ([[(0, STOPPED), (1, STOPPED)]], STOPPED),
        ([[(0, KILLED), (1, PEER)]], PeerError),
        (RunError("no place"), RunError),
        (KeyboardInterrupt("stopped before it was placed"), KeyboardInterrupt),
    ],
)
def test_engines_end_however_the_run_ends(script: Any, end: Any) -> None:
    machines = ScriptedMachines(*[script] * 9)
    if isinstance(end, int):
        assert run(machines) == end
    else:
        with pytest.raises(end):
            run(machines)
    assert machines.events.count("engines") == 1
    assert machines.events[-1] == "engines end"


def test_a_second_stop_ends_engines_too() -> None:
    machines = ScriptedMachines([[]] * 9, on_look=lambda number: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match="stopped at once"):
        run(machines)
    assert machines.events[-2:] == ["trainers end", "engines end"]


def test_a_stop_while_engines_start() -> None:
    """It takes minutes on some machines, and nothing is lost yet."""
    machines = ScriptedMachines(engines_late=9, on_engines=lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match="stopped before the engines could be asked"):
        run(machines)
    assert machines.events == ["engines", "engines end"]


@pytest.mark.parametrize(
    ("status", "kind", "line"),
    [
        (MISTAKE, RunError, "engine 1 on 10.0.0.9 ended with status 2 before it could be asked"),
        (KILLED, PeerError, "engine 1 on 10.0.0.9 was ended by SIGKILL before it could be asked"),
    ],
)
def test_an_engine_that_does_not_start(status: int, kind: type[RunError], line: str) -> None:
    machines = ScriptedMachines(engines_late=9, engines_end=[[], [(1, status)]])
    with pytest.raises(RunError) as error:
        run(machines)
    assert (type(error.value), str(error.value)) == (kind, line)
    assert machines.events == ["engines", "engines end"]


def test_an_engine_that_is_gone_ends_the_run_in_a_line() -> None:
    """Its machine, perhaps: vLLM alone is started again where it was."""
    machines = ScriptedMachines([[]] * 9, engines_end=[[], [(0, LOST)]])
    with pytest.raises(PeerError) as error:
        run(machines)
    assert str(error.value) == (
        "engine 0 on 10.0.0.9 is lost: its machine is gone, or what looked after it there, "
        "and the trainers cannot sample without it: go on with --resume"
    )
    assert machines.events == ["engines", "trainers", "trainers end", "engines end"]


def test_without_engines_nothing_is_told() -> None:
    machines = ScriptedMachines(BOTH_DONE)
    assert restarting.run(machines, ["-m", "palate"], Cluster(trainers=2), say=print) == 0
    assert machines.commands == [(0, ["-m", "palate"])]
    assert machines.told == [{}]
    assert machines.served is None


def command(tmp_path: Path, tree: dict[str, Any], *more: str, stage: str = "reinforce") -> tuple[int, ScriptedMachines]:
    machines = ScriptedMachines(BOTH_DONE)
    path = tmp_path / f"{stage}.toml"
    path.write_text(tomli_w.dumps(tree))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster_commands, "imported_extra", lambda *_, **__: lambda *given: machines)
        return cli.main(["cluster", str(path), "--out", str(tmp_path / "run"), *more]), machines


def test_the_command_of_an_engine(tmp_path: Path) -> None:
    """The recipe's model, precision and slots; what else `[engine]` says is the trainers'."""
    tree = TREE | {"precision": "fp32", "sampling": {"num_slots": 7}, "engine": {"max_ratio": 3.0}}
    status, machines = command(
        tmp_path, tree | {"cluster": {"trainers": 2, "engines": 1}}, "--engine-python", "/opt/vllm/bin/python"
    )
    assert status == 0
    assert [*machines.engine_command] == (
        ["-m", "palate", "engine", "tiny", "--dtype", "float32", "--slots", "7", "--python", "/opt/vllm/bin/python"]
    )
    [(_, trainers)] = machines.commands
    assert f'engine.weights="{tmp_path / "run" / "weights"}"' in trainers
    named = tree | {"cluster": {"trainers": 2, "engines": 1}, "engine": {"weights": str(tmp_path / "shared")}}
    _, machines = command(tmp_path, named)
    assert not any("engine.weights" in word for word in machines.commands[0][1])


@pytest.mark.parametrize(
    ("stage", "tree", "line"),
    [
        ("sft", {"data": {"path": "d.jsonl"}}, "cluster.engines = 1: this stage samples nothing; leave it out"),
        (
            "reinforce",
            TREE | {"engine": {"kind": "vllm", "servers": ["http://a:1"]}},
            "cluster.engines starts engines, and engine.servers names others: leave one of them out",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_placed(
    stage: str, tree: dict[str, Any], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, machines = command(tmp_path, tree | {"cluster": {"engines": 1}}, stage=stage)
    assert status == 2
    [told] = capsys.readouterr().err.splitlines()
    assert told.endswith(line)
    assert machines.needs is None


def test_a_run_without_the_launcher_says_that_engines_are_not_there() -> None:
    said: list[str] = []
    cli._say_how_many(parse_recipe(ReinforceRecipe, TREE | {"cluster": {"engines": 2}}), said.append)
    assert said == ["cluster.engines = 2, and this run samples by itself: `palate cluster` is what starts them"]
    asked = {"engine": {"kind": "vllm", "servers": ["http://a:1"]}, "cluster": {"engines": 1}}
    cli._say_how_many(parse_recipe(ReinforceRecipe, TREE | asked), said.append)
    assert len(said) == 1


def test_a_run_goes_on_with_engines_elsewhere(tmp_path: Path) -> None:
    """Ports are chosen anew for every run of the command; how it samples is another matter."""

    def recipe(*servers: str, **section: Any) -> ReinforceRecipe:
        return parse_recipe(ReinforceRecipe, TREE | {"engine": {"kind": "vllm", "servers": servers, **section}})

    Run.open(tmp_path / "run", recipe("http://a:1", weights="/there"))
    assert Run.open(tmp_path / "run", recipe("http://a:2", "http://b:1", key_variable="A"), resume=True).resumed
    with pytest.raises(RunError, match=r"engine.max_ratio: 2.0 is now 3.0"):
        Run.open(tmp_path / "run", recipe("http://a:1", max_ratio=3.0), resume=True)
    with pytest.raises(RunError, match=r"engine.kind"):
        Run.open(tmp_path / "run", parse_recipe(ReinforceRecipe, TREE), resume=True)


def test_places_of_engines_count_where_some_are_missing() -> None:
    needs = Needs(trainers=2, engines=1)
    whole = [Machine(address="10.0.0.1", cpus=2, gpus=0)]
    assert places.what_is_missing(needs, whole, whole).startswith(
        "no place for 1 of 2 trainers and 1 engine of 1 core each: the cluster has "
    )
    enough = [Machine(address="10.0.0.1", cpus=4, gpus=0)]
    left = [Machine(address="10.0.0.1", cpus=1, gpus=0)]
    assert places.missing(needs, enough) == 0
    assert places.missing(needs, left, placed=1) == 1
    assert places.what_is_missing(needs, enough, left, placed=1).startswith("no place for 1 of 2 trainers and 1 engine")


@pytest.mark.parametrize("status", [200, 503])
def test_a_keeper_knows_whether_its_engine_answers(status: int) -> None:
    """vLLM listens before it can be asked."""

    class Engine(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    kept = keeper.Keeper()
    with http.server.HTTPServer(("127.0.0.1", 0), Engine) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert kept.answers(address) == (status == 200)
        thread.join()
    assert not kept.answers(address)


def test_a_port_is_held_until_the_engine_takes_it() -> None:
    first, second = keeper.Keeper(), keeper.Keeper()
    ports = [each.listen("127.0.0.1") for each in (first, second)]
    assert len({*ports}) == 2
    first.let_go()
    with http.server.HTTPServer(("127.0.0.1", ports[0]), http.server.BaseHTTPRequestHandler):
        pass
    second.let_go()


STAND_IN = """\
import signal
out = open({said!r}, "w")
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTERM}})
print("ready", file=out, flush=True)
signal.sigwait({{signal.SIGTERM}})
print("told", file=out, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a parent's death goes unnoticed")
@pytest.mark.parametrize("by_its_keeper", [True, False])
def test_an_engine_is_told_of_the_end_and_can_end_vllm(by_its_keeper: bool, tmp_path: Path) -> None:
    """By the end of the run, or of its keeper, which is killed: SIGTERM, where SIGKILL would leave vLLM alone."""
    said, engine = tmp_path / "said", tmp_path / "engine.py"
    os.mkfifo(said)
    engine.write_text(STAND_IN.format(said=str(said)))
    kept = keeper.Keeper()
    source = Path(leash.__file__).read_text()

    def start() -> None:
        assert not kept.start(source, [str(engine)], str(tmp_path), {}, terminal=False, left_by=signal.SIGTERM)

    child = 0
    if by_its_keeper:
        start()
    elif not (child := os.fork()):
        try:
            start()
            signal.pause()
        finally:
            os._exit(1)
    with said.open() as file:
        assert file.readline() == "ready\n"
        if by_its_keeper:
            kept.end(60)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert file.read() == "told\n"
