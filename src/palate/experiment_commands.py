"""The commands that run several stages many times: arguments -> one call, as in `cli.py`."""

from __future__ import annotations

import argparse
from pathlib import Path

from palate.arguments import Group, count, imported
from palate.commands import AGENT, CHOOSE, COMPARE, COVERAGE, FRONTIER, LABELERS, OVEROPTIMIZE, REPEAT, ROUNDS


def add_experiments(commands: Group) -> None:
    """All of them, in the order in which help lists them."""
    _rounds(commands)
    _compare(commands)
    _repeat(commands)
    _frontier(commands)
    _overoptimize(commands)
    _coverage(commands)
    _labelers(commands)
    _choose(commands)
    _agent(commands)


def _rounds(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        recipe = imported("palate.recipe", "load_recipe")(
            imported("palate.recipe", "RoundsRecipe"), args.recipe, args.set
        )
        out = args.out or Path("runs") / args.recipe.stem
        rounds = imported("palate.experiments.rounds.iterate", "Rounds")(recipe, out, source=str(args.recipe))
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
        methods, evaluation = imported("palate.experiments.methods", "read_comparison")(
            args.recipes, args.eval, args.set, allow_different=args.allow_different
        )
        comparison = imported("palate.experiments.compare", "Comparison")(
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


def _repeat(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        parts = imported("palate.experiments.repeats.draws", "read_parts")(args.recipes, args.set)
        apart = args.apart
        if apart == []:
            apart = imported("palate.experiments.repeats.draws", "sources_of")(parts)
        out = args.out or Path("runs") / f"repeat-{parts[-1].name}"
        repeat = imported("palate.experiments.repeats.repeat", "Repeat")(
            parts, out, seeds=args.seeds, apart=apart or ()
        )
        if args.estimate:
            print(repeat.estimate())
        else:
            repeat.run()

    example = "palate repeat recipes/sft.toml --seeds 5 --apart"
    parser = commands.add("repeat", call, "one recipe, or a chain of them, over several seeds", REPEAT, example)
    parser.add_argument("recipes", nargs="+", metavar="[NAME=]RECIPE.toml", help="in the order in which they follow")
    parser.add_argument("--seeds", type=count, default=5, metavar="N", help="0 to N - 1; default: %(default)s")
    parser.add_argument(
        "--apart",
        nargs="*",
        choices=("order", "initial", "sampling", "labelers", "evaluation"),
        metavar="SOURCE",
        help="find the part that order, initial, sampling, labelers or evaluation has in the spread, N runs more for "
        "each; without a name: all that the recipes have",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/repeat- and the last recipe's name")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="[NAME:]KEY=VALUE", help="replace keys of recipes"
    )
    parser.add_argument("--estimate", action="store_true", help="say what it will take; nothing stays")
    parser.set_defaults(again="; the same command goes on from there")


def _frontier(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        imported("palate.experiments.frontier", "frontier")(args.out, seeds=args.seeds)

    parser = commands.add(
        "frontier", call, "the demonstration's methods over several seeds", FRONTIER, "palate frontier --seeds 3"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/frontier"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--seeds", type=count, default=3, metavar="N", help="runs of each method; default: %(default)s")
    parser.set_defaults(again="; the same command goes on from there")


def _overoptimize(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        module = "palate.experiments.overoptimization"
        scale = imported(module, "SCALES")[args.scale]
        imported(module, "overoptimize")(args.out, seeds=args.seeds, scale=scale)

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


def _coverage(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        imported("palate.stages.measuring.reward_coverage", "coverage")(
            args.reward,
            args.prompts,
            args.out,
            rankings=args.rankings,
            held_out=args.held_out,
            neighbours=args.neighbours,
            precision=args.precision,
            seed=args.seed,
        )

    example = "palate coverage runs/demo/reward --prompts runs/demo/prompts.jsonl"
    parser = commands.add("coverage", call, "do prompts lie where the reward model was taught", COVERAGE, example)
    parser.add_argument("reward", metavar="REWARD", help="a reward model's run")
    parser.add_argument("--prompts", type=Path, required=True, metavar="FILE", help="of reinforcement")
    parser.add_argument("--rankings", type=Path, metavar="FILE", help="it learned from; default: its recipe's data")
    parser.add_argument("--held-out", type=Path, metavar="FILE", help="rankings that it did not learn from")
    parser.add_argument("--neighbours", type=count, default=10, metavar="K", help="default: %(default)s")
    parser.add_argument(
        "--precision", choices=("auto", "bf16", "fp32"), default="auto", help="of matrix products; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="of parts and intervals; default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("runs/coverage"), metavar="DIR", help="default: %(default)s")


def _labelers(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        measure = imported("palate.experiments.labels.strangers_page", "labelers")
        measure(_judged(args), args.out, folds=args.folds, seeds=args.seeds, held_out=args.held_out)

    example = "palate labelers recipes/llmfao.toml --held-out items"
    parser = commands.add("labelers", call, "are labelers foretold whom a reward never met", LABELERS, example)
    parser.add_argument("--folds", type=count, default=5, metavar="N", help="of labelers; default: %(default)s")
    _add_judged(parser, seeds=3, out="runs/labelers")


def _choose(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        measure = imported("palate.experiments.labels.label_budget_page", "choose")
        measure(_judged(args), args.out, seeds=args.seeds, held_out=args.held_out, most=args.labels)

    example = "palate choose recipes/convarg.toml"
    parser = commands.add("choose", call, "how many labels are needed, and which first", CHOOSE, example)
    parser.add_argument("--labels", type=count, default=512, metavar="N", help="at the end; default: %(default)s")
    _add_judged(parser, seeds=10, out="runs/choose")


def _add_judged(parser: argparse.ArgumentParser, *, seeds: int, out: str) -> None:
    """What both commands have that learn linear rewards from the judgements of a recipe."""
    parser.add_argument("recipe", type=Path, metavar="RECIPE.toml", help="of a reward model: its data and its trunk")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="replace keys of the recipe: seed=1"
    )
    parser.add_argument(
        "--seeds", type=count, default=seeds, metavar="N", help="the recipe's and those after it; default: %(default)s"
    )
    parser.add_argument(
        "--held-out",
        choices=("prompts", "items"),
        default="prompts",
        help="measure on prompts that no label is about, or on other items of the same prompts, where prompts are few; "
        "default: %(default)s",
    )
    parser.add_argument("--out", type=Path, default=Path(out), metavar="DIR", help="default: %(default)s")
    parser.set_defaults(again="; the same command goes on from there")


def _judged(args: argparse.Namespace) -> object:
    """The recipe of a reward model."""
    recipe: object = imported("palate.recipe", "load_recipe")(
        imported("palate.recipe", "RewardRecipe"), args.recipe, args.set
    )
    return recipe


def _agent(commands: Group) -> None:
    def call(args: argparse.Namespace) -> None:
        recipe = imported("palate.recipe", "load_recipe")(
            imported("palate.recipe", "AgentRecipe"), args.recipe, args.set
        )
        run_agents = imported("palate.experiments.controls", "run_agents")
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
