"""A workspace as one file, taken while people work in it, and a workspace out of that file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tarfile
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select
from tests.feedback.world import World
from tests.postgres import Server
from tests.studio.conftest import Client, ClientOf, Studio

from palate.cli import main
from palate.errors import DataError
from palate.feedback.store.tables import Job, Judgement, Model, User
from palate.studio.app import create_app
from palate.studio.backup import CHECKPOINTS, MANIFEST, backup, restore
from palate.studio.training import processes
from palate.studio.web.access import COOKIE
from palate.studio.web.workspace import Workspace


def quietly(_: str) -> None:
    """Say nothing."""


def files_of(directory: Path) -> dict[str, bytes]:
    """By name, but for the database's own."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.name.startswith("palate.db")
    }


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def lived_in(studio: Studio, client_of: ClientOf) -> Client:
    """A workspace with a run and somebody who is signed in."""
    home = studio.workspace.directory
    write(home / "runs" / "one" / "model" / "config.json", "{}")
    write(home / "runs" / "one" / CHECKPOINTS / "4" / "state.json", "[4]")
    write(home / "data" / "Ünicode \N{FOX FACE}.jsonl", "{}\n")
    (home / "runs" / "one" / "link").symlink_to("/etc/passwd")
    os.mkfifo(home / "runs" / "one" / "pipe")
    with studio.store.write() as session:
        session.add(Model(name="one", path="runs/one/model", created_at=1.0))
    return client_of("researcher", "Rae Example")


def test_a_workspace_comes_back_as_it_was(studio: Studio, lived_in: Client, tmp_path: Path) -> None:
    home, out, again = studio.workspace.directory, tmp_path / "taste.tar", tmp_path / "again"
    (home / "runs" / "one" / "model" / "config.json").chmod(0o640)
    made = backup(home, out, tell=quietly)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600, "it holds the secret"
    assert list(tmp_path.glob("*.partial")) == []
    assert restore(out, again, tell=quietly) == made.rows
    assert made.rows["users"] == 1
    assert sorted(made.left_out) == ["runs/one/link", "runs/one/pipe"]
    found = files_of(again)
    assert found == {name: text for name, text in files_of(home).items() if name != "runs/one/link"}
    assert made.files == len(found)
    assert {path.name for path in again.iterdir() if path.is_dir()} == {"recipes", "runs", "data"}
    for name in ("secret", "runs/one/model/config.json"):
        assert (again / name).stat().st_mode == (home / name).stat().st_mode
    workspace = Workspace(again)
    stranger = TestClient(create_app(workspace), cookies={COOKIE: lived_in.cookies[COOKIE]})
    assert "Rae Example" in stranger.get("/chat").text, "whoever was signed in still is"
    workspace.store.close()


def test_a_workspace_moves_to_another_database(
    studio: Studio, lived_in: Client, tmp_path: Path, postgres: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    out, again, back = tmp_path / "taste.tar", tmp_path / "again", tmp_path / "back"
    assert main(["backup", "--workspace", str(studio.workspace.directory), "--out", str(out)]) == 0
    with postgres.empty() as url:
        assert main(["restore", str(out), "--workspace", str(again), "--database", url]) == 0
        assert f"start it: palate studio --workspace {again}" in capsys.readouterr().out
        assert Workspace(again).settings == studio.workspace.settings.model_copy(update={"database": url})
        assert not list(again.glob("palate.db*"))
        backup(again, tmp_path / "second.tar", tell=quietly)
        restore(tmp_path / "second.tar", back, database="sqlite:///palate.db", tell=quietly)
    workspace = Workspace(back)
    with workspace.store.read() as session:
        assert session.scalars(select(User.name)).all() == ["Rae Example"]
    workspace.store.close()


def test_what_ran_then_is_not_this_workspaces_to_stop(studio: Studio, tmp_path: Path) -> None:
    """Restored beside the first, whose process is alive: to cancel the job here must not end it there."""
    me = processes.find(os.getpid())
    assert me is not None
    with studio.store.write() as session:
        for state in ("running", "queued", "done"):
            job = Job(name=state, stage="sft", recipe="", directory=f"runs/{state}", created_at=1.0, state=state)
            job.pid, job.process_started = (me.pid, me.started) if state == "running" else (None, None)
            session.add(job)
    backup(studio.workspace.directory, tmp_path / "taste.tar", tell=quietly)
    restore(tmp_path / "taste.tar", tmp_path / "again", tell=quietly)
    workspace = Workspace(tmp_path / "again")
    with workspace.store.read() as session:
        found = {job.name: job for job in session.scalars(select(Job))}
    workspace.store.close()
    assert {name: job.state for name, job in found.items()} == {"running": "failed", "queued": "queued", "done": "done"}
    ran = found["running"]
    assert (ran.pid, ran.process_started) == (None, None)
    assert ran.message.startswith("it ran when the backup was made; resume goes on")


def test_people_go_on_working_meanwhile(studio: Studio, tmp_path: Path) -> None:
    """What a backup has is what was there at one moment: judgements without a gap, and models with their files."""
    home, world, ended = studio.workspace.directory, World(studio.store), threading.Event()
    ann, bob = world.user("Ann"), world.user("Bob")
    many = world.batch(overlap=2)
    world.items(many, 60)
    acknowledged: list[int] = []

    def judge(user: User) -> None:
        while not ended.is_set() and (task := world.claim(user)) is not None:
            acknowledged.append(world.submit(task).number)

    def train() -> None:
        for number in range(200):
            if ended.is_set():
                return
            run = home / "runs" / f"run-{number}"
            write(run / CHECKPOINTS / "1" / "weights", "w" * 10_000)
            write(run / CHECKPOINTS / "1" / "state.json", "[1]")
            write(run / "model" / "config.json", str(number))
            world.add(Model(name=f"run-{number}", path=f"runs/run-{number}/model", created_at=float(number)))
            shutil.rmtree(run / CHECKPOINTS / "1")

    workers = [threading.Thread(target=judge, args=(user,)) for user in (ann, bob)] + [threading.Thread(target=train)]
    for worker in workers:
        worker.start()
    while len(acknowledged) < 5:
        assert any(worker.is_alive() for worker in workers)
    before = len(acknowledged)
    made = backup(home, tmp_path / "taste.tar", tell=quietly)
    ended.set()
    for worker in workers:
        worker.join()
    restore(tmp_path / "taste.tar", tmp_path / "again", tell=quietly)
    workspace = Workspace(tmp_path / "again")
    with workspace.store.read() as session:
        numbers = list(session.scalars(select(Judgement.number).order_by(Judgement.number)))
        paths = session.scalars(select(Model.path)).all()
    workspace.store.close()
    assert before <= len(numbers) == made.rows["judgements"]
    assert numbers == list(range(1, len(numbers) + 1))
    assert all((workspace.directory / path / "config.json").is_file() for path in paths)
    for checkpoint in workspace.runs.glob(f"*/{CHECKPOINTS}/*"):
        assert {path.name for path in checkpoint.iterdir()} == {"weights", "state.json"}


def test_half_a_checkpoint_is_left_out_and_told(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is taken away after its first file was read, and the one beside it that stays."""
    home = studio.workspace.directory
    for number in (4, 8):
        for name in ("a", "b"):
            write(home / "runs" / "one" / CHECKPOINTS / str(number) / name, f"{number}{name}")
    real = tarfile.TarFile.addfile

    def add(tar: tarfile.TarFile, info: tarfile.TarInfo, file: Any = None) -> None:
        real(tar, info, file)
        if info.name == f"runs/one/{CHECKPOINTS}/4/a":
            shutil.rmtree(home / "runs" / "one" / CHECKPOINTS / "4")

    monkeypatch.setattr(tarfile.TarFile, "addfile", add)
    said: list[str] = []
    made = backup(home, tmp_path / "taste.tar", tell=said.append)
    assert sorted(made.left_out) == [f"runs/one/{CHECKPOINTS}/4/{name}" for name in ("a", "b")]
    assert any(line.startswith("left out, being gone or no plain file: runs/one") for line in said)
    restore(tmp_path / "taste.tar", tmp_path / "again", tell=quietly)
    assert [path.name for path in (tmp_path / "again" / "runs" / "one" / CHECKPOINTS).iterdir()] == ["8"]


def test_what_a_row_speaks_of_is_there(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every file that is read another model appears, in a folder that may have been passed already."""
    world, real = World(studio.store), tarfile.TarFile.addfile

    def add(tar: tarfile.TarFile, info: tarfile.TarInfo, file: Any = None) -> None:
        real(tar, info, file)
        if info.name != MANIFEST:
            name = info.name.replace("/", "-")
            write(studio.workspace.data / name / "config.json", "{}")
            world.add(Model(name=name, path=f"data/{name}", created_at=1.0))

    monkeypatch.setattr(tarfile.TarFile, "addfile", add)
    backup(studio.workspace.directory, tmp_path / "taste.tar", tell=quietly)
    monkeypatch.undo()
    restore(tmp_path / "taste.tar", tmp_path / "again", tell=quietly)
    workspace = Workspace(tmp_path / "again")
    with workspace.store.read() as session:
        paths = session.scalars(select(Model.path)).all()
    workspace.store.close()
    assert [path for path in paths if not (workspace.directory / path / "config.json").is_file()] == []


def test_a_file_that_grows_is_kept_as_it_was(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = studio.workspace.runs / "one" / "metrics.jsonl"
    write(metrics, "{}\n")
    real = tarfile.TarFile.addfile

    def add(tar: tarfile.TarFile, info: tarfile.TarInfo, file: Any = None) -> None:
        if info.name.endswith("metrics.jsonl"):
            metrics.write_text("{}\n{}\n")
        real(tar, info, file)

    monkeypatch.setattr(tarfile.TarFile, "addfile", add)
    backup(studio.workspace.directory, tmp_path / "taste.tar", tell=quietly)
    restore(tmp_path / "taste.tar", tmp_path / "again", tell=quietly)
    assert (tmp_path / "again" / "runs" / "one" / "metrics.jsonl").read_text() == "{}\n"


def test_a_torn_or_damaged_archive_makes_nothing(studio: Studio, lived_in: Client, tmp_path: Path) -> None:
    out, again = tmp_path / "taste.tar", tmp_path / "again"
    backup(studio.workspace.directory, out, tell=quietly)
    whole = out.read_bytes()
    with tarfile.open(out) as tar:
        secret = tar.getmember("secret").offset_data
        last = tar.getmembers()[-1]
    for torn in (
        b"",
        b"no archive",
        whole[:512],
        whole[: len(whole) // 2],
        whole[: last.offset],
        whole[: last.offset + 700],
    ):
        out.write_bytes(torn)
        with pytest.raises(DataError, match="this is no whole backup"):
            restore(out, again, tell=quietly)
    out.write_bytes(whole[:secret] + bytes([whole[secret] ^ 1]) + whole[secret + 1 :])
    with pytest.raises(DataError, match="secret in it is damaged"):
        restore(out, again, tell=quietly)
    with pytest.raises(DataError, match="no such file"):
        restore(tmp_path / "nowhere.tar", again, tell=quietly)
    assert [path for path in tmp_path.iterdir() if path.name not in ("taste.tar", "workspace")] == []


@pytest.mark.parametrize("name", ["../outside", "/tmp/palate-outside", "runs/../../outside"])
def test_an_archive_cannot_write_elsewhere(tmp_path: Path, name: str) -> None:
    """Neither by a name that its manifest has, nor by one that it does not."""
    for listed in (True, False):
        said = {
            "palate": "1",
            "revision": "0001",
            "made": "",
            "files": {name: hashlib.sha256(b"x").hexdigest()} if listed else {},
        }
        with tarfile.open(tmp_path / "evil.tar", "w") as tar:
            for member, text in ((name, b"x"), (MANIFEST, json.dumps(said).encode())):
                info = tarfile.TarInfo(member)
                info.size = len(text)
                tar.addfile(info, BytesIO(text))
        with pytest.raises(DataError):
            restore(tmp_path / "evil.tar", tmp_path / "inside" / "again", tell=quietly)
        assert not (tmp_path / "outside").exists()
        assert not (tmp_path / "inside" / "outside").exists()
        assert not Path("/tmp/palate-outside").exists()


def test_a_backup_that_fails_leaves_no_file(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("palate.studio.backup._leave_out_torn", full)
    with pytest.raises(OSError, match="No space"):
        backup(studio.workspace.directory, tmp_path / "out" / "taste.tar", tell=quietly)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_cannot_be_is_one_clear_line(
    studio: Studio, lived_in: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, out = str(studio.workspace.directory), tmp_path / "taste.tar"
    assert main(["backup", "--workspace", home, "--out", str(out)]) == 0
    capsys.readouterr()
    for argv, said in (
        (["backup", "--workspace", home, "--out", str(out)], "taste.tar: is there already: give another --out"),
        (["backup", "--workspace", str(tmp_path / "x"), "--out", str(tmp_path / "y")], "make one with `palate init"),
        (["restore", str(out), "--workspace", home], "there is something here already: give an empty --workspace"),
        (["restore", str(out), "--workspace", str(tmp_path / "x"), "--database", "mysql://h/n"], "the database is"),
    ):
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert not (tmp_path / "x").exists()
    with studio.store.read() as session:
        assert session.scalar(select(func.count()).select_from(User)) == 1


def test_another_versions_database_is_not_guessed_at(studio: Studio, tmp_path: Path) -> None:
    with studio.store.write() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DataError, match="another version of Palate made this database"):
        backup(studio.workspace.directory, tmp_path / "taste.tar", tell=quietly)
