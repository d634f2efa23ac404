"""Every package that the source imports, also lazily, is declared, and where an extra is needed it is that room's.

What an extra's files do is tried with that extra alone: in an environment that links to the base's packages, to the
extra's, to what these require by their own account, and to nothing else.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, packages_distributions
from importlib.metadata import distribution as installed
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "palate"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

EXTRAS = {
    "feedback": "studio",
    "studio": "studio",
    "corpus/containers/tables.py": "parquet",
    "run/trackers.py": "tensorboard",
    "lm/optim.py": "bitsandbytes",
    "cluster/joining.py": "ray",
    "cluster/on_ray.py": "ray",
    "cluster/keeper.py": "ray",
    "stages/agent/environments.py": "gym",
    "evals/asking/harness_adapter.py": "lm-eval",
}
"""Where an extra's packages may be imported. PostgreSQL's driver is named in a URL and never imported."""
ON_RAY = {"cluster/joining.py", "cluster/on_ray.py"}
"""Files that import their extra at once; they are imported where they are needed."""

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
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                names = [ast.literal_eval(arg) for arg in node.args if isinstance(arg, ast.Constant)]
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


def test_every_room_of_an_extra_is_there() -> None:
    assert all((SOURCE / place).exists() for place in EXTRAS)
    assert {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py")} >= CORE_INSIDE


def test_nothing_is_declared_that_nobody_needs() -> None:
    used = set().union(*third_party().values())
    core = {distribution(each) for each in PROJECT["dependencies"]}
    assert core - used == set()


HELPERS = """if True:
    import sys
    from importlib import import_module
    from pathlib import Path
    from palate import cli
    from palate.errors import MissingExtraError

    def missing(call):
        try:
            call()
        except MissingExtraError as error:
            return str(error)
        return "nothing is missing"

    def in_eight_bits():
        import torch
        from palate.lm.optim import Optimizer
        from palate.recipe import Optimizer as Settings
        module = torch.nn.Linear(64, 64)
        optimizer = Optimizer(module, Settings(state_bits=8), 1, name="policy")
        module(torch.ones(1, 64)).sum().backward()
        optimizer.step(0)
        return optimizer.state_dict()

    def an_environment():
        from palate.stages.agent.environments import Environments
        return Environments("Pendulum-v1", 1, seed=0, purpose="a look")
"""

WITH = {
    "": """if True:
        from palate.corpus.containers.tables import parquet_rows
        from palate.run.trackers import TensorBoard
        for name in BASE:
            import_module(name)
        assert "palate[parquet]" in missing(lambda: list(parquet_rows(None, Path("a.parquet"))))
        assert "palate[tensorboard]" in missing(lambda: TensorBoard(Path("board")))
        assert "palate[bitsandbytes]" in missing(in_eight_bits)
        assert "palate[gym]" in missing(an_environment)
        from palate.arguments import imported_extra
        assert "palate[ray]" in missing(lambda: imported_extra("palate.cluster.on_ray", "OnRay", extra="ray"))
        from palate.evals.asking.harness_adapter import PalateLM
        assert "palate[lm-eval]" in missing(lambda: PalateLM("tiny"))
        for command in (["init", "taste"], ["studio"]):
            assert cli.main(command) == 2
        assert not list(Path().iterdir())
    """,
    "bitsandbytes": """if True:
        import torch
        assert in_eight_bits()["state1/weight"].dtype == torch.uint8
    """,
    "gym": """if True:
        assert an_environment().observations.shape == (1, 3)
    """,
    "lm-eval": """if True:
        from palate.evals.asking.harness_adapter import PalateLM
        from lm_eval.api.registry import get_model
        assert get_model("palate") is PalateLM
    """,
    "parquet": """if True:
        import pyarrow, pyarrow.parquet
        from palate.corpus.containers.tables import parquet_rows
        pyarrow.parquet.write_table(pyarrow.table({"prompt": ["p"]}), "a.parquet")
        with open("a.parquet", "rb") as file:
            assert [row.fields for row in parquet_rows(file, Path("a.parquet"))] == [{"prompt": "p"}]
    """,
    "ray": """if True:
        from palate.cluster import on_ray
    """,
    "tensorboard": """if True:
        from palate.run.trackers import TensorBoard
        board = TensorBoard(Path("board"))
        board.log(0, {"objective/kl": 1.0})
        board.text(0, [{"response": "yes"}])
        board.close()
        assert len(list(Path("board").glob("events.*"))) == 1
    """,
    "studio": """if True:
        from palate.feedback.store.database import Store
        for name in STUDIO:
            import_module(name)
        assert cli.main(["init", "taste"]) == 0
        assert "palate[postgres]" in missing(lambda: Store("postgresql+psycopg://ann@127.0.0.1/palate"))
    """,
    "postgres": """if True:
        from palate.feedback.store.database import Store
        assert Store("postgresql+psycopg://ann@127.0.0.1/palate").engine.driver == "psycopg"
    """,
}
"""What must work in an environment with one extra, the base's alone first; run in an empty directory."""


def modules(*rooms: str, outside: bool = False) -> list[str]:
    """The dotted names of the files in these rooms, or of all the others. What starts a program is left out."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        inside = path.relative_to(SOURCE)
        starts = inside.name == "__main__.py" or "migrations" in inside.parts  # Alembic runs these in a context
        starts |= str(inside) in ON_RAY
        if not starts and (inside.parts[0] in rooms) != outside:
            found.append(".".join(["palate", *inside.with_suffix("").parts]).removesuffix(".__init__"))
    return found


def needed(requirements: Iterable[str], extras: Iterable[str] = ()) -> set[str]:
    """The names of the distributions that these bring, and what they require in turn."""
    found: set[str] = set()
    todo = [(requirement, tuple(extras)) for requirement in requirements]
    seen = set()
    while todo:
        text, active = todo.pop()
        requirement = Requirement(text)
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *active)):
            continue
        name, chosen = distribution(requirement.name), tuple(sorted(requirement.extras))
        if (name, chosen) in seen:
            continue
        seen.add((name, chosen))
        if name == "palate":
            todo += [(each, ()) for extra in chosen for each in PROJECT["optional-dependencies"][extra]]
            continue
        found.add(name)
        try:
            todo += [(each, chosen) for each in installed(name).requires or []]
        except PackageNotFoundError:
            raise AssertionError(f"{name} is not installed: make test") from None
    return found


def link(names: Iterable[str], directory: Path) -> None:
    """An environment of links to these distributions."""
    for name in names:
        for file in installed(name).files or []:
            top = file.parts[0]
            if top != ".." and not (directory / top).exists():
                (directory / top).symlink_to(Path(str(installed(name).locate_file(top))))


@pytest.mark.parametrize("extra", WITH)
def test_an_extra_is_enough_for_its_files(extra: str, tmp_path: Path) -> None:
    if extra == "lm-eval":
        pytest.importorskip("lm_eval", reason="an environment of its own: see tests/evals/asking/test_in_lm_eval.py")
    packages, place = tmp_path / "packages", tmp_path / "place"
    packages.mkdir()
    place.mkdir()
    own = PROJECT["optional-dependencies"][extra] if extra else []
    link(needed([*PROJECT["dependencies"], *own]), packages)
    lists = f"BASE = {modules('feedback', 'studio', outside=True)}; STUDIO = {modules('feedback', 'studio')}\n"
    done = subprocess.run(
        [sys.executable, "-S", "-c", lists + HELPERS + "\n" + WITH[extra]],
        cwd=place,
        env={"PYTHONPATH": f"{packages}:{SOURCE.parent}", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if not extra:
        assert len(done.stderr.splitlines()) == 2, done.stderr
        assert all("run `pip install 'palate[studio]'`" in line for line in done.stderr.splitlines())


def test_every_extra_is_tried() -> None:
    assert {*WITH, "dev"} - {""} == PROJECT["optional-dependencies"].keys()
