"""Parsers of command lines: help that is kept as it was written, errors of one line, commands within commands.

And the kinds of values that options take, the import of what a command needs, and who speaks of several processes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn, TypeAlias

from palate.errors import MissingExtraError
from palate.machine import bytes_meant

Call: TypeAlias = Callable[[argparse.Namespace], int | None]


def is_one_of_several() -> bool:
    """Whether this process was started as one of several, by torchrun or in its way."""
    told = all(os.environ.get(name) for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"))
    return told and int(os.environ.get("WORLD_SIZE", "1")) > 1


def speaks() -> bool:
    """Whether this process says what all of them know before they have met."""
    return not is_one_of_several() or os.environ["RANK"] == "0"


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Descriptions as they were written, and options in one column."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)


class Parser(argparse.ArgumentParser):
    """Help that is kept as it was written, and errors of one line.

    Args:
        more: gives the text below the options; called only when help is shown.
        options: the rest is passed on.
    """

    def __init__(self, *, more: Callable[[], str] | None = None, **options: Any) -> None:
        super().__init__(formatter_class=_Formatter, allow_abbrev=False, **options)
        self._more = more

    def format_help(self) -> str:
        """With the text below the options."""
        if self._more is not None:
            self.epilog = self._more()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """One line, status 2."""
        self.exit(2, f"palate: {message} (see `{self.prog} --help`)\n" if speaks() else None)


class Group:
    """The commands below a parser; called without one of them, it shows its help."""

    def __init__(self, parsers: dict[str, Parser], name: str) -> None:
        self._parsers, self._name = parsers, name
        parent = parsers[name]
        parent.set_defaults(parser=parent, call=lambda args: parent.print_help())
        self._children = parent.add_subparsers(metavar="COMMAND", title="commands", parser_class=Parser)

    def add(
        self, name: str, call: Call, help: str, text: str, example: str = "", more: Callable[[], str] | None = None
    ) -> Parser:
        """A command, its line in the list, what it does, and a command line to try."""
        shown = f"example:\n  {example}" if example else None
        parser: Parser = self._children.add_parser(name, help=help, description=text, epilog=shown, more=more)
        parser.set_defaults(call=call, parser=parser)
        self._parsers[f"{self._name} {name}".strip()] = parser
        return parser

    def group(self, name: str, help: str, text: str) -> Group:
        """A command that has commands of its own."""
        self._parsers[name] = self._children.add_parser(name, help=help, description=text)
        return Group(self._parsers, name)


def count(text: str) -> int:
    """How many seeds."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seeds, 1 or more")
    return int(text)


def processes(text: str) -> int:
    """How many processes."""
    if not text.isdigit() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes, 1 to 64")
    return int(text)


def pair(text: str) -> tuple[str, str]:
    """``NAME=COLUMN``."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=COLUMN, for example prompt=question")
    return name, value


def size(text: str) -> int:
    """Bytes, of a size such as ``24GB``."""
    try:
        return bytes_meant(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def meaning(text: str) -> tuple[str, str]:
    """``VALUE=MEANING``, where the value may hold an equals sign itself."""
    value, equals, meant = text.rpartition("=")
    if not (value and equals and meant):
        raise argparse.ArgumentTypeError(f"{text!r} is not VALUE=MEANING, for example left=a")
    return value, meant


def imported(module: str, name: str) -> Any:
    """What a command needs, imported when it is called."""
    return getattr(import_module(module), name)


def imported_extra(module: str, name: str, *, extra: str) -> Any:
    """The same of a part whose packages are an extra."""
    try:
        return imported(module, name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("palate"):
            raise
        raise MissingExtraError(error.name, extra) from None
