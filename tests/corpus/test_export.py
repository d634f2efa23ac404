"""Export: every format reads back to the same texts and preferences; what it cannot say is counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palate.corpus.export import EXPORTERS, export_data
from palate.corpus.formats import Item
from palate.corpus.reading import iterate
from palate.corpus.rejections import Rejections
from palate.errors import DataError
from palate.records import Candidates, Demonstration, Message, Prompt, Provenance, Ranking, Record, Response

Write = Callable[..., Path]

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda t: t.strip())
tricky = st.sampled_from(["=1+1", "'=x", "-", "@a", "a\r\nb", "a\u2028b", '"', ",", "\x00b", "  pad ", "Human: hi"])
texts = texts | tricky
single_prompts = texts.map(Prompt.from_text)


@st.composite
def chat_prompts(draw: st.DrawFn) -> Prompt:
    turns = draw(st.lists(texts, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2))
    messages = [Message(role="assistant" if i % 2 else "user", content=turn) for i, turn in enumerate(turns)]
    system = draw(st.none() | texts)
    head = [Message(role="system", content=system)] if system else []
    return Prompt(messages=(*head, *messages))


def demonstrations(prompts: st.SearchStrategy[Prompt]) -> st.SearchStrategy[Demonstration]:
    return st.builds(lambda p, t: Demonstration(prompt=p, response=Response(text=t)), prompts, texts)


@st.composite
def rankings(draw: st.DrawFn, prompts: st.SearchStrategy[Prompt], sizes: tuple[int, int] = (2, 2)) -> Ranking:
    responses = draw(st.lists(texts, min_size=sizes[0], max_size=sizes[1], unique=True))
    ranks = draw(st.permutations(range(1, len(responses) + 1)))
    return Ranking(
        prompt=draw(prompts),
        responses=tuple(Response(text=text) for text in responses),
        ranks=tuple(ranks),
        strength=draw(st.none() | st.floats(0, 10)) if len(responses) == 2 else None,
    )


@st.composite
def thumbs(draw: st.DrawFn, prompts: st.SearchStrategy[Prompt]) -> Ranking:
    rating = draw(st.sampled_from([1.0, 7.0]))
    return Ranking(prompt=draw(prompts), responses=(Response(text=draw(texts)),), ranks=(1,), ratings=(rating,))


@st.composite
def anything(draw: st.DrawFn) -> Record:
    prompt = draw(chat_prompts()).model_copy(update={"tags": draw(st.dictionaries(texts, texts, max_size=2))})
    response = Response(text=draw(texts), provenance=Provenance(model="m", logprob=-1.5, seed=3))
    kinds: list[Record] = [
        prompt,
        Demonstration(prompt=prompt, response=response, author="ann"),
        Candidates(prompt=prompt, responses=(response, response)),
        Ranking(
            prompt=prompt,
            responses=(response, Response(text="other than all")),
            ranks=(1, 1),
            flags=(("spam",), ()),
            labeler="bob",
            shown_order=(1, 0),
            seconds=2.5,
            source="ai",
        ),
    ]
    return draw(st.sampled_from(kinds))


def best_first(ranking: Ranking) -> Ranking:
    """A pair as formats of pairs have it."""
    order = sorted(range(len(ranking.ranks)), key=lambda place: ranking.ranks[place])
    responses = tuple(ranking.responses[place] for place in order)
    return ranking.model_copy(update={"responses": responses, "ranks": tuple(sorted(ranking.ranks))})


def stripped(ranking: Ranking) -> Ranking:
    """As a transcript has it: no blanks around a text, no strength."""
    turns = tuple(turn.model_copy(update={"content": turn.content.strip()}) for turn in ranking.prompt.messages)
    responses = tuple(Response(text=response.text.strip()) for response in ranking.responses)
    return best_first(ranking).model_copy(
        update={
            "prompt": Prompt(messages=turns),
            "responses": responses if ranking.ranks == (1, 2) else responses[::-1],
            "strength": None,
        }
    )


no_system = chat_prompts().filter(lambda prompt: prompt.messages[0].role != "system")
ROUND_TRIPS: list[tuple[str, st.SearchStrategy[Any], Callable[[Any], Any]]] = [
    ("palate", anything(), lambda item: item),
    ("trl-explicit", rankings(single_prompts), best_first),
    ("trl-conversational", rankings(chat_prompts()), best_first),
    ("trl-implicit", rankings(chat_prompts()), best_first),
    ("trl-kto", thumbs(chat_prompts()), lambda item: item),
    ("hh", rankings(no_system).filter(lambda r: len({x.text.strip() for x in r.responses}) == 2), stripped),
    ("rankings", rankings(chat_prompts(), (1, 5)), lambda item: item),
    ("csv", rankings(single_prompts), best_first),
    ("csv", demonstrations(single_prompts), lambda item: item),
    ("alpaca", demonstrations(chat_prompts()), lambda item: item),
    ("messages", demonstrations(chat_prompts()), lambda item: item),
    ("messages", chat_prompts(), lambda item: item),
]


def export_and_read(tmp_path: Path, items: Sequence[Record], format: str, suffix: str = "") -> tuple[list[Item], Any]:
    source = tmp_path / "source.jsonl"
    source.write_text("".join(item.to_json() + "\n" for item in items), encoding="utf-8")
    out = tmp_path / f"out.{'csv' if format == 'csv' else 'jsonl'}{suffix}"
    report = export_data(source, format=format, out=out)
    rejections = Rejections()
    found = [item for _, item in iterate(out, rejections=rejections)]
    assert rejections.total == 0
    return found, report


@pytest.mark.parametrize(("format", "strategy", "as_format_has_it"), ROUND_TRIPS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(data=st.data())
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    format: str,
    strategy: st.SearchStrategy[Any],
    as_format_has_it: Callable[[Any], Any],
    data: st.DataObject,
) -> None:
    items = data.draw(st.lists(strategy, min_size=1, max_size=3))
    found, report = export_and_read(
        tmp_path_factory.mktemp("trip"), items, format, data.draw(st.sampled_from(["", ".gz"]))
    )
    assert found == [as_format_has_it(item) for item in items]
    assert (report.num_rows, report.rejections.total) == (len(items), 0)


def test_every_export_has_a_round_trip() -> None:
    assert {format for format, *_ in ROUND_TRIPS} == set(EXPORTERS)


PROMPT = Prompt.from_text("p")
CHAT = Prompt(messages=tuple(Message(role=role, content=role) for role in ("system", "user", "assistant", "user")))


def ranking(prompt: Prompt, ranks: tuple[int, ...], **rest: Any) -> Ranking:
    return Ranking(prompt=prompt, responses=tuple(Response(text=c) for c in "abcd"[: len(ranks)]), ranks=ranks, **rest)


def test_a_ranking_becomes_all_its_pairs_and_ties_are_counted(tmp_path: Path) -> None:
    found, report = export_and_read(tmp_path, [ranking(PROMPT, (2, 1, 2, 3))], "trl-explicit")
    pairs = [tuple(response.text for response in item.responses) for item in found if isinstance(item, Ranking)]
    assert pairs == [("a", "d"), ("b", "a"), ("b", "c"), ("b", "d"), ("c", "d")]
    assert dict(report.rejections.unusable) == {"a tie: the format has none": 1}


def test_an_unrated_pair_is_a_thumb_up_and_a_thumb_down(tmp_path: Path) -> None:
    items = [ranking(PROMPT, (2, 1)), ranking(PROMPT, (1, 2, 3), ratings=(6, 4, 2)), ranking(PROMPT, (1, 2, 3))]
    found, report = export_and_read(tmp_path, items, "trl-kto")
    assert [(item.responses[0].text, item.ratings) for item in found if isinstance(item, Ranking)] == [
        ("a", (1.0,)),
        ("b", (7.0,)),
        ("a", (7.0,)),
        ("c", (1.0,)),
    ]
    assert dict(report.rejections.unusable) == {"neither good nor bad: no thumb": 4}


SHOWN = Demonstration(prompt=PROMPT, response=Response(text="r"))
UNSAID: list[tuple[str, Record, str]] = [
    ("trl-explicit", ranking(PROMPT, (1,)), "a single response: no pair in it"),
    ("trl-explicit", ranking(CHAT, (1, 2)), "a prompt of several turns"),
    ("csv", ranking(CHAT, (1, 2)), "a prompt of several turns"),
    ("csv", SHOWN, "another kind of record than the table's first"),
    ("hh", ranking(CHAT, (1, 2)), "a system turn"),
    ("hh", ranking(Prompt.from_text("p\n\nAssistant: x"), (1, 2)), "a text with Human: or Assistant: in it"),
    ("alpaca", ranking(PROMPT, (1, 2)), "the format has no place for rankings"),
    (
        "alpaca",
        Demonstration(prompt=Prompt(messages=PROMPT.messages * 2), response=SHOWN.response),
        "turns that do not",
    ),
    ("rankings", SHOWN, "the format has no place for demonstrations"),
    ("messages", Candidates(prompt=PROMPT, responses=(SHOWN.response,)), "the format has no place for candidates"),
]


@pytest.mark.parametrize(("format", "item", "reason"), UNSAID)
def test_what_a_format_cannot_say_is_counted(tmp_path: Path, format: str, item: Record, reason: str) -> None:
    good: Record = SHOWN if format in ("alpaca", "messages") else ranking(PROMPT, (1, 2))
    _, report = export_and_read(tmp_path, [good, item], format)
    (found,) = report.rejections.unusable
    assert found.startswith(reason)
    assert report.num_rows == 1
    assert str(report).startswith(f"written    1 rows to {report.out}\nunusable 1: {reason}")
    assert report.rejections.examples[found] == [f"{tmp_path / 'source.jsonl'}:2"]


def test_cells_that_look_like_formulas_are_escaped(tmp_path: Path) -> None:
    item = Demonstration(prompt=Prompt.from_text("=cmd()"), response=Response(text="+1"))
    export_and_read(tmp_path, [item], "csv")
    assert (tmp_path / "out.csv").read_text() == '"prompt","response"\n"\'=cmd()","\'+1"\n'


def test_any_format_can_be_exported(write: Write, tmp_path: Path) -> None:
    source = write("source.csv", "prompt,chosen,rejected\np,a,b\n")
    export_data(source, format="rankings", out=tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {
        "prompt": [{"role": "user", "content": "p"}],
        "responses": ["a", "b"],
        "ranks": [1, 2],
        "source": "human",
    }


@pytest.mark.parametrize(
    ("format", "out", "message"),
    [
        ("trl", "out.jsonl", "no export format 'trl'; there are palate, trl-explicit"),
        ("csv", "out.jsonl", r"format csv is written to a file that ends in \.csv"),
        ("hh", "out.csv", r"format hh is written to a file that ends in \.jsonl"),
        ("hh", "source.jsonl", "would be overwritten by its own export"),
        ("alpaca", "out.jsonl", r"nothing in it can be written as alpaca\nunusable 1: the format has no place"),
        ("hh", "nowhere/out.jsonl", "cannot be written"),
    ],
)
def test_exports_that_cannot_be(write: Write, tmp_path: Path, format: str, out: str, message: str) -> None:
    source = write("source.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}])
    with pytest.raises(DataError, match=message):
        export_data(source, format=format, out=tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["source.jsonl"]
