"""`palate data` and its commands: arguments -> one call, as in `cli.py`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from palate.arguments import Group, Parser, imported, meaning, pair
from palate.commands import (
    DATA,
    DATA_ABSTENTION,
    DATA_CHECK,
    DATA_EXPORT,
    DATA_FILTER,
    DATA_GET,
    DATA_IMPORT,
    DATA_MINE,
)

MINED = ("forum", "thumbs", "trees", "refusals", "abstention", "hygiene")
"""Kinds of `palate data mine`, here so that none is imported before one is asked for."""


def add_data(commands: Group) -> None:
    """The group and all that is in it."""

    def check(args: argparse.Namespace) -> int:
        preview = None
        if args.model:
            chat = imported("palate.lm.sources.zoo", "load_chat")(args.model, chat_template=args.chat_template)
            preview = imported("palate.stages.inspection", "Preview")(chat, max_length=args.max_length)
        check_data = imported("palate.corpus.check", "check_data")
        report = check_data(args.files, **_said_of_files(args), see=preview and preview.add)
        print(report, flush=True)
        if preview is not None:
            imported("palate.stages.inspection", "show")(preview)
        return 2 if report.failed else 0

    def import_(args: argparse.Namespace) -> int:
        report = imported("palate.corpus.check", "import_data")(
            args.files, out=args.out, skip_bad=args.skip_bad, **_said_of_files(args)
        )
        print(report)
        return 2 if report.failed else 0

    def export(args: argparse.Namespace) -> None:
        print(imported("palate.corpus.export", "export_data")(args.file, format=args.format, out=args.out))

    def filter_(args: argparse.Namespace) -> None:
        settings = imported("palate.recipe", "parse_settings")(imported("palate.recipe", "Quality"), args.set)
        filter_data = imported("palate.corpus.quality.filtering", "filter_data")
        print(
            filter_data(
                args.files, out=args.out, settings=settings, report_directory=args.report, **_said_of_files(args)
            )
        )

    def mine(args: argparse.Namespace) -> None:
        kind = imported("palate.corpus.mined.miners", "MINERS")[args.kind].settings
        settings = imported("palate.recipe", "parse_settings")(kind, args.set)
        told = {"out": args.out, "settings": settings, "report_directory": args.report}
        print(imported("palate.corpus.mined.miners", "mine")(args.kind, args.files, **told, **_said_of_files(args)))

    def abstention(args: argparse.Namespace) -> None:
        settings = imported("palate.recipe", "parse_settings")(
            imported("palate.recipe", "AbstentionMeasuring"), args.set
        )
        measure = imported("palate.corpus.mined.abstention_measured", "measure_abstention")
        found = measure(args.file, settings, before=args.before)
        found.page(f"What {args.file} says where it does not know").write(args.out)
        print(f"{found}\nthe report with texts: {args.out}/report.html")

    def get(args: argparse.Namespace) -> None:
        if not args.names:
            print(imported("palate.corpus.public.fetching", "listing")())
        for name in args.names:
            imported("palate.corpus.public.fetching", "fetch")(name)

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
    _add_writing(parser, settings="replace thresholds: min_words=20")
    parser = group.add("mine", mine, "make preferences of votes, thumbs and other traces", DATA_MINE, more=_kinds)
    parser.add_argument("kind", choices=MINED, metavar="KIND", help=", ".join(MINED))
    _add_reading(parser)
    _add_writing(parser, settings="replace settings of the kind")
    parser = group.add(
        "abstention", abstention, "does a model say that it does not know", DATA_ABSTENTION, more=_measuring
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="responses that `palate sample` wrote")
    parser.add_argument("--before", type=Path, metavar="FILE", help="another model's responses to the same questions")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the report")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="replace settings")
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


def _add_writing(parser: Parser, *, settings: str) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="ends in .jsonl or .jsonl.gz")
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="of the report; default: beside FILE, named after it"
    )
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=settings)


def _said_of_files(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "format": args.format,
        "fields": dict(args.field),
        "tags": args.tag,
        "ignore": args.ignore,
        "verdicts": dict(args.verdict),
        "join": dict(args.join),
    }


def _formats() -> str:
    formats = imported("palate.corpus.catalogue.all_formats", "FORMATS").values()
    return "formats:\n" + "\n".join(f"  {format.name:<20} {format.shape}" for format in formats)


def _thresholds() -> str:
    return "\n".join(["thresholds, and their defaults:", *_settings(imported("palate.recipe", "Quality"))])


def _kinds() -> str:
    kinds = imported("palate.corpus.mined.miners", "MINERS").items()
    lines = ["kinds, their settings and defaults:"]
    for name, kind in kinds:
        lines += ["", f"{name}: {kind.about}", *_settings(kind.settings)]
    return "\n".join(lines)


def _measuring() -> str:
    return "\n".join(["settings, and their defaults:", *_settings(imported("palate.recipe", "AbstentionMeasuring"))])


def _settings(section: Any) -> list[str]:
    fields = section.model_fields.items()
    return [f"  {name} = {_toml(field.default)}\n      {field.description}" for name, field in fields]


def _toml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _export_formats() -> str:
    formats = imported("palate.corpus.export", "EXPORTERS")
    return "formats:\n" + "\n".join(f"  {name:<27} {format.shape}" for name, format in formats.items())
