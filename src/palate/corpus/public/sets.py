"""The public data sets that `palate data get` knows: licence, source, and for every file where it is and its checksum.

A source is one file, or several that are turned into one. Its SHA-256 is of the bytes as they come, one file after the
other, so that it can be checked before anything is unpacked or converted. A file has two sources that give the same
rows: its authors' repository at a commit that never changes, and a mirror. Where the authors' own bytes have no
checksum that is known here, a sentence stands in the place of the source and a mirror is required.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias
from urllib.parse import quote, unquote

from palate.errors import DataError

Convert: TypeAlias = Callable[[str, Iterable[str]], Iterator[str]]
"""The address of a file and its lines -> the lines of ours."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a file comes from.

    Attributes:
        places: addresses, or in a mirror paths.
        sha256: of the bytes of all places, one after the other.
        convert: what makes our lines of theirs; None: they are taken as they are, unpacked.
    """

    places: tuple[str, ...]
    sha256: str
    convert: Convert | None = None


@dataclass(frozen=True, slots=True)
class File:
    """A file of a set, as it will lie in `data/NAME`.

    Attributes:
        name: without `.gz`: files are kept unpacked.
        size: bytes.
        origin: where its authors keep it; a sentence that says why it cannot be had from there.
        mirror: the same in a mirror.
    """

    name: str
    size: int
    origin: Source | str
    mirror: Source


@dataclass(frozen=True, slots=True)
class PublicSet:
    """A data set: what it is, its licence, its authors' page."""

    what: str
    licence: str
    page: str
    files: tuple[File, ...]


def find(name: str) -> PublicSet:
    """The set of that name.

    Raises:
        DataError: there is none; says which is meant.
    """
    if name in SETS:
        return SETS[name]
    near = difflib.get_close_matches(name.lower(), SETS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "`palate data get` lists them"
    raise DataError(f"no public data set {name!r}; {hint}")


def remedy(path: Path) -> str:
    """What to run if ``path``, which is not there, would be a file of one of the sets; else nothing."""
    folder = path.parent
    return f"; fetch it with `palate data get {folder.name}`" if _is_ours(folder) else ""


def _is_ours(folder: Path) -> bool:
    return folder.parent.name == "data" and folder.name in SETS


def _github(repository: str, commit: str, path: str) -> str:
    return f"https://raw.githubusercontent.com/{repository}/{commit}/{quote(path)}"


def _same(name: str, size: int, sha256: str, origin: str, mirror: str, packed: str) -> File:
    """A file that its authors keep as it is; the mirror has it packed."""
    return File(name, size, Source((origin,), sha256), Source((mirror,), packed))


def _arguments(address: str, lines: Iterable[str]) -> Iterator[str]:
    """Rows of a `TOPIC_STANCE.csv` of UKPConvArg1-Strict, as JSON that says topic and stance."""
    topic, stance = unquote(PurePosixPath(address).stem).replace("-", " ").split("_")
    for line in list(lines)[1:]:  # the first names the columns
        id_, label, a1, a2 = line.rstrip("\n").split("\t")
        row = {"id": id_, "topic": topic, "stance": stance, "label": label, "a1": a1, "a2": a2}
        yield json.dumps(row, ensure_ascii=False) + "\n"


_CONVARG = "UKPLab/acl2016-convincing-arguments"
_DEBATES = (
    "christianity-or-atheism-_atheism",
    "christianity-or-atheism-_christianity",
    "evolution-vs-creation_creation",
    "evolution-vs-creation_evolution",
    "firefox-vs-internet-explorer_it-has-a-cute-logo-oh-and-extensions-err-add-ons",
    "firefox-vs-internet-explorer_there-s-more-browsers-than-the-ie-firefox-is-an-animal",
    "human-growth-and-development-should-parents-use-spanking-as-an-option-to-discipline-_no",
    "human-growth-and-development-should-parents-use-spanking-as-an-option-to-discipline-_yes",
    "if-your-spouse-committed-murder-and-he-or-she-confided-in-you-would-you-turn-them-in-_no",
    "if-your-spouse-committed-murder-and-he-or-she-confided-in-you-would-you-turn-them-in-_yes",
    "india-has-the-potential-to-lead-the-world-_no-against",
    "india-has-the-potential-to-lead-the-world-_yes-for",
    "is-it-better-to-have-a-lousy-father-or-to-be-fatherless-_fatherless",
    "is-it-better-to-have-a-lousy-father-or-to-be-fatherless-_lousy-father",
    "is-porn-wrong-_no-is-is-not",
    "is-porn-wrong-_yes-porn-is-wrong",
    "pro-choice-vs-pro-life_pro-choice",
    "pro-choice-vs-pro-life_pro-life",
    "should-physical-education-be-mandatory-in-schools-_no-",
    "should-physical-education-be-mandatory-in-schools-_yes-",
    "william-farquhar-ought-to-be-honoured-as-the-rightful-founder-of-singapore_no-it-is-raffles-",
    "william-farquhar-ought-to-be-honoured-as-the-rightful-founder-of-singapore_yes-of-course-",
)
"""Two stances of eleven of its sixteen topics: those whose bytes have a checksum that is known here."""

_RENAMED = "firefox-vs-internet-explorer_there-s-more-browsers-than-the-ie-firefox-is-an-animal"


def _debate(name: str) -> str:
    commit = (
        "7c598e0a02ad2310dc9eb670c55a21b93a33e82f" if name == _RENAMED else "ee675d2da00795ec8289c7094ad4570481728f33"
    )
    return _github(_CONVARG, commit, f"data/UKPConvArg1Strict-CSV/{name}.csv")


def _choices(name: str, what: str, commit: str, folder: str, size: int, sha256: str, packed: str) -> PublicSet:
    """One of the sets that mosaicml/llm-foundry keeps as questions with choices."""
    repository = "mosaicml/llm-foundry"
    path = f"{folder}/{name}.jsonl"
    file = _same(
        f"{name}.jsonl",
        size,
        sha256,
        _github(repository, commit, path),
        f"evaluation/{name}.jsonl.gz",
        packed,
    )
    licence = "the set's own; by way of llm-foundry (Apache-2.0)"
    return PublicSet(what, licence, f"https://github.com/{repository}", (file,))


SETS = {
    "convarg": PublicSet(
        "which of two arguments is the more convincing: people's choices on 11 topics (Habernal and Gurevych 2016)",
        "CC-BY 4.0",
        f"https://github.com/{_CONVARG}",
        (
            File(
                "strict_pairs.jsonl",
                5_207_850,
                Source(
                    tuple(map(_debate, _DEBATES)),
                    "eda191485336719697513453eefb4d189c68c37f7b99af1c3b5670b663abc22e",
                    convert=_arguments,
                ),
                Source(
                    ("preferences/convarg/strict_pairs.jsonl.gz",),
                    "ed6590b7752eaaffa7d095797d766cf5494158b929251434e16baebb522c6f99",
                ),
            ),
            File(
                "crowd_votes.jsonl",
                11_075_342,
                "its authors keep the single votes as XML (data/UKPConvArg1-full-XML), whose checksums are not known "
                "here: only from a mirror",
                Source(
                    ("preferences/convarg/crowd_votes.jsonl.gz",),
                    "4eed6ad6110494358e2736a2eef1ccb7683fc0cdfc0787c253c34c57e8b66fdf",
                ),
            ),
        ),
    ),
    "hh-harmless": PublicSet(
        "which answer is less harmful: red-team dialogues, the test part; a mirror may hold 2,005 of its 2,312 pairs "
        "(Bai et al. 2022)",
        "MIT",
        "https://github.com/anthropics/hh-rlhf",
        (
            File(
                "pairs.jsonl",
                2_822_159,
                Source(
                    (
                        _github(
                            "anthropics/hh-rlhf",
                            "0398e3636f8d641a03d65b9362aa091297f28564",
                            "harmless-base/test.jsonl.gz",
                        ),
                    ),
                    "ebfaaed21162a4de120ae85366075b34425e2a6303fac59b99555002f7016f03",
                ),
                Source(
                    ("preferences/hh_harmless/pairs.jsonl.gz",),
                    "2f703256f1cfc431a1fbe75001349ffd286df0cc106a4cee21fe1ad01d3397e6",
                ),
            ),
        ),
    ),
    "llmfao": PublicSet(
        "8,931 judgements by 124 people of pairs of answers from 59 models (Ustalov 2023); and those models ranked by "
        "evalica (Apache-2.0)",
        "CC-BY 4.0",
        "https://github.com/dustalov/llmfao",
        (
            _same(
                "crowd-comparisons.csv",
                498_018,
                "106564a4bf06f047a4662979384313c22d9b4ca901e780f9e8419f8e5581adb1",
                _github("dustalov/llmfao", "9e224e9", "crowd-comparisons.csv"),
                "preferences/llmfao/crowd-comparisons.csv.gz",
                "49667cedf1b251cd720c52ea03653f27e4be244486ce0105491a14aa817621f0",
            ),
            _same(
                "pairs-crowd.jsonl",
                3_768_833,
                "83c32e02deeb657e2b6a4cad7391c9bbabbd4f108f78392859b09eeb911ff04b",
                _github("dustalov/llmfao", "28fb7cae4e1ad5f2b65d7fea28c9fd66f52a7fd6", "pairs-crowd.jsonl"),
                "preferences/llmfao/pairs-crowd.jsonl.gz",
                "9490b9ef3e3c4190906ec267d661d8883c972f453d10f5853cd426127bf2abb0",
            ),
            _same(
                "evalica-golden.csv",
                18_790,
                "e860654541c6e8aac859ba513f7f3458e1ac9f326a2f6895960688bb2d171145",
                _github("dustalov/evalica", "1e56b4bf37871359e8842f7afdc360c120e31a74", "llmfao-golden.csv"),
                "preferences/llmfao/evalica-golden.csv.gz",
                "fd37ddbe2442fda6dce0888c0e025752a4719c1d7fee53a0fa1c81ec267916cb",
            ),
        ),
    ),
    "squality": PublicSet(
        "three long answers to each of 100 questions, rated and ranked by three people each (Wang et al. 2022)",
        "CC-BY 4.0",
        "https://github.com/nyu-mll/SQuALITY",
        (
            _same(
                "all-responses.jsonl",
                1_145_030,
                "fdefc51dae186097b35d09af1e9e355c19e422d4291a9899d2e7adcc87024f02",
                _github(
                    "nyu-mll/SQuALITY",
                    "dc08d4f574639d773bc64ef3ab3527043108fb4e",
                    "data/human-eval/all-responses.jsonl",
                ),
                "preferences/squality/all-responses.jsonl.gz",
                "2f13e6cdd534349bbd436461bcbd6a8c361e1d7c9d262f328206e45d8acdb119",
            ),
        ),
    ),
    "selfaware": PublicSet(
        "3,369 questions with and without a knowable answer (Yin et al. 2023)",
        "CC-BY-SA 4.0",
        "https://github.com/yinzhangyue/SelfAware",
        (
            _same(
                "selfaware.json",
                1_286_450,
                "32929585ffdd4048f35f7f167720722eb8ddcf59908ffc958da2f84ea634dc54",
                _github("yinzhangyue/SelfAware", "f0bad1ff77bd42fc4eb2360281ed646c7bb7bd0c", "data/SelfAware.json"),
                "evaluation/selfaware.json.gz",
                "88cf1cb0d6a058c5094d34cd71b300c5823f590a30a5fdf09357cf8134406b19",
            ),
        ),
    ),
    "halueval": PublicSet(
        "4,507 users' questions with an answer that people marked as made up or not (Li et al. 2023)",
        "MIT",
        "https://github.com/RUCAIBox/HaluEval",
        (
            _same(
                "halueval_general.json",
                3_307_122,
                "73302cd97666b808fb94b5d8a4a2c924049c9484e609017a2f808c4a6d539219",
                _github("RUCAIBox/HaluEval", "89236d2ed3c2b2e86095571ac6ddde0e963c38c6", "data/general_data.json"),
                "evaluation/halueval_general.json.gz",
                "1f63f7f8bfd0220d4e8b3aab8336dc781a508ac6898bf3bafb27a51b2ac49fb8",
            ),
        ),
    ),
    "truthfulqa": PublicSet(
        "813 questions that many people answer falsely (Lin et al. 2022)",
        "Apache-2.0",
        "https://github.com/sylinrl/TruthfulQA",
        (
            File(
                "TruthfulQA.csv",
                473_618,
                "it has changed several times and the commit with these rows is not known here: only from a mirror",
                Source(
                    ("evaluation/TruthfulQA.csv.gz",),
                    "79150781acf4b5db8d8ffe4246328b402731316908c01451ed635e8242b5ab9e",
                ),
            ),
        ),
    ),
    "hellaswag": PublicSet(
        "10,042 beginnings with four endings each, the validation part (Zellers et al. 2019)",
        "MIT",
        "https://github.com/klosax/hellaswag_text_data",
        (
            _same(
                "hellaswag_val_full.txt",
                7_770_677,
                "50b637899e4263c2bc456c2dc726c95d2c8cd8e2a552ea5bd7719ce3cb03fe5b",
                _github(
                    "klosax/hellaswag_text_data",
                    "60a646bd806bce22dcb2eb6d4fadb12f1472aa4c",
                    "hellaswag_val_full.txt.bz2",
                ),
                "evaluation/hellaswag_val_full.txt.bz2",
                "50b637899e4263c2bc456c2dc726c95d2c8cd8e2a552ea5bd7719ce3cb03fe5b",
            ),
        ),
    ),
    "arc-easy": _choices(
        "arc_easy",
        "2,376 school questions (Clark et al. 2018)",
        "f01dc6dd4f3f7007b79f9a52fb38ef3833d0e4d5",
        "llmfoundry/eval/local_data/world_knowledge",
        636_665,
        "d2d12e59543acf9a5ef6079634a72b30215e36c2fd4236fff3bc855d287b87f5",
        "c39296b710f2f41129978d75d2ebc7d99ae68f3c594aa8c988a86d33eb725143",
    ),
    "arc-challenge": _choices(
        "arc_challenge",
        "1,172 harder school questions (Clark et al. 2018)",
        "f01dc6dd4f3f7007b79f9a52fb38ef3833d0e4d5",
        "llmfoundry/eval/local_data/world_knowledge",
        365_606,
        "1ae3aeedf1951d881cbd5c2e3a31e78a1993d251479afbe4cb413b6707244636",
        "5c97b856a54d6cb9f54092fdba88ae9383f487c9698b2a743cde247c5af45bbf",
    ),
    "piqa": _choices(
        "piqa",
        "1,838 questions about how things are done (Bisk et al. 2020)",
        "c579245d652819cc736cebdc79afbda0c5e67e20",
        "scripts/eval/local_data/commonsense_reasoning",
        533_992,
        "d2870e73aec5154df3faf259b7700876e11608eebdf69e9d6667435673dbe4e0",
        "e392f6b10ecce9d06d5b57e30357bb8ce71e28b562e7479dea60549bb28b63d6",
    ),
    "openbook-qa": _choices(
        "openbook_qa",
        "500 questions about elementary science (Mihaylov et al. 2018)",
        "f6a49006895527036b45ece10555e36b4c7b7366",
        "scripts/eval/local_data/commonsense_reasoning",
        88_043,
        "adb2e5c7f8db810ddad4d6b2bf53dcc86dcc545499f7aafcaf42a8e179476c09",
        "165cafeee35a72003dc0ac0385c8e654d1ac6fe0ee797d8a9010bbbc763eb54a",
    ),
    "commonsense-qa": _choices(
        "commonsense_qa",
        "1,221 questions of common sense (Talmor et al. 2019)",
        "34c28fc9199278b10193e69fb52979043b7dc1bd",
        "scripts/eval/local_data/commonsense_reasoning",
        258_861,
        "2771f63f8127c0725b1f6b0ef2cd2ef6469168ae5875fc8d276b25b4f32c8c1a",
        "bc580d80376f8de3fc6780e14b447b7d985f877d880170569060c4e7e032fe1b",
    ),
    "winogrande": _choices(
        "winogrande",
        "1,267 pronouns to be resolved (Sakaguchi et al. 2020)",
        "f01dc6dd4f3f7007b79f9a52fb38ef3833d0e4d5",
        "llmfoundry/eval/local_data/language_understanding",
        312_369,
        "ea1592526f3bfdd0948ed3acb1b4dfa3f83d23698917118688ee1df7f8d4b8d7",
        "d04beec05834ce1743749e82cd4d8473f712fb93a78ec9b525ebe9144766ba89",
    ),
    "boolq": _choices(
        "boolq",
        "3,270 yes-or-no questions about a passage (Clark et al. 2019)",
        "284c9e2a2460c17975343ef475f6f926a1a751d1",
        "scripts/eval/local_data/reading_comprehension",
        2_210_395,
        "454ff101e614370bb1807fe7ebbda6fdb57e794b9662cc1ccae211bf1ff626c8",
        "7863b0d25acea714aa8cb642f06dcac4cb870147e59fb0364005d99cd97722ef",
    ),
    "lambada-openai": _choices(
        "lambada_openai",
        "5,153 passages whose last word is to be told (Paperno et al. 2016)",
        "d6c1ae7e0d01e0daa6177395f5aea0664d62ec0a",
        "scripts/eval/local_data/api_compatible_gauntlet/language_understanding",
        1_895_241,
        "411bfbe5b9054346b6a19299c0242670adbefb9162efd958593cbc0290b8c9dc",
        "24deb2c9686a3052b0933d07f7d4d1946c1f662f825a863a7ae8ba53de622423",
    ),
}
