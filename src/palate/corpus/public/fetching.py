"""Fetch a public data set into `data/NAME`: verified, whole or not at all, and going on where it was cut off.

Every file is brought into a folder of parts, its SHA-256 compared with the table's, unpacked or converted into a
temporary file, and that renamed; an interrupted download lies among the parts until the same command is given again.
`PALATE_DATA_MIRROR`, a folder or an address, takes the place of the authors' repositories.

Left out: more than one connection at a time, and asking whether there is a newer version: a commit does not change.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import http.client
import io
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

from palate.corpus.public.sets import SETS, PublicSet, Source, find
from palate.disk import flush, write_text
from palate.errors import DataError

MIRROR = "PALATE_DATA_MIRROR"
"""The variable of the environment that names a mirror."""

_PATIENCE = 30  # seconds without a byte
_CHUNK = 1 << 16


def listing() -> str:
    """A line per set: name, licence, size, where its authors keep it, and what it is."""
    rows = [
        (name, chosen.licence, _megabytes(sum(file.size for file in chosen.files)), chosen.page, chosen.what)
        for name, chosen in SETS.items()
    ]
    wide = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:3]]
    return "\n".join(
        f"{name:<{wide[0]}}  {licence:<{wide[1]}}  {size:>{wide[2]}}  {page}\n{'':<{wide[0]}}  {what}"
        for name, licence, size, page, what in rows
    )


def fetch(name: str, *, folder: Path = Path("data"), say: Callable[[str], None] = print) -> None:
    """Bring a set's files into ``folder / name``; files that are there already stay.

    Args:
        say: takes each line of what is shown: licence, source, files.

    Raises:
        DataError: no such set; a file that cannot be reached, has another checksum, or that only a mirror has.
    """
    chosen, mirror, target = find(name), os.environ.get(MIRROR, ""), folder / name
    about = _about(name, chosen)
    say(about)
    missing = []
    for file in chosen.files:
        source = file.mirror if mirror else file.origin
        if (target / file.name).exists():
            say(f"  {target / file.name}: there already")
        elif isinstance(source, str):
            missing.append(f"{target / file.name}: {source} ({MIRROR}), or from {chosen.page}")
        else:
            _bring(source, target / file.name, mirror)
            line = f"{_megabytes((target / file.name).stat().st_size)} from {_origin(source, mirror)}"
            _note(target / "SOURCE.txt", about, f"  {file.name}: {line}, SHA-256 {source.sha256}")
            say(f"  {target / file.name}: {line}")
    if len(missing) == len(chosen.files):
        raise DataError(missing[0])
    for line in missing:
        say(f"  {line}")


def _about(name: str, chosen: PublicSet) -> str:
    return f"{name}: {chosen.what}\n  licence: {chosen.licence}\n  source: {chosen.page}"


def _note(path: Path, about: str, line: str) -> None:
    """Keep licence and source beside the files: they go where the files go."""
    kept = path.read_text(encoding="utf-8") if path.exists() else about + "\n"
    write_text(path, f"{kept}{line}\n")


def _origin(source: Source, mirror: str) -> str:
    first = _place(source.places[0], mirror)
    return first + (f" and {len(source.places) - 1} more" if len(source.places) > 1 else "")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _place(place: str, mirror: str) -> str:
    if not mirror:
        return place
    return f"{mirror.rstrip('/')}/{quote(place)}" if _is_address(mirror) else str(Path(mirror, place))


def _is_address(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def _bring(source: Source, target: Path, mirror: str) -> None:
    """Put a source's content at ``target``, or raise and leave no trace but what can be gone on with."""
    parts = target.parent / ".parts"
    parts.mkdir(parents=True, exist_ok=True)
    try:
        places = [_place(place, mirror) for place in source.places]
        files = [_obtain(place, parts) for place in places]
        found = _sha256(files)
        if found != source.sha256:
            _forget(places, parts)
            raise DataError(
                f"{places[0]}: its SHA-256 is {found}, it should be {source.sha256}: it was changed, or damaged on its "
                "way; nothing of it was kept"
            )
        _write(source, places, files, target)
        _forget(places, parts)
    finally:
        for empty in (parts, parts.parent):
            if not any(empty.iterdir()):
                empty.rmdir()


def _write(source: Source, places: Sequence[str], files: Sequence[Path], target: Path) -> None:
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        with temporary.open("wb") as out:
            for place, path in zip(places, files, strict=True):
                with _unpacked(path, place) as stream:
                    if source.convert is None:
                        shutil.copyfileobj(stream, out)
                    else:
                        lines = io.TextIOWrapper(stream, encoding="utf-8", newline="\n")
                        out.writelines(line.encode() for line in source.convert(place, lines))
        flush(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    flush(target.parent)


def _unpacked(path: Path, place: str) -> gzip.GzipFile | bz2.BZ2File | io.BufferedReader:
    if place.endswith(".gz"):
        return gzip.open(path)
    return bz2.open(path) if place.endswith(".bz2") else path.open("rb")


def _sha256(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _obtain(place: str, parts: Path) -> Path:
    """The file at an address, brought here; one on this machine, where it is."""
    if not _is_address(place):
        if not Path(place).is_file():
            raise DataError(f"the mirror has no such file ({MIRROR})", path=place)
        return Path(place)
    whole = _whole(place, parts)
    if not whole.exists():
        part = whole.with_suffix(".part")
        _download(place, part)
        part.rename(whole)
    return whole


def _whole(place: str, parts: Path) -> Path:
    return parts / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.whole"


def _forget(places: Sequence[str], parts: Path) -> None:
    for place in places:
        _whole(place, parts).unlink(missing_ok=True)


def _download(address: str, part: Path) -> None:
    """Fill ``part``; a cut connection is made again, until a try brings nothing."""
    while True:
        before = _size(part)
        reason: object = "the connection was cut"
        try:
            if _try(address, part):
                return
        except HTTPError as error:
            raise DataError(f"{address}: {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
        if _size(part) <= before:
            raise DataError(
                f"{address}: cannot be reached ({reason}); the same command goes on from here, and {MIRROR} names a "
                "folder or an address that has the files"
            )


def _try(address: str, part: Path) -> bool:
    """Go on where ``part`` ends; whether it is whole now. The server may begin again, or say that nothing is left."""
    start = _size(part)
    request = Request(address, headers={"User-Agent": "palate", **({"Range": f"bytes={start}-"} if start else {})})
    try:
        response = urlopen(request, timeout=_PATIENCE)
    except HTTPError as error:
        if start and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return True
        raise
    with response:
        goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT
        length = response.headers.get("Content-Length")
        received = 0
        with part.open("ab" if goes_on else "wb") as out:
            while chunk := response.read(_CHUNK):
                received += out.write(chunk)
    return length is None or received == int(length)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
