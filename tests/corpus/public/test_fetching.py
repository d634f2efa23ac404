"""Public data sets against a server of our own: whole or not at all, resumed, verified, and from a mirror."""

from __future__ import annotations

import gzip
import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from palate import cli
from palate.corpus.public import fetching, sets
from palate.corpus.public.sets import SETS, File, PublicSet, Source
from palate.errors import DataError

CONTENT = b"".join(b'{"text": "tale number %d"}\n' % n for n in range(20_000))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Server:
    """Serves `files`; `cuts` are the numbers of bytes after which the next answers break off."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.ranges: list[str | None] = []
        self.knows_ranges = True
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.ranges.append(asked)
        data = self.files.get(request.path)
        if data is None:
            request.send_error(404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.knows_ranges else 0  # type: ignore[index]
        if start and start >= len(data):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        end = start + self.cuts.pop(0) if self.cuts else len(data)
        request.wfile.write(data[start:end])


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    thread = threading.Thread(target=served.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    served.http.shutdown()
    served.http.server_close()
    thread.join()


@pytest.fixture
def tales(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of one file, kept by its authors as it is and by mirrors packed; where the file will be."""
    packed = gzip.compress(CONTENT)
    server.files["/tales.jsonl"] = CONTENT
    server.files["/mirror/old%20tales/tales.jsonl.gz"] = packed
    (tmp_path / "mirror" / "old tales").mkdir(parents=True)
    (tmp_path / "mirror" / "old tales" / "tales.jsonl.gz").write_bytes(packed)
    file = File(
        "tales.jsonl",
        len(CONTENT),
        Source((f"{server.url}/tales.jsonl",), digest(CONTENT)),
        Source(("old tales/tales.jsonl.gz",), digest(packed)),
    )
    monkeypatch.setitem(SETS, "tales", PublicSet("tales", "CC0", "https://tales.example", (file,)))
    monkeypatch.delenv(fetching.MIRROR, raising=False)
    monkeypatch.chdir(tmp_path)
    return Path("data/tales/tales.jsonl")


def left() -> set[str]:
    return {str(path) for path in Path("data").rglob("*") if path.is_file()}


def test_a_set_comes_whole_with_its_licence_and_source(tales: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "get", "tales"]) == 0
    assert tales.read_bytes() == CONTENT
    assert left() == {"data/tales/tales.jsonl", "data/tales/SOURCE.txt"}
    shown, kept = capsys.readouterr().out, Path("data/tales/SOURCE.txt").read_text()
    for said in ("CC0", "https://tales.example"):
        assert said in shown
        assert said in kept
    assert digest(CONTENT) in kept


def test_what_is_there_is_not_fetched_again(server: Server, tales: Path) -> None:
    fetching.fetch("tales")
    fetching.fetch("tales")
    assert len(server.ranges) == 1


def test_a_cut_connection_is_made_again_where_it_broke(server: Server, tales: Path) -> None:
    server.cuts = [100_000, 50_000]
    fetching.fetch("tales")
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert tales.read_bytes() == CONTENT


def test_a_later_command_goes_on_where_an_earlier_one_gave_up(server: Server, tales: Path) -> None:
    server.cuts = [100_000, 0]
    with pytest.raises(DataError, match="the same command goes on from here"):
        fetching.fetch("tales")
    assert not tales.exists()
    fetching.fetch("tales")
    assert server.ranges == [None, "bytes=100000-", "bytes=100000-"]
    assert tales.read_bytes() == CONTENT
    assert left() == {"data/tales/tales.jsonl", "data/tales/SOURCE.txt"}


def test_a_server_that_knows_no_ranges_begins_again(server: Server, tales: Path) -> None:
    server.cuts, server.knows_ranges = [100_000], False
    fetching.fetch("tales")
    assert tales.read_bytes() == CONTENT


def test_a_part_that_is_already_whole_is_taken(server: Server, tales: Path) -> None:
    """Killed between the last byte and the new name: the server has nothing left to send."""
    server.cuts = [len(CONTENT) - 1, 0]
    with pytest.raises(DataError):
        fetching.fetch("tales")
    (part,) = Path("data/tales/.parts").iterdir()
    part.write_bytes(CONTENT)
    fetching.fetch("tales")
    assert tales.read_bytes() == CONTENT


def test_another_checksum_is_refused_and_nothing_is_left(
    server: Server, tales: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/tales.jsonl"] = changed = CONTENT[:-2] + b" \n"
    assert cli.main(["data", "get", "tales"]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert digest(changed) in shown
    assert digest(CONTENT) in shown
    assert not Path("data/tales").exists()


def test_what_is_not_there_any_more_says_so(server: Server, tales: Path) -> None:
    del server.files["/tales.jsonl"]
    with pytest.raises(DataError, match=r"tales\.jsonl: 404"):
        fetching.fetch("tales")
    assert not Path("data/tales").exists()


@pytest.mark.parametrize("by", ["folder", "address"])
def test_a_mirror_takes_the_place_of_the_authors(
    by: str, server: Server, tales: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files.pop("/tales.jsonl")
    monkeypatch.setenv(fetching.MIRROR, "mirror" if by == "folder" else f"{server.url}/mirror/")
    fetching.fetch("tales")
    assert tales.read_bytes() == CONTENT
    assert len(server.ranges) == (by == "address")
    assert Path("mirror/old tales/tales.jsonl.gz").exists()


def test_a_mirror_without_the_file_is_no_reason_to_ask_the_authors(
    server: Server, tales: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fetching.MIRROR, "elsewhere")
    with pytest.raises(DataError, match=r"elsewhere/old tales/tales\.jsonl\.gz: the mirror has no such file"):
        fetching.fetch("tales")
    assert server.ranges == []


def test_a_file_that_only_a_mirror_has_is_named(tales: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    rest = File("votes.jsonl", 1, "nobody knows its checksum", Source(("votes.jsonl",), ""))
    whole = SETS["tales"].files[0]
    monkeypatch.setitem(SETS, "tales", PublicSet("", "", "https://tales.example", (whole, rest)))
    fetching.fetch("tales", say=said.append)
    assert tales.exists()
    assert "votes.jsonl: nobody knows its checksum" in said[-1]
    monkeypatch.setitem(SETS, "tales", PublicSet("", "", "https://tales.example", (rest,)))
    with pytest.raises(DataError, match="nobody knows its checksum"):
        fetching.fetch("tales")


def test_several_files_become_one(server: Server, tales: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As UKPConvArg1-Strict: the name of a file says topic and stance, its lines id, label and two arguments."""
    head = "#id\tlabel\ta1\ta2\n"
    texts = {
        "is-tea-better-_yes-.csv": head + "1_2\ta1\tIt is hot.\tTea\u2028is tea.\n",
        "cats_no.csv": head + '3_4\ta2\t"No"\tDögs\n',
    }
    server.files |= {f"/{name}": text.encode() for name, text in texts.items()}
    source = Source(
        tuple(f"{server.url}/{name}" for name in texts),
        digest("".join(texts.values()).encode()),
        convert=sets._arguments,
    )
    file = File("pairs.jsonl", 0, source, Source((), ""))
    monkeypatch.setitem(SETS, "tales", PublicSet("", "", "", (file,)))
    fetching.fetch("tales")
    assert Path("data/tales/pairs.jsonl").read_text(encoding="utf-8").split("\n") == [
        '{"id": "1_2", "topic": "is tea better ", "stance": "yes ", "label": "a1", "a1": "It is hot.", '
        '"a2": "Tea\u2028is tea."}',
        '{"id": "3_4", "topic": "cats", "stance": "no", "label": "a2", "a1": "\\"No\\"", "a2": "Dögs"}',
        "",
    ]


def test_without_a_name_everything_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "get"]) == 0
    shown = capsys.readouterr().out
    for name, chosen in SETS.items():
        assert name in shown
        assert chosen.licence in shown
        assert chosen.page in shown


def test_an_unknown_name_gives_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "get", "HaluEvil"]) == 2
    assert capsys.readouterr().err == "palate: no public data set 'HaluEvil'; did you mean 'halueval'?\n"


def test_a_recipe_whose_data_is_not_there_says_the_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Path(__file__).parents[3] / "recipes" / "convarg.toml"
    monkeypatch.chdir(tmp_path)
    assert cli.main(["reward", str(recipe), "--set", "model=tiny", "frozen_layers=0"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == ("palate: data/convarg/strict_pairs.jsonl: no such file; fetch it with `palate data get convarg`")


def test_every_address_names_a_commit_and_every_checksum_is_one() -> None:
    """A branch would change under its checksum."""
    for chosen in SETS.values():
        for file in chosen.files:
            for source in (file.origin, file.mirror):
                if isinstance(source, Source):
                    assert re.fullmatch(r"[0-9a-f]{64}", source.sha256)
            if isinstance(file.origin, Source):
                for place in file.origin.places:
                    assert re.match(r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/[0-9a-f]{7,40}/", place)


@pytest.mark.parametrize("name", SETS)
def test_the_mirror_beside_the_repository_has_every_set(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Path(__file__).parents[4] / "shared" / "data"
    if not mirror.is_dir():
        pytest.skip("no mirror beside the repository")
    monkeypatch.setenv(fetching.MIRROR, str(mirror))
    fetching.fetch(name, folder=tmp_path)
    for file in SETS[name].files:
        assert (tmp_path / name / file.name).stat().st_size == file.size
