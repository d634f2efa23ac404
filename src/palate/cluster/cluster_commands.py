"""`palate cluster` and `palate engine`: arguments -> one call, as in `cli.py`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from palate.arguments import Group, imported, imported_extra
from palate.commands import CLUSTER, ENGINE, Stage, stage_of
from palate.errors import RecipeError


def add_cluster(commands: Group) -> None:
    """Both of them, in the order in which help lists them."""
    _engine(commands)
    _cluster(commands)


def _engine(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        cache = imported("palate.lm.sources.whereabouts", "cache_directory")()
        located = imported("palate.lm.sources.whereabouts", "locate")(args.model)
        imported("palate.rollout.servers.vllm_command", "run_engine")(
            located,
            port=args.port,
            host=args.host,
            dtype=args.dtype,
            max_length=args.max_length,
            num_slots=args.slots,
            environment=(args.environment or cache / "vllm").absolute(),
            python=args.python and args.python.absolute(),
            more=args.vllm,
        )

    parser = commands.add(
        "engine", call, "run a vLLM server that samples for runs", ENGINE, "palate engine runs/sft/model"
    )
    parser.add_argument("model", metavar="MODEL", help="what a recipe would name; runs give it their weights")
    parser.add_argument("--port", type=int, default=8300, metavar="N", help="default: %(default)s")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: %(default)s")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="the precision of the runs; auto: bfloat16 on a GPU, else float32",
    )
    parser.add_argument(
        "--max-length", type=int, default=0, metavar="N", help="prompt and response in tokens; default: the model's"
    )
    parser.add_argument("--slots", type=int, default=64, metavar="N", help="drawn side by side; default: %(default)s")
    parser.add_argument("--environment", type=Path, metavar="DIR", help="for vLLM's packages; default: in the cache")
    parser.add_argument("--python", type=Path, metavar="FILE", help="a Python that has vLLM 0.32; nothing is installed")
    parser.add_argument("--vllm", action="append", default=[], metavar="ARG", help="one more for vLLM: --vllm=--seed=1")
    parser.set_defaults(again="")


def _cluster(commands: Group) -> None:
    def call(args: argparse.Namespace) -> int:
        tree = imported("palate.recipe", "read_tree")(args.recipe, args.set)
        stage = stage_of(tree, args.recipe, args.stage)
        kind = imported("palate.recipe", stage.recipe)
        if not stage.divides or "cluster" not in kind.model_fields:
            raise RecipeError(f"{args.recipe}: of {stage.name}, which does not train: run it with palate {stage.name}")
        if "engine" in kind.model_fields:
            tree = imported("palate.cluster.serving", "as_the_trainers_read_it")(tree, planned=args.engines or 0)
        recipe = imported("palate.recipe", "parse_recipe")(kind, tree, where=str(args.recipe))
        section = recipe.cluster
        cards_of_engines = section.engines if args.engines is None else args.engines
        if cards_of_engines < 0 or args.tensor_parallel < 1 or (args.engines and not args.plan):
            parser.error("--engines, 0 or more, of --tensor-parallel cards, 1 or more, go with --plan")
        if args.plan:
            print("\n".join(_planned(args, stage, recipe, cards_of_engines)))
            return 0
        command = ["-m", "palate", stage.command or stage.name, str(args.recipe)]
        out = args.out or Path("runs") / str(args.recipe.stem)
        command += ["--out", str(out)]
        command += ["--set", *args.set] if args.set else []
        command += ["--resume"] if args.resume else []
        python = str(args.engine_python.absolute()) if args.engine_python else ""
        if args.address.startswith(("http://", "https://")):
            command[2:3] = ["cluster", *(["--stage", args.stage] if args.stage else [])]
            command += ["--engine-python", python] if python else []
            submit = imported("palate.cluster.submitting", "submit")
            return int(submit(args.address, command, Path.cwd()))
        machines = imported_extra("palate.cluster.on_ray", "OnRay", extra="ray")(args.address, Path.cwd())
        run = imported("palate.cluster.restarting", "run")
        if not section.engines:
            return int(run(machines, command, section, say=_say))
        engine = imported("palate.cluster.serving", "engine_command")(
            recipe.model, precision=recipe.precision, slots=recipe.sampling.num_slots, python=python
        )
        weights = None if recipe.engine.weights else out.absolute() / "weights"
        return int(run(machines, command, section, say=_say, engine=engine, weights=weights))

    example = "palate cluster recipes/ppo.toml --set cluster.trainers=2"
    parser = commands.add("cluster", call, "train in several processes on a Ray cluster", CLUSTER, example)
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="of a stage that trains")
    parser.add_argument("--stage", metavar="STAGE", help="default: what the recipe says, or its name begins with")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="replace keys of the recipe: seed=1"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="run directory; default: runs/ and the recipe's name")
    parser.add_argument("--resume", action="store_true", help="go on with the run in that directory")
    parser.add_argument(
        "--address",
        default="auto",
        metavar="ADDRESS",
        help="of the cluster's head; auto: the one that is here, or else one of this machine alone; local: that one",
    )
    parser.add_argument(
        "--plan", action="store_true", help="compute, and run nothing: memory of each, what moves, seconds by part"
    )
    parser.add_argument(
        "--card",
        choices=("a100", "h100", "h200", "rtx4090"),
        default="h100",
        help="with --plan: what each process has; default: %(default)s",
    )
    parser.add_argument(
        "--engines", type=int, metavar="N", help="with --plan: cards that only sample; default: cluster.engines"
    )
    parser.add_argument(
        "--tensor-parallel", type=int, default=1, metavar="N", help="with --plan: cards of one engine; default: 1"
    )
    parser.add_argument(
        "--engine-python", type=Path, metavar="FILE", help="of cluster.engines: a Python that has vLLM 0.32, everywhere"
    )
    parser.set_defaults(again="; go on with --resume")


def _planned(args: argparse.Namespace, stage: Stage, recipe: Any, engines: int) -> list[str]:
    layout, cards = (imported("palate.stages.estimate.many_cards", name) for name in ("Layout", "CARDS"))
    who = layout(
        trainers=recipe.cluster.trainers,
        engines=engines,
        tensor_parallel=args.tensor_parallel,
        sharded=recipe.cluster.shard == "weights",
    )
    planned = imported("palate.stages.estimate.many_cards", "planned")
    return list(planned(imported(stage.module, stage.function), recipe, who, cards[args.card]))


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
