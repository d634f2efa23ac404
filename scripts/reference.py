"""Write docs/reference from the code. With --check, fail if what is there is stale."""

from __future__ import annotations

import ast
import inspect
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import palate
from palate import recipe
from palate.cli import build_parsers
from palate.commands import STAGES
from palate.corpus.catalogue.all_formats import FORMATS
from palate.corpus.catalogue.format import KIND_NAMES, Format
from palate.corpus.export import EXPORTERS
from palate.corpus.formats import sides
from palate.corpus.rows import verdicts
from palate.lm.families import FAMILIES
from palate.run.metrics import METRICS

ROOT = Path(__file__).resolve().parent.parent / "docs" / "reference"
SOURCE = Path(palate.__file__).parent
_NOTE = "<!-- Written by scripts/reference.py from the code; run `make docs` after a change. -->\n"
_GROUPS = {
    "objective": "The objective",
    "overoptimization": "Over-optimisation",
    "policy": "The policy's update",
    "sampler": "The sampler against the trainer",
    "value": "The value model's update",
    "pretrain": "Pretraining",
    "sft": "Supervised fine-tuning",
    "reward": "The reward model's training",
    "dpo": "Direct preference optimisation",
    "kto": "Kahneman-Tversky optimisation",
    "raft": "Reward-ranked fine-tuning",
    "distill": "Distillation",
    "judge": "Comparisons by a model",
    "revise": "Critique and revision",
    "endpoint": "A model that runs elsewhere",
    "agent": "An agent in an environment",
    "labels": "Comparisons of clips",
    "data": "Data",
    "tokens": "Tokens",
    "time": "Time",
}


def pages() -> dict[str, str]:
    """File name -> content."""
    return {name: _NOTE + "\n" + text for name, text in _texts().items()}


def stale() -> list[str]:
    """Names of pages that are not what the code says."""
    return [name for name, text in pages().items() if not (ROOT / name).exists() or (ROOT / name).read_text() != text]


def _texts() -> dict[str, str]:
    return {
        "commands.md": _commands(),
        "recipes.md": _recipes(),
        "metrics.md": _metrics(),
        "formats.md": _formats(),
        "files.md": _files(),
        "models.md": _models(),
    }


def _commands() -> str:
    parts = ["# Commands\n"]
    with patch.dict(os.environ, COLUMNS="100"):  # argparse breaks lines at the width of the terminal
        for name, parser in build_parsers().items():
            parts.append(f"## `{f'palate {name}'.strip()}`\n\n```text\n{parser.format_help().rstrip()}\n```\n")
    return "\n".join(parts)


def _formats() -> str:
    """What is read and what is written, by name, and the words of judgement."""
    read = [f"| `{each.name}` | {_cell(each.shape)} | {_kinds(each)} |" for each in FORMATS.values()]
    written = [f"| `{each.name}` | {_cell(each.shape)} |" for each in EXPORTERS.values()]
    return "\n".join(
        [
            "# Formats\n",
            "A file's format is recognised by its columns and by what stands in them; `--format` names it. [Your own "
            "data](../guides/own-data.md) says how to name columns and explain judgements.\n",
            "## Read\n",
            "| name | columns | gives |",
            "|---|---|---|",
            *read,
            "\n## Words of judgement\n",
            f"```text\n{(verdicts.__doc__ or '').rstrip()}\n```",
            "\n## Columns of responses side by side\n",
            f"```text\n{(sides.__doc__ or '').rstrip()}\n```",
            "\n## Written\n",
            "| name | columns |",
            "|---|---|",
            *written,
            "",
        ]
    )


def _kinds(found: Format) -> str:
    return ", ".join(KIND_NAMES[kind] for kind in found.parsers)


def _recipes() -> str:
    """A table for every stage, then one for every section that they share."""
    parts = [
        "# Recipes\n",
        "A recipe is a TOML file. `--set a.b=value` replaces one key; an unknown key is refused. Sections such as "
        "`[optimizer]` are described once, below the stages.\n",
    ]
    for name, kind in _kinds_of_recipes().items():
        parts.append(f"## {name}\n\n{inspect.getdoc(kind)}\n\n" + _table(kind))
    parts.append("## Sections\n")
    parts.extend(
        f"### {name}\n\n{inspect.getdoc(kind)}\n\n" + _table(kind) for name, kind in sorted(_sections().items())
    )
    return "\n".join(parts)


def _kinds_of_recipes() -> dict[str, type[recipe.Section]]:
    """By the command that takes them, as a heading."""
    others = {"rounds": recipe.RoundsRecipe, "compare": recipe.CompareRecipe, "agent": recipe.AgentRecipe}
    others['repeat`, `stage = "demo"'] = recipe.DemoRecipe
    stages = {
        f'`palate {stage.command}`, `stage = "{stage.name}"`' if stage.command else f"`palate {stage.name}`": getattr(
            recipe, stage.recipe
        )
        for stage in STAGES
    }
    return stages | {f"`palate {name}`": kind for name, kind in others.items()}


def _sections() -> dict[str, type[recipe.Section]]:
    """The sections that recipes are made of, by name."""
    names = {name for kind in _kinds_of_recipes().values() for name in kind.model_json_schema().get("$defs", {})}
    return {name: getattr(recipe, name) for name in names if hasattr(recipe, name)}


def _table(kind: type[recipe.Section]) -> str:
    schema = kind.model_json_schema()
    required = schema.get("required", [])
    rows = ["| key | type | default | |", "|---|---|---|---|"]
    for key, field in schema["properties"].items():
        if key != "stage":
            default = "required" if key in required else _default(field, schema.get("$defs", {}))
            rows.append(f"| `{key}` | {_type(field)} | {default} | {_cell(field.get('description', ''))} |")
    return "\n".join(rows) + "\n"


def _type(field: dict[str, Any]) -> str:
    """A JSON schema type in words."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"] if option.get("type") != "null")
    if "enum" in field:
        return ", ".join(f'`"{value}"`' for value in field["enum"])
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    if field["type"] == "object":
        return "table"
    names = {"string": "text", "boolean": "true or false", "integer": "whole number", "number": "number"}
    return " ".join([names[field["type"]], *_limits(field)])


def _limits(field: dict[str, Any]) -> Iterator[str]:
    signs = {"exclusiveMinimum": "&gt;", "minimum": "≥", "exclusiveMaximum": "&lt;", "maximum": "≤"}
    limits = [f"{sign} {field[key]:g}" for key, sign in signs.items() if key in field]
    yield from [", ".join(limits)] if limits else []


def _default(field: dict[str, Any], sections: dict[str, Any]) -> str:
    """The default as TOML; of a section what differs from the section's own defaults."""
    default = field.get("default")
    if default is None:
        return "absent"
    if isinstance(default, dict) and "$ref" in field:
        own = sections[field["$ref"].rpartition("/")[2]]["properties"]
        changed = [f"{key} = {json.dumps(value)}" for key, value in default.items() if value != own[key].get("default")]
        return ", ".join(f"`{change}`" for change in changed)
    return f"`{json.dumps(default)}`"


def _metrics() -> str:
    parts = [
        "# Metrics\n",
        "Every number in `metrics.jsonl`. Unless said otherwise a metric is a mean over the step's batch and all of "
        "its updates, a KL or entropy is in nats, and a time is in seconds.\n",
    ]
    for group, title in _GROUPS.items():
        rows = [f"| `{name}` | {_cell(text)} |" for name, text in METRICS.items() if name.startswith(f"{group}/")]
        parts.append(f"## {title}\n\n| metric | meaning |\n|---|---|\n" + "\n".join(rows) + "\n")
    left = [name for name in METRICS if name.partition("/")[0] not in _GROUPS]
    assert not left, f"name a group for {', '.join(left)} in scripts/reference.py"
    return "\n".join(parts)


def _models() -> str:
    """Which families of models run in Palate's own network."""
    rows = [f"| {each.models} | `{name}` | {each.peculiarities} |" for name, each in FAMILIES.items()]
    return "\n".join(
        [
            "# Models\n",
            "These families run in Palate's own network, with [shared prompts and frozen trunks]"
            "(../concepts/shared-prompts-and-trunk.md): their numbers are those of transformers, and what is written "
            "loads there. `model_type` stands in a model's `config.json`.\n",
            "| models | `model_type` | what it has besides Llama's |",
            "|---|---|---|",
            *rows,
            "",
            "Every other causal language model runs through transformers' own code, and so does a model of one of "
            "these families whose config asks for something else: a rotary embedding that depends on the length of the "
            "batch (`dynamic`, `longrope`), another activation, mixtures of experts, quantised weights. Loading it "
            "says which. It trains and samples the same numbers, without the shared computation.\n",
        ]
    )


def _files() -> str:
    """Every room with what its docstring says of it, and each of its files with the first line of its own."""
    parts = [
        "# Files\n",
        "Every file of `src/palate`, room by room. Which room may import which is written down in "
        "`tests/test_rooms.py`, and held there.\n",
    ]
    for folder in sorted({path.parent for path in SOURCE.rglob("*.py")} - {SOURCE / "feedback/store/migrations"}):
        files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        rows = [f"| `{path.name}` | {_cell(_first_line(path))} |" for path in files]
        title = "palate" if folder == SOURCE else f"{folder.relative_to(SOURCE)}/"
        about = _first_line(folder / "__init__.py") if (folder / "__init__.py").exists() else "Versions of the tables."
        table = "| file | |\n|---|---|\n" + "\n".join(rows) + "\n" if rows else ""
        parts.append(f"## {title}\n\n{about}\n\n{table}")
    return "\n".join(parts)


def _first_line(path: Path) -> str:
    """What a module says of itself, up to the first empty line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """Write the pages, or with --check say which are stale."""
    if "--check" in sys.argv[1:]:
        names = stale()
        print("\n".join(f"docs/reference/{name} is stale: run `make docs`" for name in names))
        return 1 if names else 0
    ROOT.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (ROOT / name).write_text(text)
        print(f"docs/reference/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
