"""Every package that the source imports, also lazily, is declared, and where an extra is needed it is that room's."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import defaultdict
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "palate"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

EXTRAS = {
    "feedback": "studio",
    "studio": "studio",
    "corpus/files.py": "parquet",
    "run/trackers.py": "tensorboard",
}
"""Where an extra's packages may be imported. PostgreSQL's driver is named in a URL and never imported."""

CORE_INSIDE = {"feedback/statistics/pairwise_agreement.py", "feedback/statistics/coefficients.py"}
"""Files of these rooms that training uses: they do without the extra."""


def distribution(requirement: str) -> str:
    """``palate[studio]>=1`` -> ``palate``, as package indexes spell it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement)[0]).lower()


def third_party() -> dict[str, set[str]]:
    """The distributions that each file imports."""
    homes = packages_distributions()
    found = defaultdict(set)
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"palate", ""}:
                found[str(path.relative_to(SOURCE))].add(distribution(homes.get(top, [top])[0]))
    return found


def test_every_import_is_declared_where_it_is_needed() -> None:
    core = {distribution(each) for each in PROJECT["dependencies"]}
    extras = {name: {distribution(each) for each in group} for name, group in PROJECT["optional-dependencies"].items()}
    missing = []
    for file, packages in third_party().items():
        extra = "" if file in CORE_INSIDE else next((EXTRAS[room] for room in EXTRAS if file.startswith(room)), "")
        for package in packages - core - extras.get(extra, set()):
            missing.append(f"{file} imports {package}: declare it" + (f" in [{extra}]" if extra else ""))
    assert not missing, "\n".join(sorted(missing))


def test_nothing_is_declared_that_nobody_needs() -> None:
    used = set().union(*third_party().values())
    core = {distribution(each) for each in PROJECT["dependencies"]}
    assert core - used == set()
