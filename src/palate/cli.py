"""The command line: arguments -> recipe -> one call; no logic.

Nothing heavy is imported before a command is known, so help and a misspelt option are answered at once. A user's
mistake is one line on standard error and status 2; an interrupted command has status 130.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import palate
from palate.arguments import Group, Parser, count, meaning, pair, size
from palate.commands import (
    AGENT,
    COMPARE,
    DATA,
    DATA_CHECK,
    DATA_EXPORT,
    DATA_FILTER,
    DATA_GET,
    DATA_IMPORT,
    DATA_MINE,
    DEMO,
    FRONTIER,
    INIT,
    INTRODUCTION,
    OVEROPTIMIZE,
    ROUNDS,
    RUN_DIRECTORY,
    STAGES,
    STUDIO,
    Stage,
)
from palate.disk import is_full
from palate.errors import MissingExtraError, PalateError

MINED = ("forum", "thumbs", "trees", "refusals", "abstention", "hygiene")
"""Kinds of `palate data mine`, here so that none is imported before one is asked for."""
_DEMOS = {
    "everyday": ("palate.demo.loop", "demo", "runs/demo"),
    "people": ("palate.demo.real_people", "demo_people", "runs/people"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    try:
        try:
            return _dispatch(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()  # a closed pipe is noticed here, while it can still be met
    except PalateError as error:
        message, status = str(error), 2
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


def _dispatch(argv: list[str]) -> int:
    commands = build_parsers()
    _check_names(commands, argv)
    args, unknown = commands[""].parse_known_args(argv)
    parser: Parser = args.parser
    if unknown:
        parser.error(f"no option {unknown[0]!r}{_near(unknown[0], re.findall('--[a-z-]+', parser.format_usage()))}")
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
    root.set_defaults(again="")
    parsers = {"": root}
    commands = Group(parsers, "")
    _demo(commands)
    _data(commands)
    for stage in STAGES:
        _stage(commands, stage)
    _rounds(commands)
    _compare(commands)
    _frontier(commands)
    _overoptimize(commands)
    _agent(commands)
    _runs(commands)
    _init(commands)
    _studio(commands)
    return parsers


def _demo(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        module, run, out = _DEMOS[args.which]
        scale = _import(module, "SCALES")[args.scale]
        _import(module, run)(args.out or Path(out), seed=args.seed, scale=scale, precision=args.precision)

    parser = commands.add("demo", call, "the whole loop on a small model, for real", DEMO, "palate demo people")
    parser.add_argument("which", nargs="?", choices=tuple(_DEMOS), default="everyday", help="default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/demo, or runs/people")
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


def _data(commands: Group) -> None:
    def check(args: argparse.Namespace) -> int:
        preview = None
        if args.model:
            chat = _import("palate.lm.sources.zoo", "load_chat")(args.model, chat_template=args.chat_template)
            preview = _import("palate.stages.inspection", "Preview")(chat, max_length=args.max_length)
        check_data = _import("palate.corpus.check", "check_data")
        report = check_data(args.files, **_said_of_files(args), see=preview and preview.add)
        print(report, flush=True)
        if preview is not None:
            _import("palate.stages.inspection", "show")(preview)
        return 2 if report.failed else 0

    def import_(args: argparse.Namespace) -> int:
        report = _import("palate.corpus.check", "import_data")(
            args.files, out=args.out, skip_bad=args.skip_bad, **_said_of_files(args)
        )
        print(report)
        return 2 if report.failed else 0

    def export(args: argparse.Namespace) -> None:
        print(_import("palate.corpus.export", "export_data")(args.file, format=args.format, out=args.out))

    def filter_(args: argparse.Namespace) -> None:
        settings = _import("palate.recipe", "parse_settings")(_import("palate.recipe", "Quality"), args.set)
        filter_data = _import("palate.corpus.quality.filtering", "filter_data")
        print(
            filter_data(
                args.files, out=args.out, settings=settings, report_directory=args.report, **_said_of_files(args)
            )
        )

    def mine(args: argparse.Namespace) -> None:
        kind = _import("palate.corpus.mined.miners", "MINERS")[args.kind].settings
        settings = _import("palate.recipe", "parse_settings")(kind, args.set)
        told = {"out": args.out, "settings": settings, "report_directory": args.report}
        print(_import("palate.corpus.mined.miners", "mine")(args.kind, args.files, **told, **_said_of_files(args)))

    def get(args: argparse.Namespace) -> None:
        if not args.names:
            print(_import("palate.corpus.public.fetching", "listing")())
        for name in args.names:
            _import("palate.corpus.public.fetching", "fetch")(name)

    group = commands.group("data", "check, import, filter, mine, export and get data", DATA)
    parser = group.add("check", check, "what is in a file, and what cannot be used", DATA_CHECK, more=_formats)
    _add_reading(parser)
    parser.add_argument("--model", metavar="NAME", help="show the first records as this model will see them")
    parser.add_argument("--chat-template", default="", metavar="NAME", help="a family's or a file's, with --model")
    parser.add_argument(
        "--max-length", type=int, default=1024, metavar="N", help="tokens, with --model; default: %(default)s"
    )
    parser = group.add("import", import_, "turn files into Palate's own records", DATA_IMPORT, more=_formats)
    _add_reading(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="ends in .jsonl or .jsonl.gz")
    parser.add_argument("--skip-bad", action="store_true", help="leave malformed rows out instead of stopping")
    parser = group.add("filter", filter_, "leave out poor text and duplicates", DATA_FILTER, more=_thresholds)
    _add_reading(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="ends in .jsonl or .jsonl.gz")
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="of the report; default: beside FILE, named after it"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="replace thresholds: min_words=20"
    )
    parser = group.add("mine", mine, "make preferences of votes, thumbs and other traces", DATA_MINE, more=_kinds)
    parser.add_argument("kind", choices=MINED, metavar="KIND", help=", ".join(MINED))
    _add_reading(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="ends in .jsonl or .jsonl.gz")
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="of the report; default: beside FILE, named after it"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="replace settings of the kind"
    )
    parser = group.add("export", export, "write records in another tool's format", DATA_EXPORT, more=_export_formats)
    parser.add_argument("file", metavar="FILE", help="records in any format that can be read")
    parser.add_argument("--format", required=True, metavar="NAME", help="one of those below")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="ends in .jsonl or .json, or in .csv for csv"
    )
    parser = group.add("get", get, "fetch public data sets, or list them", DATA_GET, "palate data get convarg")
    parser.add_argument("names", nargs="*", metavar="NAME", help="as in the list")
    parser.set_defaults(again="; the same command goes on from there")


def _add_reading(parser: Parser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="JSON lines, JSON, CSV, TSV, Parquet, text; also .gz")
    parser.add_argument("--format", default="auto", metavar="NAME", help="one of those below; default: recognised")
    parser.add_argument(
        "--field",
        type=pair,
        action="append",
        default=[],
        metavar="NAME=COLUMN",
        help="what a column holds; repeat",
    )
    parser.add_argument(
        "--tag", action="append", default=[], metavar="COLUMN", help="keep a column as a tag (a.b: one within another)"
    )
    parser.add_argument(
        "--ignore", action="append", default=[], metavar="COLUMN", help="leave a column out although it may matter"
    )
    parser.add_argument(
        "--verdict",
        type=meaning,
        action="append",
        default=[],
        metavar="VALUE=MEANING",
        help="what a judgement means: a, b, tie, both_bad, both_good, up, down, skip; repeat",
    )
    parser.add_argument(
        "--join",
        type=pair,
        action="append",
        default=[],
        metavar="COLUMN=FILE",
        help="add the columns of the row of FILE that has the same value of COLUMN; repeat",
    )


def _said_of_files(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "format": args.format,
        "fields": dict(args.field),
        "tags": args.tag,
        "ignore": args.ignore,
        "verdicts": dict(args.verdict),
        "join": dict(args.join),
    }


def _stage(commands: Group, stage: Stage) -> None:
    def call(args: argparse.Namespace) -> None:
        recipe = _import("palate.recipe", "load_recipe")(_import("palate.recipe", stage.recipe), args.recipe, args.set)
        if (args.memory is not None or args.gpu) and not args.estimate:
            parser.error("--memory and --gpu go with --estimate")
        if args.estimate:
            estimate, train = _import("palate.stages.estimate.trial", "estimate"), _import(stage.module, stage.function)
            print(estimate(train, recipe, memory=args.memory, on_gpu=args.gpu))
            return
        out = args.out or Path("runs") / args.recipe.stem
        trackers = [_import("palate.run.trackers", "TensorBoard")(out / "tensorboard")] if args.tensorboard else []
        if args.accept_changed_data and not args.resume:
            parser.error("--accept-changed-data goes with --resume")
        run = _import("palate.run.directory", "Run").open(
            out, recipe, resume=args.resume, accept_changed_data=args.accept_changed_data, trackers=trackers
        )
        if not run.finished:
            _import(stage.module, stage.function)(recipe, run)

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
    parser.set_defaults(again="; go on with --resume")
    parser.add_argument("--tensorboard", action="store_true", help="write TensorBoard files as well")


def _rounds(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        recipe = _import("palate.recipe", "load_recipe")(
            _import("palate.recipe", "RoundsRecipe"), args.recipe, args.set
        )
        out = args.out or Path("runs") / args.recipe.stem
        rounds = _import("palate.experiments.rounds.iterate", "Rounds")(recipe, out, source=str(args.recipe))
        if args.estimate:
            print(rounds.estimate())
        else:
            rounds.run()

    parser = commands.add(
        "rounds", call, "sample, judge, retrain, go on from there", ROUNDS, "palate rounds recipes/rounds.toml"
    )
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="`recipes/rounds.toml` is one")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="replace keys: policy.steps=4"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/ and the recipe's name")
    parser.add_argument("--estimate", action="store_true", help="say what it will take; nothing stays")
    parser.set_defaults(again="; the same command goes on from there")


def _compare(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        methods, evaluation = _import("palate.experiments.methods", "read_comparison")(
            args.recipes, args.eval, args.set, allow_different=args.allow_different
        )
        comparison = _import("palate.experiments.compare", "Comparison")(
            methods, evaluation, args.out, seeds=args.seeds, at_kl=args.at_kl
        )
        if args.estimate:
            print(comparison.estimate())
        else:
            comparison.run()

    example = "palate compare recipes/ppo.toml recipes/reinforce.toml --eval recipes/win_rate.toml --seeds 3"
    parser = commands.add("compare", call, "several methods over several seeds", COMPARE, example)
    parser.add_argument("recipes", nargs="+", metavar="[NAME=]RECIPE.toml", help="what is compared")
    parser.add_argument("--eval", type=Path, required=True, metavar="RECIPE.toml", help="what all are measured by")
    parser.add_argument("--seeds", type=count, default=3, metavar="N", help="0 to N - 1; default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="[NAME:]KEY=VALUE", help="replace keys of recipes"
    )
    parser.add_argument(
        "--allow-different",
        nargs="+",
        action="extend",
        default=[],
        choices=("model", "prompts", "rewards", "temperature"),
        metavar="WHAT",
        help="model, prompts, rewards or temperature: compare although recipes differ in it",
    )
    parser.add_argument(
        "--at-kl", type=float, metavar="NATS", help="compare at this KL; default: the largest that every run reaches"
    )
    parser.add_argument("--estimate", action="store_true", help="say what training will take; nothing stays")
    parser.set_defaults(again="; the same command goes on from there")


def _frontier(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        _import("palate.experiments.frontier", "frontier")(args.out, seeds=args.seeds)

    parser = commands.add(
        "frontier", call, "the demonstration's methods over several seeds", FRONTIER, "palate frontier --seeds 3"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/frontier"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--seeds", type=count, default=3, metavar="N", help="runs of each method; default: %(default)s")
    parser.set_defaults(again="; the same command goes on from there")


def _overoptimize(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        module = "palate.experiments.overoptimization"
        scale = _import(module, "SCALES")[args.scale]
        _import(module, "overoptimize")(args.out, seeds=args.seeds, scale=scale)

    parser = commands.add(
        "overoptimize", call, "true reward against learned reward", OVEROPTIMIZE, "palate overoptimize --seeds 1"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/overoptimize"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument("--seeds", type=count, default=1, metavar="N", help="whole experiments; default: %(default)s")
    parser.add_argument(
        "--scale",
        choices=("full", "tiny"),
        default="full",
        help="tiny: a random model, in seconds, to see that it works; default: %(default)s",
    )
    parser.set_defaults(again="; the same command goes on from there")


def _agent(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        recipe = _import("palate.recipe", "load_recipe")(_import("palate.recipe", "AgentRecipe"), args.recipe, args.set)
        run_agents = _import("palate.experiments.controls", "run_agents")
        run_agents(recipe, args.out or Path("runs") / args.recipe.stem, seeds=args.seeds, controls=not args.alone)

    example = "palate agent recipes/pendulum.toml --seeds 5"
    parser = commands.add("agent", call, "an agent learns from comparisons of clips", AGENT, example)
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="such as recipes/pendulum.toml")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="replace keys of the recipe: seed=1"
    )
    parser.add_argument(
        "--seeds", type=count, default=1, metavar="N", help="the recipe's seed and those after it; default: %(default)s"
    )
    parser.add_argument("--alone", action="store_true", help="without the controls")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/ and the recipe's name")
    parser.set_defaults(again="; the same command goes on from there")


def _runs(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        _import("palate.run.listing", "print_runs")(args.root)

    text = "Every run below a directory, the newest first: is it finished, running or stopped, and its last metrics."
    parser = commands.add("runs", call, "what was run, and how far it got", text, "palate runs")
    parser.add_argument("root", nargs="?", type=Path, default=Path("runs"), metavar="DIR", help="default: %(default)s")


def _init(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        init = _import_extra("palate.studio.serve", "init", extra="studio")
        init(args.directory, database=args.database, name=args.name, model=args.model)

    parser = commands.add("init", call, "make a workspace for the web app", INIT, "palate init taste")
    parser.add_argument("directory", type=Path, metavar="DIR", help="is made if it is not there")
    parser.add_argument("--database", metavar="URL", help="default: sqlite:///palate.db, in the workspace")
    parser.add_argument("--model", metavar="NAME", help="what the first round starts from; default: smollm2-135m")
    parser.add_argument("--name", metavar="TEXT", help="shown on every page")


def _studio(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        serve = _import_extra("palate.studio.serve", "serve", extra="studio")
        serve(args.workspace, host=args.host, port=args.port, https=args.https)

    parser = commands.add("studio", call, "the web app: label, train, chat", STUDIO, "palate studio --workspace taste")
    parser.add_argument("--workspace", type=Path, default=Path(), metavar="DIR", help="default: this directory")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: %(default)s")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="0 finds a free one; default: %(default)s")
    parser.add_argument("--https", action="store_true", help="there is HTTPS before it: cookies are for HTTPS alone")


def _import(module: str, name: str) -> Any:
    """What a command needs, imported when it is called."""
    return getattr(import_module(module), name)


def _import_extra(module: str, name: str, *, extra: str) -> Any:
    """The same of a part whose packages are an extra."""
    try:
        return _import(module, name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("palate"):
            raise
        raise MissingExtraError(error.name, extra) from None


def _formats() -> str:
    formats = _import("palate.corpus.catalogue.all_formats", "FORMATS").values()
    return "formats:\n" + "\n".join(f"  {format.name:<20} {format.shape}" for format in formats)


def _thresholds() -> str:
    return "\n".join(["thresholds, and their defaults:", *_settings(_import("palate.recipe", "Quality"))])


def _kinds() -> str:
    kinds = _import("palate.corpus.mined.miners", "MINERS").items()
    lines = ["kinds, their settings and defaults:"]
    for name, kind in kinds:
        lines += ["", f"{name}: {kind.about}", *_settings(kind.settings)]
    return "\n".join(lines)


def _settings(section: Any) -> list[str]:
    fields = section.model_fields.items()
    return [f"  {name} = {_toml(field.default)}\n      {field.description}" for name, field in fields]


def _toml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _export_formats() -> str:
    formats = _import("palate.corpus.export", "EXPORTERS")
    return "formats:\n" + "\n".join(f"  {name:<27} {format.shape}" for name, format in formats.items())
