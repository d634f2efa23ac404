"""`palate backup` and `palate restore`: a workspace as one file, taken while people work in it.

The database is read in one transaction, so that it is what it was at one moment; files are read after it. Everything a
row speaks of was written before the row, so nothing that the database of a backup names is missing from its files. What
is newer than the database is superfluous at worst.

A file may vanish or grow while it is read: what was there when it was looked at is kept. A checkpoint that is taken
away in the middle is left out whole, since half of one is none.

The archive is a tar file. Its last member lists the others with their SHA-256; nothing that is not listed is restored,
and an archive without it is torn.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import tomli_w
from pydantic import BaseModel, ValidationError
from sqlalchemy import update

import palate
from palate.errors import DataError
from palate.feedback.store import dumping
from palate.feedback.store.dumping import Dump
from palate.feedback.store.tables import Job
from palate.studio.web import workspace as workspaces
from palate.studio.web.workspace import CONFIG, Workspace

MANIFEST = "backup.json"
TABLES = "database"
CHECKPOINTS = "checkpoints"
RAN = "it ran when the backup was made; resume goes on from the checkpoint that was kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a backup holds.

    Attributes:
        rows: of the database, by table.
        files: how many there are, and ``num_bytes`` of them.
        left_out: files that vanished while they were read and what belonged to them, links, pipes and the like.
    """

    rows: dict[str, int]
    files: int
    num_bytes: int
    left_out: list[str]


class Manifest(BaseModel):
    """What stands in an archive.

    Attributes:
        palate: the version that wrote it.
        made: when, as people read it.
        revision: the migration that the tables were at.
        files: SHA-256 of each member.
    """

    palate: str
    made: str
    revision: str
    files: dict[str, str]


@dataclass(slots=True)
class _Archive:
    """A tar file being written, and what is in it."""

    tar: tarfile.TarFile
    hashes: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    num_bytes: int = 0

    def add(self, name: str, file: BinaryIO, size: int, *, mode: int, modified: float) -> None:
        """Exactly ``size`` bytes of a file that may have grown meanwhile."""
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = size, mode & 0o777, int(modified)
        reading = _Hashing(file)
        self.tar.addfile(info, reading)
        self.hashes[name] = reading.digest.hexdigest()
        self.num_bytes += size


class _Hashing:
    """A file whose bytes are hashed as they are read."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        read = self.file.read(size)
        self.digest.update(read)
        return read


def backup(directory: Path, out: Path, *, tell: Callable[[str], None] = print) -> Made:
    """Write a workspace into one file, which appears when it is whole.

    Raises:
        DataError: no workspace there, another version made its database, or the file exists.
    """
    workspace = Workspace(directory)
    if out.exists():
        raise DataError("is there already: give another --out", path=out)
    if not workspace.store.is_current():
        raise DataError(
            "another version of Palate made this database: make the backup with that one, or start this one's studio"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.partial")
    try:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)  # it holds the workspace's secret
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                made = _write(workspace, _Archive(tar), skip={partial.resolve(), out.resolve()})
            file.flush()
            os.fsync(file.fileno())
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
        workspace.store.close()
    tell(f"{out}: {sum(made.rows.values()):,} rows, {made.files:,} files, {made.num_bytes / 1e6:,.1f} MB")
    if made.left_out:
        tell(f"left out, being gone or no plain file: {', '.join(made.left_out)}")
    tell("It holds the workspace's secret and people's texts: keep it where nobody else reads.")
    return made


def restore(
    archive: Path, directory: Path, *, database: str | None = None, tell: Callable[[str], None] = print
) -> dict[str, int]:
    """Make a workspace again from what `backup` wrote.

    Args:
        database: where its rows go, if not to where the workspace says; empty, and of either kind.

    Returns:
        How many rows each table got.

    Raises:
        DataError: the archive is torn or is none, or there is something where the workspace goes already.
    """
    if directory.exists() and any(directory.iterdir()):
        raise DataError("there is something here already: give an empty --workspace", path=directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        said = _unpack(archive, partial)
        tables = {path.stem: path for path in sorted((partial / TABLES).glob("*.jsonl"))}
        _settle(partial, database)
        workspace = Workspace(partial)
        rows = dumping.restore(workspace.store, said.revision, {name: _lines(path) for name, path in tables.items()})
        _end_jobs(workspace)
        workspace.store.close()
        shutil.rmtree(partial / TABLES, ignore_errors=True)
        if directory.exists():
            directory.rmdir()
        partial.replace(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    tell(f"{directory}: {sum(rows.values()):,} rows, {len(said.files):,} files, as of {said.made}")
    tell(f"start it: palate studio --workspace {directory}")
    return rows


def _write(workspace: Workspace, archive: _Archive, *, skip: set[Path]) -> Made:
    rows: dict[str, int] = {}
    revision = ""

    def take(dump: Dump) -> None:
        nonlocal revision
        revision = dump.revision
        for name, lines in dump.tables:
            with tempfile.TemporaryFile(dir=workspace.directory) as file:
                rows[name] = 0
                for line in lines:
                    file.write(line.encode() + b"\n")
                    rows[name] += 1
                size = file.tell()
                file.seek(0)
                archive.add(f"{TABLES}/{name}.jsonl", file, size, mode=0o600, modified=time.time())

    dumping.dumped(workspace.store, take)
    for path in _files(workspace, skip):
        _add(archive, workspace.directory, path)
    _leave_out_torn(archive, workspace.directory)
    said = Manifest(
        palate=palate.__version__,
        made=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        revision=revision,
        files=archive.hashes,
    )
    text = said.model_dump_json(indent=1).encode()
    files, num_bytes = len(archive.hashes) - len(rows), archive.num_bytes
    archive.add(MANIFEST, BytesIO(text), len(text), mode=0o600, modified=time.time())
    return Made(rows=rows, files=files, num_bytes=num_bytes, left_out=archive.left_out)


def _files(workspace: Workspace, skip: set[Path]) -> Iterator[Path]:
    """Every file of the workspace but the database's own."""
    url = workspace.store.url
    own = Path(url.database or "").resolve() if workspace.store.is_sqlite else None
    databases = {Path(f"{own}{suffix}") for suffix in ("", "-wal", "-shm", "-journal")} if own else set()
    for folder, folders, names in os.walk(workspace.directory):
        folders.sort()
        for path in (Path(folder, name) for name in sorted(names)):
            if path not in databases and path not in skip:
                yield path


def _add(archive: _Archive, home: Path, path: Path) -> None:
    name = path.relative_to(home).as_posix()
    try:
        if not stat.S_ISREG(
            path.lstat().st_mode
        ):  # a link leads elsewhere; to read from a pipe is to wait for somebody
            archive.left_out.append(name)
            return
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            archive.add(name, file, status.st_size, mode=status.st_mode, modified=status.st_mtime)
    except FileNotFoundError:
        archive.left_out.append(name)


def _leave_out_torn(archive: _Archive, home: Path) -> None:
    """A checkpoint of which a file is gone was being taken away while it was read."""
    gone = {_checkpoint_of(name) for name in archive.left_out} | {
        checkpoint for name in archive.hashes if (checkpoint := _checkpoint_of(name)) and not (home / name).exists()
    }
    for name in [name for name in archive.hashes if _checkpoint_of(name) in gone - {None}]:
        del archive.hashes[name]
        archive.left_out.append(name)


def _checkpoint_of(name: str) -> PurePosixPath | None:
    """The directory of the checkpoint that a file belongs to."""
    parts = PurePosixPath(name).parts
    if CHECKPOINTS not in parts[:-2]:
        return None
    return PurePosixPath(*parts[: parts.index(CHECKPOINTS) + 2])


def _unpack(archive: Path, into: Path) -> Manifest:
    """The files of an archive, each as its manifest says; returns the manifest."""
    torn = DataError("this is no whole backup: it is torn, or `palate backup` did not write it", path=archive)
    try:
        with tarfile.open(archive, mode="r:") as tar:
            members = tar.getmembers()
            if not members or members[-1].name != MANIFEST:
                raise torn
            said = Manifest.model_validate_json(_bytes(tar, members[-1]))
            for member in members[:-1]:
                if member.name not in said.files:
                    continue
                tar.extract(member, into, filter="data")
                if _sha256(into / member.name) != said.files[member.name]:
                    raise DataError(f"{member.name} in it is damaged", path=archive)
            if missing := [name for name in said.files if not (into / name).is_file()]:
                raise DataError(f"{missing[0]} is missing from it", path=archive)
    except FileNotFoundError:
        raise DataError("no such file", path=archive) from None
    except (tarfile.TarError, ValidationError, EOFError):
        raise torn from None
    return said


def _settle(directory: Path, database: str | None) -> None:
    """Write where the rows go into the workspace's settings, and make the folders that were empty."""
    for folder in workspaces.FOLDERS:
        (directory / folder).mkdir(exist_ok=True)
    if database is None:
        return
    config = directory / CONFIG
    lines = config.read_text(encoding="utf-8").splitlines(keepends=True)
    said = tomli_w.dumps({"database": database})
    kept = [said if line.partition("=")[0].strip() == "database" else line for line in lines]
    config.write_text("".join(kept if said in kept else [said, *lines]), encoding="utf-8")


def _end_jobs(workspace: Workspace) -> None:
    """What ran then is another workspace's: its process may still be there, and is not ours to watch or to stop."""
    with workspace.store.write() as session:
        session.execute(
            update(Job)
            .where(Job.state == "running")
            .values(
                state="failed",
                message=RAN,
                ended_at=time.time(),
                pid=None,
                process_started=None,
                cluster=None,
                submission=None,
            )
        )


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        yield from file


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return b"" if file is None else file.read()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
