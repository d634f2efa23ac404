"""The documentation names only what there is: links, commands, recipe keys, metrics, imports, files."""

from __future__ import annotations

import argparse
import ast
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from palate import recipe
from palate.cli import build_parsers
from palate.commands import STAGES, stage_meant
from palate.run.metrics import METRICS, explain

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "palate"
WRITTEN = ROOT / "docs" / "reference"  # from the code, and tested by `test_reference.py`
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
RECIPES = {path.name for path in (ROOT / "recipes").glob("*.toml")}
HANDMADE = [name for name in PAGES if not (ROOT / name).is_relative_to(WRITTEN)]
by_page = pytest.mark.parametrize("page", HANDMADE)
PARSERS = cache(build_parsers)


class Block(NamedTuple):
    """A fenced block of code."""

    language: str
    text: str


def blocks(page: str, *languages: str) -> list[Block]:
    found = [Block(*match) for match in re.findall(r"^```(\w*)\n(.*?)^```$", PAGES[page], flags=re.M | re.S)]
    return [block for block in found if not languages or block.language in languages]


def prose(page: str) -> str:
    return re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.M | re.S)


def commands(page: str) -> Iterator[list[str]]:
    """The arguments of every ``palate`` command line in a fenced block."""
    for block in blocks(page, "sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # variables of the environment
                words.pop(0)
            if words and words[0] == "palate":
                yield words[1:]


def slug(heading: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def parse(tokens: list[str]) -> tuple[str, argparse.Namespace]:
    """The command's name and what the real parser makes of its arguments; nothing is run."""
    parsers = PARSERS()
    args, unknown = parsers[""].parse_known_args(tokens)
    assert not unknown, f"palate {shlex.join(tokens)}: unknown {unknown}"
    return next(name for name, parser in parsers.items() if parser is args.parser), args


@pytest.mark.parametrize("page", PAGES)
def test_links_and_images_resolve(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page} links to {target}, which is not there"
        assert file.resolve().is_relative_to(ROOT), f"{page} links out of the repository: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), flags=re.M)
            assert anchor in map(slug, headings), f"{page} links to {target}: no such heading"


def test_every_page_is_listed() -> None:
    index = ROOT / "docs" / "index.md"
    listed = {(index.parent / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", index.read_text())}
    assert {ROOT / name for name in PAGES} - {index} == listed


@by_page
def test_commands_parse_and_their_settings_are_keys(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = {stage.name: getattr(recipe, stage.recipe) for stage in STAGES}
    kinds |= {"rounds": recipe.RoundsRecipe, "agent": recipe.AgentRecipe}
    for tokens in commands(page):
        try:
            name, args = parse(tokens)
        except SystemExit:
            pytest.fail(f"palate {shlex.join(tokens)}: {capsys.readouterr().err}")
        if name in kinds and args.recipe.parts[0] == "recipes":
            tree = recipe.read_tree(ROOT / args.recipe, args.set)
            named = stage_meant(name, tree).name if name in {stage.name for stage in STAGES} else name
            recipe.parse_recipe(kinds[named], tree)


@by_page
def test_commands_named_in_prose_exist(page: str) -> None:
    for span in re.findall(r"`palate ([a-z][^`]*)`", prose(page)):
        words = span.split()
        assert words[0] in PARSERS(), f"{page} speaks of `palate {span}`"
        if words[0] == "data" and len(words) > 1:
            assert f"data {words[1]}" in PARSERS(), f"{page} speaks of `palate {span}`"


def test_every_command_is_shown() -> None:
    shown = {parse(tokens)[0] for page in HANDMADE for tokens in commands(page)}
    in_prose = {span for page in HANDMADE for span in re.findall(r"`palate ([a-z-]+)`", prose(page))}
    assert set(PARSERS()) - {"", "data"} <= shown | in_prose


@by_page
def test_recipes_exist(page: str) -> None:
    named = re.findall(r"\brecipes/([\w.-]+\.toml)", PAGES[page])
    assert set(named) <= RECIPES, f"{page} names recipes that are not there"


def test_every_recipe_is_named() -> None:
    assert {name for page in PAGES.values() for name in re.findall(r"\brecipes/([\w.-]+\.toml)", page)} == RECIPES


@by_page
def test_metrics_exist(page: str) -> None:
    groups = {name.partition("/")[0] for name in METRICS}
    spans = re.findall(r"`([\w/]+)`", prose(page))
    for span in spans:
        if span.partition("/")[0] in groups and "/" in span and not span.endswith("/"):
            assert explain(span) is not None, f"{page} speaks of {span}, which is no metric"


@by_page
def test_tables_of_settings_are_toml(page: str) -> None:
    for block in blocks(page, "toml"):
        tomllib.loads(block.text)


@by_page
def test_python_imports_what_there_is(page: str) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "palate":
                defined = definitions(node.module or "")
                assert {alias.name for alias in node.names} <= defined, f"{page}: {ast.unparse(node)}"


def definitions(module: str) -> set[str]:
    """The names at the top of one of our modules, which is not imported."""
    path = SOURCE.parent / module.replace(".", os.sep)
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("page", [name for name in HANDMADE if name != "docs/log.md"])
def test_source_files_named_in_prose_exist(page: str) -> None:
    """But for the log, which tells of what is no longer there."""
    ours = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py")}
    beside = {
        path.relative_to(ROOT).as_posix() for name in ("scripts", "benchmarks") for path in (ROOT / name).glob("*.py")
    }
    beside |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    names = ours | {Path(name).name for name in ours} | {"rank.py", "tastes.py"} | beside
    for span in re.findall(r"`((?:\w+/)*\w+\.py)`", prose(page)):
        assert span in names, f"{page} names {span}, which is not there"


OPEN_ROOMS = ("objectives", "stages", "stages/own_samples", "stages/reinforcement", "rewards", "rollout")
"""The rooms a newcomer reads first: README names every file of theirs, and of the others the room alone."""


def test_the_tree_has_every_room_and_the_files_of_those_read_first() -> None:
    tree = next(block for block in blocks("README.md", "text") if block.text.startswith("src/palate/"))
    inside = tree.text.split("recipes/  ")[0].splitlines()[1:]
    room, rooms, files = "", set(), set()
    for line in inside:
        name, *told = line.split()
        assert told, f"say what {name} is"
        if line.startswith("    "):
            files.add(f"{room}{name}")
        elif name.endswith("/"):
            room = name
            rooms.add(name.rstrip("/"))
        else:
            assert (SOURCE / name).exists(), name
    assert rooms == {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert files == {f"{name}/{path.name}" for name in OPEN_ROOMS for path in (SOURCE / name).glob("[!_]*.py")}
