"""The public names, and that naming them costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import palate

PUBLIC = {
    "Candidates",
    "Demonstration",
    "Message",
    "PalateError",
    "Prompt",
    "Ranking",
    "Response",
    "Run",
    "__version__",
    "load_recipe",
}


def test_public_names_are_pinned() -> None:
    assert set(palate.__all__) == PUBLIC
    assert len(PUBLIC) <= 20
    assert set(dir(palate)) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(palate, name) is not None


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'palate' has no attribute 'Trainer'"):
        palate.Trainer  # noqa: B018


def test_errors_are_one_tree() -> None:
    from palate import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert all(issubclass(kind, palate.PalateError) for kind in kinds)
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in kinds)


def test_import_brings_in_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "pydantic", "numpy", "rich"}
    code = f"import palate, palate.cli, sys; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
