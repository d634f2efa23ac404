"""The command line: arguments -> recipe -> one call; no logic.

Nothing heavy is imported before a command is known, so help and a misspelt option are answered at once. A user's mistake
is one line on standard error and status 2; an interrupted command has status 130.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import palate
from palate.errors import PalateError

_INTRODUCTION = """\
Teach a language model a group of people's taste.

See the whole loop on one small model, with nothing to prepare:

  palate demo

Or walk it with data of your own, a recipe for each step:

  palate data check pairs.jsonl                what is in it, and what cannot be used
  palate sft recipes/sft.toml                  show the model how to answer
  palate sample recipes/sample.toml            let it answer, for people to rank
  palate reward recipes/reward.toml            learn from the rankings what people prefer
  palate ppo recipes/ppo.toml                  improve the model on that
  palate eval recipes/win_rate.toml            would people now prefer it?
  palate runs                                  what was run, and how far it got
"""

_RUN_DIRECTORY = """\
Everything goes into a run directory (--out): the resolved recipe, metrics.jsonl, lineage.json, report.json and what was
made. Ctrl-C finishes the step at hand and writes a checkpoint; the same command with --resume goes on from there, also
after the process was killed."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A command that takes a recipe: ``palate NAME recipes/EXAMPLE.toml``."""

    name: str
    help: str
    text: str
    module: str
    recipe: str
    example: str


STAGES = (
    Stage(
        "sft",
        "fine-tune on demonstrations",
        "Supervised fine-tuning: the model learns to answer as demonstrations do, the end of the answer included.",
        "palate.stages.sft",
        "SFTRecipe",
        "sft",
    ),
    Stage(
        "sample",
        "sample K responses per prompt, to be ranked",
        "Writes candidates.jsonl: every prompt with K responses and where each came from.",
        "palate.stages.sample",
        "SampleRecipe",
        "sample",
    ),
    Stage(
        "reward",
        "train a reward model on rankings",
        "A reward model learns from rankings, pairs or thumbs which response people would prefer. Its accuracy is reported\n"
        "beside what choosing the longer response would reach.",
        "palate.stages.reward",
        "RewardRecipe",
        "reward",
    ),
    Stage(
        "ppo",
        "improve a model on its reward by PPO",
        "Proximal policy optimisation, as InstructGPT used it: with a value model, a KL penalty for every token and,\n"
        "if the recipe has [pretraining], the pretraining gradient mixed in.",
        "palate.stages.ppo",
        "PPORecipe",
        "ppo",
    ),
    Stage(
        "reinforce",
        "improve a model on its reward by REINFORCE, leave-one-out",
        "REINFORCE with the leave-one-out baseline (RLOO): the other responses to a prompt say what was to be expected.\n"
        "No value model.",
        "palate.stages.reinforce",
        "ReinforceRecipe",
        "reinforce",
    ),
    Stage(
        "dpo",
        "train on preferences directly, without a reward model",
        "Direct preference optimisation: no reward model and no sampling, only pairs.",
        "palate.stages.dpo",
        "DPORecipe",
        "dpo",
    ),
    Stage(
        "best-of-n",
        "choose the best of n responses; nothing is trained",
        "Samples n responses to each prompt and keeps the one with the highest reward: the baseline any training must beat.",
        "palate.stages.best_of_n",
        "BestOfNRecipe",
        "best_of_n",
    ),
    Stage(
        "eval",
        "win rate of one model against another",
        "Both models answer held-out prompts and a judge that training never saw compares the answers. With intervals.",
        "palate.evals.winrate",
        "WinRateRecipe",
        "win_rate",
    ),
)


class Parser(argparse.ArgumentParser):
    """Help that is kept as it was written, and errors of one line.

    Args:
        more: text below the options, made only when help is shown.
        options: the rest is passed on.
    """

    def __init__(self, *, more: Callable[[], str] | None = None, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)
        self._more = more

    def format_help(self) -> str:
        """With the text below the options."""
        if self._more is not None:
            self.epilog = self._more()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """One line, status 2."""
        self.exit(2, f"palate: {message}; see `{self.prog} --help`\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except PalateError as error:
        message, status = str(error), 2
    except KeyboardInterrupt as error:
        message, status = str(error) or "interrupted", 130
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    print(f"palate: {message}", file=sys.stderr)
    return status


def _dispatch(argv: list[str]) -> int:
    root, commands = build_parsers()
    _check_names(root, commands, argv)
    args, unknown = root.parse_known_args(argv)
    parser: Parser = args.parser
    if unknown:
        parser.error(f"no option {unknown[0]!r}{_near(unknown[0], re.findall('--[a-z-]+', parser.format_usage()))}")
    return int(args.run(args) or 0)


def build_parsers() -> tuple[Parser, dict[str, Parser]]:
    """The parser of ``palate`` and those of its commands by name, ``data import`` and its like included."""
    root = Parser(prog="palate", description=_INTRODUCTION)
    root.add_argument("--version", action="version", version=f"palate {palate.__version__}")
    _leads_on(root)
    commands: dict[str, Parser] = {}
    children = root.add_subparsers(metavar="COMMAND", title="commands", parser_class=Parser)

    def add(parent: Any, name: str, run: Callable[[argparse.Namespace], object], help: str, **options: Any) -> Parser:
        parser: Parser = parent.add_parser(name.split()[-1], help=help, **options)
        parser.set_defaults(run=run, parser=parser)
        commands[name] = parser
        return parser

    _add_demo(children, add)
    data = add(children, "data", lambda args: None, "read, check and convert data", description=_DATA)
    _leads_on(data)
    _add_data(data.add_subparsers(metavar="COMMAND", title="commands", parser_class=Parser), add)
    for stage in STAGES:
        _add_stage(children, add, stage)
    _add_rest(children, add)
    return root, commands
