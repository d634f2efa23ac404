"""Poor text and duplicates that were planted are found, and nothing else; the report says what and why."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.cli import main
from palate.corpus.quality.filtering import EXACT, NEAR, Judge, filter_data
from palate.corpus.quality.gopher import RULES, Document, Runs, failures, in_repeated_ngrams, in_top_ngram, repeated
from palate.corpus.quality.near_duplicates import NearDuplicates, jaccard, shingles_of
from palate.errors import DataError, RecipeError
from palate.recipe import Quality, parse_settings

NOUNS = [
    f"{first}{last}" for first in ("mill", "sea", "rain", "bread", "moss", "bell") for last in ("er", "ing", "s", "")
]
VERBS = ("turns", "waits", "sees", "carries", "grows", "lost", "spoke", "stands")
ENDS = ("in", "by the", "with her", "to", "and", "that")


def prose(seed: int, sentences: int = 30) -> str:
    """Sentences of all kinds of words, in two paragraphs."""
    chance = random.Random(seed)
    said = [
        f"The {chance.choice(NOUNS)} of {chance.choice(NOUNS)} {chance.randrange(999)} {chance.choice(VERBS)} "
        f"{chance.choice(NOUNS)} {chance.choice(NOUNS)} {chance.choice(ENDS)} {chance.choice(NOUNS)}."
        for _ in range(sentences)
    ]
    half = sentences // 2
    return " ".join(said[:half]) + "\n\n" + " ".join(said[half:])


def changed(text: str, every: int, seed: int) -> str:
    """One word in so many is another one."""
    chance = random.Random(seed)
    words = text.split(" ")
    for place in range(chance.randrange(every), len(words), every):
        words[place] = f"word{chance.randrange(99)}"
    return " ".join(words)


POOR = {
    "too few words": "The ending of it all.",
    "words too short on average": "the be to of " + " ".join(["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]) * 8,
    "words too long on average": "the be to of and " + " ".join(f"incomprehensible{n}ities" for n in range(60)),
    "too many # or ...": prose(901) + " #tag" * 60,
    "lines are bullets": "\n".join(f"- {line}" for line in prose(902).replace("\n\n", " ").split(". ")),
    "lines end in ...": "\n".join(f"{line} ..." for line in prose(903).replace("\n\n", " ").split(". ")),
    "too few words with letters": prose(904) + " 12 13.5 | 99 &" * 40,
    "too few stop words": " ".join(f"menu{n} price{n * 7 % 50} " for n in range(60)),
    "lines repeat": "\n".join([*prose(905).split(". "), *["Accept all cookies to go on reading."] * 20]),
    "runs of ten words repeat": prose(906) + " It was the best of times and it was the worst of them all." * 20,
}
"""By what is wrong with it."""


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Path, dict[str, set[int]]]:
    """A file of documents, and which of its lines are what."""
    good = [prose(seed) for seed in range(60)]
    poor = list(POOR.values())
    exact = [text.upper().replace(" ", "  ") for text in good[:8]]
    near = [changed(text, 60, seed) for seed, text in enumerate(good[8:28])]
    akin = [changed(text, 6, seed) for seed, text in enumerate(good[28:38])]  # the same subject, other words
    parts = {"good": good, "poor": poor, EXACT: exact, NEAR: near, "akin": akin}
    lines: dict[str, set[int]] = {}
    path = tmp_path / "pages.jsonl"
    with path.open("w", encoding="utf-8") as file:
        number = 0
        for name, texts in parts.items():
            lines[name] = set(range(number + 1, number + len(texts) + 1))
            number += len(texts)
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    return path, lines


def test_what_was_planted_is_found_and_nothing_else(corpus: tuple[Path, dict[str, set[int]]], tmp_path: Path) -> None:
    """Precision and recall of both kinds are 1 here: of 30 that were planted, and 70 that were not."""
    path, lines = corpus
    report = filter_data([path], out=tmp_path / "kept.jsonl", settings=Quality())
    kept = [json.loads(line)["text"] for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    dropped = {number for number, text in enumerate(texts, 1) if text not in kept}
    assert dropped == lines["poor"] | lines[EXACT] | lines[NEAR]
    assert (report.reasons[EXACT], report.reasons[NEAR]) == (8, 20)
    assert report.kept == len(kept) == 70
    assert kept == [text for text in texts if text in kept]  # to the letter, in their order


@pytest.mark.parametrize("reason", POOR)
def test_each_kind_of_poor_text_is_told_by_its_name(reason: str) -> None:
    assert reason in {each.reason for each in failures(POOR[reason], Quality())}


def test_every_rule_has_its_key_and_good_prose_breaks_none() -> None:
    beside = {"stop_words", "max_similarity", "shingle_words"}
    assert {rule.key for rule in RULES} | beside == set(Quality.model_fields)
    assert list(failures(prose(1), Quality())) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.key)
def test_every_threshold_is_heeded(rule: object) -> None:
    """A text that has 0.5 or more of everything, but for what there must be: each limit lets it pass or not."""
    text = (
        "# a b a b a b\n- c ...\n- c ...\n\n- c ...\n\n- c ...\n\n- c ...\n- c ... the of be "
        + "a b c d e f g h i j " * 3
    )
    key = rule.key  # type: ignore[attr-defined]
    value = rule.measure(Document(text), Quality())  # type: ignore[attr-defined]
    assert value > 0
    reason = rule.reason  # type: ignore[attr-defined]
    is_whole = key in ("min_words", "max_words", "min_stop_words")
    nearer, farther = (int(value), int(value) + 1) if is_whole else (value - 1e-6, value + 1e-6)
    if key == "max_words":
        nearer = int(value) - 1
    strict, lax = (farther, nearer) if key.startswith("min") else (nearer, farther)
    for limit, breaks in ((strict, True), (lax, False)):
        settings = Quality.model_validate({key: limit})
        assert (reason in {each.reason for each in failures(text, settings)}) is breaks


def test_shares_by_hand() -> None:
    assert repeated(["ab", "ab", "cde", "ab"]) == (0.5, pytest.approx(4 / 9))
    words = ["a", "bb", "a", "bb", "c"]
    assert in_top_ngram(Runs(words), 2) == pytest.approx(6 / 7)  # "a bb" twice, of 7 letters
    assert in_top_ngram(Runs(["a", "b"]), 2) == in_top_ngram(Runs([]), 2) == 0.0
    assert in_repeated_ngrams(Runs(["a", "b", "c", "x", "a", "b", "c"]), 3) == pytest.approx(6 / 7)
    assert in_repeated_ngrams(Runs(["a", "b", "c", "d"]), 3) == 0.0
    assert in_repeated_ngrams(Runs(["a", "a", "a", "a"]), 2) == 1.0  # each word once, however many runs it is in


@given(st.lists(st.sampled_from(["a", "bb", "ccc", "dddd"]), max_size=60), st.integers(1, 11))
def test_runs_are_counted_as_if_each_were_written_out(words: list[str], n: int) -> None:
    """The plain definitions, which take a whole book their time; equal to the last bit."""
    written = [tuple(words[place : place + n]) for place in range(len(words) - n + 1)]
    counts = Counter(written)
    most = max(counts.values(), default=0)
    longest = max((len("".join(run)) for run, count in counts.items() if count == most), default=0)
    assert in_top_ngram(Runs(words), n) == (most * longest / len("".join(words)) if most > 1 else 0.0)
    covered = {place + step for place, run in enumerate(written) if counts[run] > 1 for step in range(n)}
    assert in_repeated_ngrams(Runs(words), n) == sum(len(words[place]) for place in covered) / max(
        1, len("".join(words))
    )


def test_likeness_by_hand() -> None:
    one, other = shingles_of("a b c d e", 2), shingles_of("A, b! c d x", 2)
    assert jaccard(one, other) == pytest.approx(3 / 5)
    assert jaccard(one, one) == 1.0
    assert len(shingles_of("one two", 5)) == 1


@given(st.integers(0, 10_000), st.integers(2, 80))
def test_near_duplicates_are_as_alike_as_they_are_said_to_be(seed: int, every: int) -> None:
    one, other = prose(seed), changed(prose(seed), every, seed)
    finder = NearDuplicates(0.8, 5)
    assert finder.find(one, "one") is None
    similarity = jaccard(shingles_of(one, 5), shingles_of(other, 5))
    found = finder.find(other, "other")
    assert found is None or found == ("one", similarity)
    assert found is None or similarity >= 0.8
    assert found is not None or similarity < 0.9  # well above the threshold none is missed


def test_the_first_of_a_family_stays_and_its_thresholds_are_heeded() -> None:
    texts = [prose(3), changed(prose(3), 60, 1), changed(prose(3), 25, 2)]

    def kept(**settings: object) -> list[bool]:
        judge = Judge(Quality.model_validate(settings))
        return [not judge(str(number), text) for number, text in enumerate(texts)]

    assert kept() == [True, False, True]
    assert kept(max_similarity=0.5) == [True, False, False]
    assert kept(max_similarity=1) == [True, True, True]
    assert kept(shingle_words=2) == [True, False, False]
    assert kept(stop_words=["zounds"], min_stop_words=1) == [False, False, False]


def test_the_report_shows_what_was_dropped(
    corpus: tuple[Path, dict[str, set[int]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, lines = corpus
    out = tmp_path / "kept.jsonl.gz"
    assert main(["data", "filter", str(path), "--out", str(out), "--set", "min_words=3"]) == 0
    said = capsys.readouterr().out
    assert "108 read, 71 kept, 37 dropped" in said
    figures = json.loads((tmp_path / "kept-report" / "report.json").read_text())
    assert (figures["documents_read"], figures["documents_kept"]) == (108, 71)
    assert figures["dropped"][NEAR] == 20
    assert "too few words" not in figures["dropped"]
    page = (tmp_path / "kept-report" / "report.html").read_text()
    assert f"{path}:{min(lines[NEAR])}" in page
    assert "menu0 price0" in page
    assert "<script" not in page


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RecipeError, match="did you mean 'min_words'"):
        parse_settings(Quality, ["min_word=3"])
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "fine"}\n{"text": 3}\n')
    assert main(["data", "filter", str(path), "--out", str(tmp_path / "kept.jsonl")]) == 2
    assert f"{path}:2" in capsys.readouterr().err
    assert not (tmp_path / "kept.jsonl").exists()
    with pytest.raises(DataError, match="overwritten"):
        filter_data([path], out=path, settings=Quality())
    with pytest.raises(DataError, match="something"):
        filter_data([path], out=tmp_path / "kept.txt", settings=Quality())
