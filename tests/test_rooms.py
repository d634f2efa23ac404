"""The plan of the house: which room may import which, and what a room must have.

`PLAN` is the whole of it. A room is a folder of `src/palate`; the plain files beside them (`errors`, `records`, ...)
are its ground floor, which every room but `objectives` may stand on.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "palate"

GROUND = {"arguments", "commands", "errors", "disk", "intervals", "machine", "randomness", "records", "scores", "words"}
"""Definitions that many share; they import each other alone."""

DOORS = {"__init__", "__main__", "cli", "data_commands", "experiment_commands"}
"""What a user comes in by. They import a room when it is asked for."""

PLAN = {
    # one machine, from mathematics to whole experiments
    "objectives": "",
    "recipe": "",
    "run": "",
    "corpus/rows": "",
    "corpus/public": "",
    "corpus/containers": "corpus/public corpus/rows",
    "corpus/formats": "corpus/rows",
    "corpus/catalogue": "corpus/formats corpus/rows",
    "corpus/accounting": "corpus/catalogue corpus/rows",
    "corpus": "corpus/accounting corpus/catalogue corpus/containers corpus/formats corpus/rows recipe",
    "corpus/quality": "corpus corpus/accounting corpus/containers corpus/rows evals recipe",
    "corpus/mined": "corpus corpus/accounting corpus/catalogue corpus/containers corpus/formats corpus/rows evals "
    "recipe",
    "corpus/export": "corpus corpus/catalogue corpus/containers corpus/formats corpus/rows",
    "cluster": "lm lm/kernels recipe run",
    "lm": "lm/kernels lm/templates recipe run",
    "lm/kernels": "",
    "lm/sources": "lm lm/kernels lm/templates",
    "lm/pretraining": "lm lm/sources recipe",
    "lm/templates": "",
    "rollout/servers": "run",
    "rollout": "lm lm/kernels lm/sources recipe rollout/servers run",
    "simulated": "objectives recipe",
    "rewards": "lm lm/sources objectives recipe rewards/verifiers rollout run simulated",
    "rewards/verifiers": "recipe",
    "rewards/judges": "lm lm/sources recipe rollout",
    "evals": "run",
    "evals/protocols": "corpus corpus/containers corpus/mined evals recipe rewards/verifiers",
    "evals/asking": "evals/protocols lm lm/sources recipe rewards/judges rollout run",
    "evals/card": "evals evals/protocols",
    "stages": "cluster corpus evals feedback/statistics lm "
    "lm/pretraining lm/sources objectives recipe rewards rollout run stages/estimate",
    "stages/ai_feedback": "corpus evals feedback/statistics lm lm/sources recipe rewards/judges run stages "
    "stages/estimate",
    "stages/reinforcement": "corpus evals lm lm/sources objectives recipe rewards rewards/verifiers rollout run stages "
    "stages/estimate",
    "stages/estimate": "lm lm/kernels lm/sources recipe rollout run",
    "stages/measuring": "corpus corpus/containers evals evals/asking evals/card evals/protocols lm lm/sources recipe "
    "rewards rewards/judges rollout run stages stages/ai_feedback stages/estimate",
    "stages/own_samples": "lm lm/sources objectives recipe rewards rollout run stages stages/reinforcement",
    "stages/agent": "corpus evals feedback/statistics lm objectives recipe rewards run simulated stages "
    "stages/reinforcement",
    "demo": "corpus corpus/containers corpus/public corpus/quality evals feedback/statistics lm lm/pretraining "
    "lm/sources objectives recipe rewards rollout run simulated stages stages/estimate stages/reinforcement",
    "experiments/rounds": "corpus demo evals experiments feedback/statistics lm lm/sources recipe rewards "
    "rewards/judges run simulated stages stages/estimate",
    "experiments/repeats": "evals experiments lm recipe run stages/estimate",
    "experiments/labels": "corpus evals feedback/statistics lm lm/sources objectives recipe rewards run stages",
    "experiments": "corpus demo evals lm lm/sources objectives recipe rewards run simulated stages stages/agent "
    "stages/estimate",
    # people
    "feedback": "",
    "feedback/store": "feedback/store/tables",
    "feedback/store/tables": "",
    "feedback/store/migrations": "feedback/store/tables",
    "feedback/store/migrations/versions": "",
    "feedback/tasks": "corpus corpus/accounting corpus/containers corpus/rows evals feedback/store "
    "feedback/store/tables objectives",
    "feedback/labelers": "feedback/store feedback/store/tables feedback/tasks",
    "feedback/statistics": "feedback/store/tables feedback/tasks",
    "feedback/chat": "feedback/store feedback/store/tables feedback/tasks",
    "feedback/export": "corpus corpus/export feedback/store feedback/store/tables feedback/tasks",
    # the web app: overview -> labeling -> training, chat apart, all of them on web; a job runs a command
    "studio": "feedback/chat feedback/store feedback/store/tables studio/chat studio/training studio/web",
    "studio/web": "corpus/containers feedback/store feedback/store/tables recipe",
    "studio/web/charts": "",
    "studio/chat": "feedback/chat feedback/store feedback/store/tables lm lm/sources objectives recipe rewards "
    "rewards/judges rollout studio/web",
    "studio/chat/endpoint": "feedback/store feedback/store/tables studio/chat studio/web",
    "studio/training": "cli cluster corpus corpus/rows evals experiments feedback/export feedback/store "
    "feedback/store/tables feedback/tasks objectives recipe rewards run studio/web studio/web/charts",
    "studio/training/sources": "corpus/mined feedback/export feedback/store feedback/store/tables studio/training "
    "studio/web",
    "studio/labeling": "corpus corpus/catalogue corpus/export corpus/formats corpus/rows feedback/export "
    "feedback/labelers feedback/statistics feedback/store feedback/store/tables feedback/tasks stages/agent "
    "studio/training studio/web studio/web/charts",
    "studio/overview": "feedback/chat feedback/labelers feedback/statistics feedback/store feedback/store/tables "
    "feedback/tasks studio/labeling studio/training studio/web studio/web/charts",
}

MOST_FILES = 14
"""A folder that holds more is divided by what a person would look for; `__init__.py` is not counted."""


@cache
def modules() -> dict[str, Path]:
    """Every module by its dotted name; a package's name stands for its `__init__.py`."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> Iterator[tuple[str, int, str]]:
    """The modules of ours that a file imports, wherever in it: their dotted name, the line, the name imported."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, alias.name) for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom) and node.module in modules():
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if whole in modules() else str(node.module)), node.lineno, alias.name


def room(path: Path) -> str:
    """The folder a file lies in; of the plain files of the house their own name."""
    inside = path.relative_to(SOURCE)
    return str(inside.parent) if len(inside.parts) > 1 else inside.stem


@cache
def arrows() -> dict[tuple[str, str], list[str]]:
    """Every import from one room into another, with where it stands."""
    found = defaultdict(list)
    for path in modules().values():
        for name, line, what in imported(path):
            here, there = room(path), room(modules()[name])
            if here != there:
                target = modules()[name].relative_to(SOURCE)
                found[here, there].append(f"{path.relative_to(SOURCE)}:{line} imports {what} from {target}")
    return dict(found)


def test_rooms_import_only_what_the_plan_allows() -> None:
    wrong = []
    for (here, there), places in arrows().items():
        if here in DOORS:
            continue
        ground = set() if here == "objectives" else GROUND
        allowed = ground | ({"__init__"} if here.startswith("studio") else set()) | set(PLAN.get(here, "").split())
        if there not in allowed:
            wrong += [f"{here} may not use {there}: {place}" for place in places]
    assert not wrong, "\n".join(wrong)


def test_the_plan_has_every_room_and_nothing_that_is_not_there() -> None:
    rooms = {room(path) for path in modules().values()} - GROUND - DOORS
    assert {*rooms, "feedback/store/migrations/versions"} == PLAN.keys()
    unused = [
        (here, there) for here, allowed in PLAN.items() for there in allowed.split() if (here, there) not in arrows()
    ]
    assert not unused, "the plan allows what nobody does"


def test_the_plan_has_no_circle() -> None:
    list(TopologicalSorter({here: set(allowed.split()) for here, allowed in PLAN.items()}).static_order())


def test_every_room_says_what_lives_there_and_what_does_not() -> None:
    for path in SOURCE.rglob("__init__.py"):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        said = [line for line in text.splitlines() if line.strip()]
        assert len(said) >= 2, (
            f"{path.relative_to(SOURCE)}: say in two or three lines what lives here and what must not"
        )


def test_no_room_is_crowded() -> None:
    count = {folder: len(list(folder.glob("*.py"))) - 1 for folder in {path.parent for path in modules().values()}}
    crowded = {str(folder.relative_to(SOURCE)): number for folder, number in count.items() if number > MOST_FILES}
    assert not crowded


def test_two_files_of_one_name_are_a_thing_and_its_page() -> None:
    """`studio/labeling/guidelines.py` shows `feedback/labelers/guidelines.py`; nothing else shares a name."""
    named = defaultdict(list)
    for name, path in modules().items():
        if path.name != "__init__.py":
            named[path.stem].append(name)
    for same in named.values():
        for one in same:
            uses = {name for name, _, _ in imported(modules()[one])}
            others = set(same) - {one}
            is_page = "studio/" in str(modules()[one].relative_to(SOURCE)) and others <= uses
            is_shown = all(one in {name for name, _, _ in imported(modules()[other])} for other in others)
            assert is_page or is_shown, f"{' and '.join(same)} have one name and are not a thing and its page"


def test_a_recipe_is_checked_without_torch() -> None:
    """Neither `import palate`, nor the help, nor reading a recipe waits for torch or the web."""
    code = """if True:
        import sys
        import palate, palate.cli
        from palate.recipe import load_recipe, PPORecipe
        palate.cli.build_parsers()
        load_recipe(PPORecipe, sys.argv[1])
        heavy = {"torch", "transformers", "numpy", "matplotlib", "fastapi", "sqlalchemy"} & sys.modules.keys()
        sys.exit(", ".join(sorted(heavy)) or 0)
    """
    recipe = SOURCE.parents[1] / "recipes" / "ppo.toml"
    ran = subprocess.run([sys.executable, "-c", code, str(recipe)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
