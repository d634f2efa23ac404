"""The command line: arguments -> recipe -> one call; no logic.

Nothing heavy is imported before a command is known, so help and a misspelt option are answered at once. A user's
mistake is one line on standard error and status 2; an interrupted command has status 130, and one that waits for people
to compare something 75.
"""

from __future__ import annotations

import argparse
import atexit
import difflib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import palate
from palate.arguments import (
    Group,
    Parser,
    imported,
    imported_extra,
    is_one_of_several,
    processes,
    size,
    speaks,
)
from palate.cluster.cluster_commands import add_cluster
from palate.commands import (
    BACKUP,
    DEMO,
    DEMOS,
    INIT,
    INTRODUCTION,
    RESTORE,
    RUN_DIRECTORY,
    STAGES,
    STUDIO,
    WORKER,
    Stage,
    stage_meant,
)
from palate.data_commands import add_data
from palate.disk import is_full
from palate.errors import PalateError, RunError, SilentError
from palate.experiment_commands import add_experiments

ALONE = "this command runs in one process: leave out torchrun"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    try:
        try:
            return _dispatch(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()  # a closed pipe is noticed here, while it can still be met
    except SilentError as error:
        return error.status
    except PalateError as error:
        message, status = str(error), error.status
    except KeyboardInterrupt as error:
        message, status = str(error) or "interrupted", 130
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if not is_full(error):
            raise
        message, status = f"the disk is full: {error.filename or 'free some space'}", 2
    # only here is the run's loop closed and the terminal its own again
    print(f"palate: {message}", file=sys.stderr)
    return status


def end(status: int) -> NoReturn:
    """End this process with the exit status of `main`.

    One of several leaves the interpreter as it is: torch keeps process groups after their end (in defaults of its
    functions, in meshes), and a thread of theirs that runs when the interpreter is gone ends it with SIGABRT.
    """
    if is_one_of_several():
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _dispatch(argv: list[str]) -> int:
    commands = build_parsers()
    _check_names(commands, argv)
    args, unknown = commands[""].parse_known_args(argv)
    parser: Parser = args.parser
    if unknown:
        parser.error(f"no option {unknown[0]!r}{_near(unknown[0], re.findall('--[a-z-]+', parser.format_usage()))}")
    if is_one_of_several() and not args.divides:
        raise RunError(ALONE) if speaks() else SilentError(2)
    try:
        return int(args.call(args) or 0)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"{str(stop) or 'interrupted'}{args.again}") from None


def _check_names(commands: Mapping[str, Parser], argv: Sequence[str]) -> None:
    """A misspelt command is told the nearest one."""
    words = [word for word in argv if not word.startswith("-")]
    for group, depth in (("", 0), ("data", 1)):
        known = [name.split()[-1] for name in commands if name and " ".join(name.split()[:-1]) == group]
        if words[:depth] == group.split() and len(words) > depth and words[depth] not in known:
            commands[group].error(f"no command {words[depth]!r}{_near(words[depth], known)}")


def _near(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def build_parsers() -> dict[str, Parser]:
    """Every parser by the name of its command: "" is ``palate`` itself, "data import" one of ``data``'s."""
    root = Parser(prog="palate", description=INTRODUCTION)
    root.add_argument("--version", action="version", version=f"palate {palate.__version__}")
    root.set_defaults(again="", divides=False)
    parsers = {"": root}
    commands = Group(parsers, "")
    _demo(commands)
    add_data(commands)
    for stage in STAGES:
        if not stage.command:
            _stage(commands, stage)
    add_experiments(commands)
    add_cluster(commands)
    _runs(commands)
    _init(commands)
    _studio(commands)
    _worker(commands)
    _backup(commands)
    _restore(commands)
    return parsers


def _demo(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        module, run, out = DEMOS[args.which]
        of_text = args.which == "text"
        if of_text and args.text is None:
            parser.error("text needs --text: a directory of plain text, or a file")
        if not of_text and (args.text or args.estimate):
            parser.error("--text and --estimate go with `palate demo text`")
        settings = {"seed": args.seed, "scale": imported(module, "SCALES")[args.scale], "precision": args.precision}
        settings |= {"texts": args.text} if of_text else {}
        if args.estimate:
            print(imported("palate.demo.from_text", "estimate")(**settings))
            return
        imported(module, run)(args.out or Path(out), **settings)

    parser = commands.add(
        "demo", call, "the whole loop on a small model, for real", DEMO, "palate demo text --text tales"
    )
    parser.add_argument("which", nargs="?", choices=tuple(DEMOS), default="everyday", help="default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/demo, runs/people or runs/text")
    parser.add_argument("--text", type=Path, metavar="PATH", help="with `text`: a directory of plain text, or a file")
    parser.add_argument("--estimate", action="store_true", help="with `text`: say what it will take; nothing stays")
    parser.add_argument("--seed", type=int, default=0, help="all randomness follows from it; default: %(default)s")
    parser.add_argument(
        "--scale",
        choices=("full", "quick"),
        default="full",
        help="quick: whether everything works here, in a few minutes; its result means nothing; default: %(default)s",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "bf16", "fp32"),
        default="auto",
        help="of matrix products; auto: bf16 where it is quick and as good; default: %(default)s",
    )
    parser.set_defaults(again="; the same command goes on from there")


def _stage(commands: Group, stage: Stage) -> None:
    def call(args: argparse.Namespace) -> None:
        args.resume = args.resume or imported("palate.run.following", "goes_on")(args.out or default_out(args))
        if not is_one_of_several():
            return perform(args)
        if args.estimate:
            parser.error("--estimate is of one process: leave out torchrun")
        with imported("palate.cluster.gang", "joined")():
            return perform(args)

    def default_out(args: argparse.Namespace) -> Path:
        return Path("runs") / str(args.recipe.stem)

    def perform(args: argparse.Namespace) -> None:
        tree = imported("palate.recipe", "read_tree")(args.recipe, args.set)
        meant = stage_meant(stage.name, tree)
        if is_one_of_several() and not meant.divides:
            raise RunError(ALONE)
        kind = imported("palate.recipe", meant.recipe)
        recipe = imported("palate.recipe", "parse_recipe")(kind, tree, where=str(args.recipe))
        if (args.memory is not None or args.gpu) and not args.estimate:
            parser.error("--memory and --gpu go with --estimate")
        if args.estimate:
            estimate, train = (
                imported("palate.stages.estimate.trial", "estimate"),
                imported(meant.module, meant.function),
            )
            print(estimate(train, recipe, memory=args.memory, on_gpu=args.gpu))
            return
        out = args.out or default_out(args)
        trackers = [imported("palate.run.trackers", "TensorBoard")(out / "tensorboard")] if args.tensorboard else []
        if args.accept_changed_data and not args.resume:
            parser.error("--accept-changed-data goes with --resume")
        run = imported("palate.run.directory", "Run").open(
            out, recipe, resume=args.resume, accept_changed_data=args.accept_changed_data, trackers=trackers
        )
        _say_how_many(recipe, run.say)
        if not run.finished:
            imported(meant.module, meant.function)(recipe, run)

    example = f"palate {stage.name} recipes/{stage.example}.toml"
    parser = commands.add(stage.name, call, stage.help, f"{stage.text}\n\n{RUN_DIRECTORY}", example)
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="`recipes/` has one for every command")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="replace keys of the recipe: seed=1"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="run directory; default: runs/ and the recipe's name")
    parser.add_argument("--resume", action="store_true", help="go on with the run in that directory")
    parser.add_argument(
        "--accept-changed-data", action="store_true", help="with --resume: data files that have changed since then"
    )
    parser.add_argument(
        "--estimate", action="store_true", help="say what it will take: memory by part, tokens, time; nothing stays"
    )
    parser.add_argument(
        "--memory", type=size, metavar="SIZE", help="with --estimate: as if so much were left, such as 24GB"
    )
    parser.add_argument("--gpu", action="store_true", help="with --estimate: as on a GPU")
    parser.set_defaults(again="; go on with --resume", divides=stage.divides)
    parser.add_argument("--tensorboard", action="store_true", help="write TensorBoard files as well")


def _say_how_many(recipe: Any, say: Callable[[str], None]) -> None:
    """A recipe does not start processes by itself."""
    asked = getattr(getattr(recipe, "cluster", None), "trainers", 1)
    there = int(os.environ["WORLD_SIZE"]) if is_one_of_several() else 1
    if asked not in (1, there):
        say(f"cluster.trainers = {asked}, and this run has {there}: `palate cluster` is what starts so many")
    engines = getattr(getattr(recipe, "cluster", None), "engines", 0)
    if engines and recipe.engine.kind == "local":
        say(f"cluster.engines = {engines}, and this run samples by itself: `palate cluster` is what starts them")


def _runs(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        imported("palate.run.listing", "print_runs")(args.root)

    text = "Every run below a directory, the newest first: is it finished, running or stopped, and its last metrics."
    parser = commands.add("runs", call, "what was run, and how far it got", text, "palate runs")
    parser.add_argument("root", nargs="?", type=Path, default=Path("runs"), metavar="DIR", help="default: %(default)s")


def _init(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        init = imported_extra("palate.studio.serve", "init", extra="studio")
        init(args.directory, database=args.database, name=args.name, model=args.model)

    parser = commands.add("init", call, "make a workspace for the web app", INIT, "palate init taste")
    parser.add_argument("directory", type=Path, metavar="DIR", help="is made if it is not there")
    parser.add_argument("--database", metavar="URL", help="default: sqlite:///palate.db, in the workspace")
    parser.add_argument("--model", metavar="NAME", help="what the first round starts from; default: smollm2-135m")
    parser.add_argument("--name", metavar="TEXT", help="shown on every page")


def _studio(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        serve = imported_extra("palate.studio.serve", "serve", extra="studio")
        serve(
            args.workspace,
            host=args.host,
            port=args.port,
            https=args.https,
            processes=args.processes,
            with_jobs=not args.no_jobs,
            cluster=args.cluster,
        )

    parser = commands.add("studio", call, "the web app: label, train, chat", STUDIO, "palate studio --workspace taste")
    parser.add_argument("--workspace", type=Path, default=Path(), metavar="DIR", help="default: this directory")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: %(default)s")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="0 finds a free one; default: %(default)s")
    parser.add_argument("--https", action="store_true", help="there is HTTPS before it: cookies are for HTTPS alone")
    parser.add_argument(
        "--processes", type=processes, default=1, metavar="N", help="that answer at this address; default: %(default)s"
    )
    parser.add_argument("--no-jobs", action="store_true", help="`palate worker` looks after them")
    _cluster_of_jobs(parser)


def _worker(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        imported_extra("palate.studio.serve", "work", extra="studio")(args.workspace, cluster=args.cluster)

    example = "palate worker --workspace taste"
    parser = commands.add("worker", call, "a workspace's sampling and training, without the web app", WORKER, example)
    parser.add_argument("--workspace", type=Path, default=Path(), metavar="DIR", help="default: this directory")
    _cluster_of_jobs(parser)


def _cluster_of_jobs(parser: Parser) -> None:
    parser.add_argument(
        "--cluster", metavar="URL", help="head of the Ray cluster that trains: http://head:8265; default: palate.toml's"
    )


def _backup(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        imported_extra("palate.studio.backup", "backup", extra="studio")(args.workspace, args.out)

    example = "palate backup --workspace taste --out taste.tar"
    parser = commands.add("backup", call, "a workspace into one file, while people work in it", BACKUP, example)
    parser.add_argument("--workspace", type=Path, default=Path(), metavar="DIR", help="default: this directory")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.tar", help="must not be there yet")


def _restore(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        restore = imported_extra("palate.studio.backup", "restore", extra="studio")
        restore(args.archive, args.workspace, database=args.database)

    example = "palate restore taste.tar --workspace taste"
    parser = commands.add("restore", call, "a workspace out of such a file", RESTORE, example)
    parser.add_argument("archive", type=Path, metavar="FILE.tar", help="what `palate backup` wrote")
    parser.add_argument(
        "--workspace", type=Path, required=True, metavar="DIR", help="where to; not there yet, or empty"
    )
    parser.add_argument("--database", metavar="URL", help="where its rows go instead; an empty database")
