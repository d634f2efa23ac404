"""What is exported is read back, by recognition and by name: the same texts and preferences, and nothing else.

Two kinds of test. A format gets records that it can say, and they come back whole. Then every format gets whatever
there is: ties, many responses, system turns, blank and repeated texts, ratings that contradict the ranks; what comes
back was said by the records, and what does not come back was counted.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from palate.corpus.catalogue.format import Item
from palate.corpus.export import EXPORTERS, ExportReport, export_records
from palate.corpus.reading import iterate
from palate.corpus.rows.rejections import Rejections
from palate.errors import DataError
from palate.records import Candidates, Demonstration, Message, Prompt, Provenance, Ranking, Record, Response, ToolCall

quickly = settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda t: t.strip())
tricky = st.sampled_from(
    ["=1+1", "+1", "'=x", "-", "@a", "a\r\nb", "a\u2028b", '"', ",", "\x00b", "  pad ", "Human: hi", "é中🙂", "\tx"]
)
texts = texts | tricky
names = st.sampled_from(["", "ann", "bob", "Zoë"])
nobody, nothing = st.just(""), st.none()
single_prompts = texts.map(Prompt.from_text)


@st.composite
def chat_prompts(draw: st.DrawFn) -> Prompt:
    turns = draw(st.lists(texts, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2))
    messages = [Message(role="assistant" if i % 2 else "user", content=turn) for i, turn in enumerate(turns)]
    system = draw(st.none() | texts)
    head = [Message(role="system", content=system)] if system else []
    return Prompt(messages=(*head, *messages))


no_system = chat_prompts().filter(lambda prompt: prompt.messages[0].role != "system")
post_prompts = st.builds("SUBREDDIT: r/{}\n\nTITLE: {}\n\nPOST: {}\n\nTL;DR:".format, texts, texts, texts)
any_prompts = single_prompts | chat_prompts() | post_prompts.map(Prompt.from_text)


def demonstrations(prompts: st.SearchStrategy[Prompt], authors: Any = nobody) -> st.SearchStrategy[Demonstration]:
    return st.builds(
        lambda p, t, a: Demonstration(prompt=p, response=Response(text=t), author=a), prompts, texts, authors
    )


@st.composite
def rankings(
    draw: st.DrawFn,
    prompts: st.SearchStrategy[Prompt],
    *,
    sizes: tuple[int, int] = (2, 2),
    ties: bool = False,
    strengths: st.SearchStrategy[Any] = nothing,
    rated: bool = False,
    models: bool = False,
    **rest: st.SearchStrategy[Any],
) -> Ranking:
    """Rankings of different texts; if rated, the ratings give the ranks."""
    responses = draw(st.lists(texts, min_size=sizes[0], max_size=sizes[1], unique_by=str.strip))
    count = len(responses)
    levels = draw(st.lists(st.integers(1, 7), min_size=count, max_size=count, unique=not ties))
    order = sorted(set(levels), reverse=True)
    return Ranking(
        prompt=draw(prompts),
        responses=tuple(
            Response(text=text, provenance=Provenance(model=draw(st.sampled_from("mn"))) if models else None)
            for text in responses
        ),
        ranks=tuple(order.index(level) + 1 for level in levels),
        ratings=tuple(map(float, levels)) if rated else None,
        strength=draw(strengths) if count == 2 and len(order) == 2 else None,
        **{name: draw(strategy) for name, strategy in rest.items()},
    )


@st.composite
def flagged(draw: st.DrawFn, strategy: st.SearchStrategy[Ranking]) -> Ranking:
    ranking = draw(strategy)
    flags = tuple(draw(st.sets(st.sampled_from(["spam", "hallucination", "violent"]))) for _ in ranking.ranks)
    return ranking.model_copy(update={"flags": tuple(map(tuple, flags)) if any(flags) else None})


@st.composite
def thumbs(draw: st.DrawFn, prompts: st.SearchStrategy[Prompt]) -> Ranking:
    rating = draw(st.sampled_from([1.0, 7.0]))
    return Ranking(prompt=draw(prompts), responses=(Response(text=draw(texts)),), ranks=(1,), ratings=(rating,))


@st.composite
def anything(draw: st.DrawFn) -> Record:
    """Whatever a workspace holds; what is in it may contradict itself."""
    prompt = draw(any_prompts).model_copy(update={"tags": draw(st.dictionaries(texts, texts, max_size=1))})
    response = st.sampled_from(["a", "b", "b c", "b d", " ", ""]) | texts
    sampled = st.none() | st.builds(Provenance, model=texts, seed=st.integers(0, 9), logprob=st.just(-1.5))
    responses = draw(st.lists(st.builds(Response, text=response, provenance=sampled), min_size=1, max_size=5))
    count = len(responses)
    ranks = draw(st.lists(st.integers(1, 4), min_size=count, max_size=count).map(lambda r: [x - min(r) + 1 for x in r]))
    ratings = st.lists(st.integers(1, 7).map(float), min_size=count, max_size=count)
    kinds: list[Record] = [
        prompt,
        Demonstration(prompt=prompt, response=responses[0], author=draw(names)),
        Candidates(prompt=prompt, responses=tuple(responses)),
        Ranking.model_validate(
            {
                "prompt": prompt,
                "responses": responses,
                "ranks": ranks,
                "ratings": draw(st.none() | ratings),
                "flags": draw(st.none() | st.just([["spam"]] * count)),
                "strength": draw(st.none() | st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, 9.5])),
                "labeler": draw(names),
                "shown_order": draw(st.none() | st.permutations(range(count))),
                "guideline_version": "2",
                "seconds": draw(st.none() | st.floats(0, 100)),
                "source": draw(
                    st.sampled_from(["human", "simulated", "ai", "forum", "thumbs", "trees", "template", "abstention"])
                ),
            }
        ),
    ]
    return draw(st.sampled_from([*kinds, kinds[-1], kinds[-1], kinds[-1]]))


def best_first(ranking: Ranking) -> Ranking:
    """A pair as formats of pairs have it."""
    order = sorted(range(len(ranking.ranks)), key=lambda place: ranking.ranks[place])
    responses = tuple(ranking.responses[place] for place in order)
    return ranking.model_copy(update={"responses": responses, "ranks": tuple(sorted(ranking.ranks))})


def stripped(ranking: Ranking) -> Ranking:
    """As a transcript has it: no blanks around a text."""
    turns = tuple(turn.model_copy(update={"content": turn.content.strip()}) for turn in ranking.prompt.messages)
    responses = tuple(Response(text=response.text.strip()) for response in ranking.responses)
    return best_first(ranking.model_copy(update={"prompt": Prompt(messages=turns), "responses": responses}))


def without(*fields: str, **changed: Any) -> Callable[[Ranking], Ranking]:
    return lambda ranking: ranking.model_copy(update=dict.fromkeys(fields) | changed)


def scored_apart(ranking: Ranking) -> Ranking:
    """Points of ten are no ratings; how far apart they are is the strength."""
    first, second = ranking.ratings or (0.0, 0.0)
    return ranking.model_copy(update={"ratings": None, "strength": 1.5 * abs(first - second)})


def same(item: Item) -> Item:
    return item


def context(item: Any) -> Any:
    """The earlier turns of the assistant's are read as context: only the last one was demonstrated."""
    if isinstance(item, Demonstration):
        return item.model_copy(update={"prompt": context(item.prompt)})
    turns = (turn.model_copy(update={"learn": turn.role != "assistant"}) for turn in item.messages)
    return item.model_copy(update={"messages": tuple(turns)})


margins = st.floats(0, 10)
pair, chat = rankings(single_prompts), rankings(chat_prompts())
WHOLE: list[tuple[str, st.SearchStrategy[Any], Callable[[Any], Any]]] = [
    ("palate", anything().filter(lambda r: not isinstance(r, Ranking) or len({x.text for x in r.responses}) > 1), same),
    ("trl-explicit", pair, best_first),
    ("trl-explicit", rankings(single_prompts, strengths=margins), best_first),
    ("trl-conversational", chat, best_first),
    ("trl-conversational", rankings(chat_prompts(), strengths=margins), best_first),
    ("trl-implicit", chat, best_first),
    ("trl-implicit", rankings(chat_prompts(), strengths=margins), best_first),
    ("trl-kto", thumbs(chat_prompts()), same),
    ("trl-kto-text", thumbs(single_prompts), same),
    ("trl-prompt-completion", demonstrations(chat_prompts()), context),
    ("trl-prompt-completion-text", demonstrations(single_prompts), same),
    ("messages", demonstrations(chat_prompts()), context),
    ("messages", chat_prompts(), context),
    ("sharegpt", demonstrations(chat_prompts()), context),
    ("alpaca", demonstrations(chat_prompts()), same),
    ("hh", rankings(no_system).filter(lambda r: "Human" not in r.to_json()), stripped),
    (
        "rankings",
        rankings(
            chat_prompts(),
            sizes=(1, 5),
            ties=True,
            rated=True,
            strengths=margins,
            labeler=names,
            source=st.sampled_from(["human", "ai"]),
        ),
        same,
    ),
    ("oasst", flagged(rankings(no_system, sizes=(2, 5), ties=True, rated=True, models=True)), same),
    ("oasst", flagged(rankings(no_system, sizes=(2, 5), ties=True)), same),
    ("oasst", demonstrations(single_prompts, names), same),
    (
        "ultrafeedback",
        rankings(single_prompts, sizes=(2, 5), ties=True, rated=True, models=True),
        without("ratings", source="ai"),
    ),
    ("ultrafeedback-binarized", rankings(single_prompts, rated=True), lambda r: best_first(scored_apart(r))),
    ("ultrafeedback-binarized", pair, best_first),
    ("helpsteer2", rankings(single_prompts, sizes=(2, 5), ties=True, rated=True), without("ratings")),
    ("helpsteer2-preference", rankings(single_prompts, strengths=st.sampled_from([1.0, 2.0, 3.0])), same),
    ("shp", pair, without(source="forum")),
    ("webgpt", rankings(single_prompts, strengths=st.floats(0.1, 2)), same),
    ("stiennon", rankings(single_prompts, models=True, labeler=names), same),
    ("stiennon", rankings(post_prompts.map(Prompt.from_text), labeler=names), same),
    ("arena", rankings(chat_prompts(), ties=True, models=True, labeler=names), same),
    ("argilla", rankings(chat_prompts(), sizes=(2, 5), ties=True, labeler=names), same),
    (
        "label-studio",
        rankings(chat_prompts(), sizes=(2, 5), ties=True, labeler=names, seconds=st.none() | st.floats(0, 99)),
        same,
    ),
    ("csv", pair, best_first),
    ("csv", rankings(single_prompts, strengths=st.none() | margins), best_first),
    ("csv", demonstrations(single_prompts), same),
    ("csv", single_prompts, same),
]


def written_and_read(items: Sequence[Item], format: str, ending: str = "") -> tuple[list[Item], ExportReport]:
    """What is read back, whether the format is recognised or named; rankings of a tree, without what it also shows."""
    kind = Ranking if format == "oasst" and any(isinstance(item, Ranking) for item in items) else None
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / ("out" + (ending or (".csv" if format == "csv" else ".jsonl")))
        report = export_records(items, format=format, out=out)
        rejections = Rejections()
        found = [item for _, item in iterate(out, kind, rejections=rejections)]
        named = EXPORTERS[format].read_as
        assert found == [item for _, item in iterate(out, kind, rejections=rejections, format=named)]
    assert not rejections.malformed
    assert kind is Ranking or not rejections.unusable
    return found, report


@pytest.mark.parametrize(
    ("format", "strategy", "as_read"), WHOLE, ids=[f"{i}-{case[0]}" for i, case in enumerate(WHOLE)]
)
@quickly
@given(data=st.data())
def test_what_a_format_can_say_comes_back_whole(
    format: str, strategy: st.SearchStrategy[Any], as_read: Callable[[Any], Any], data: st.DataObject
) -> None:
    items = data.draw(st.lists(strategy, min_size=1, max_size=3, unique_by=lambda item: item.to_json()))
    assume(format != "helpsteer2" or len({item.prompt.id for item in items}) == len(items))
    endings = [".csv", ".csv.gz"] if format == "csv" else [".jsonl", ".jsonl.gz", ".json"]
    found, report = written_and_read(items, format, data.draw(st.sampled_from(endings)))
    assert [approximate(item) for item in found] == [approximate(as_read(item)) for item in items]
    assert report.rejections.total == 0


def approximate(item: Item) -> Item:
    """Ratings and strengths to nine digits: they are rescaled on the way."""
    if not isinstance(item, Ranking):
        return item
    strength = None if item.strength is None else round(item.strength, 9)
    ratings = None if item.ratings is None else tuple(round(rating, 9) for rating in item.ratings)
    return item.model_copy(update={"strength": strength, "ratings": ratings})


def test_every_format_comes_back_whole() -> None:
    assert {format for format, *_ in WHOLE} | {"trl-implicit-text"} == set(EXPORTERS)


Statement = tuple[Any, ...]


def statements(item: Item, *, strip: bool = False, thumbs: bool = False) -> Iterator[Statement]:
    """What a record says, one preference at a time."""

    def plain(text: str) -> str:
        return text.strip() if strip else text

    if isinstance(item, str):
        yield ("text", item)
        return
    prompt = item if isinstance(item, Prompt) else item.prompt
    asked = tuple((turn.role, plain(turn.content)) for turn in prompt.messages)
    if isinstance(item, Prompt):
        yield asked
    elif isinstance(item, Demonstration):
        yield asked, plain(item.response.text)
    elif isinstance(item, Ranking) and thumbs:
        for place, response in enumerate(item.responses):
            good = item.ratings[place] > 4 if item.ratings else item.ranks[place] == 1
            yield asked, plain(response.text), good
    elif isinstance(item, Ranking):
        said = [plain(response.text) for response in item.responses]
        for i in range(len(said)):
            for j in range(i):
                order = (item.ranks[i] > item.ranks[j]) - (item.ranks[i] < item.ranks[j])
                yield (
                    asked,
                    *((said[j], said[i], "better") if order > 0 else (said[i], said[j], "better" if order else "tie")),
                )


def ordered(statement: Statement) -> Statement:
    """A tie reads the same from both ends."""
    return statement if statement[-1] != "tie" else (statement[0], *sorted(statement[1:3]), "tie")


@pytest.mark.parametrize("format", EXPORTERS)
@settings(quickly, max_examples=15)
@given(data=st.data())
def test_nothing_is_bent_and_nothing_is_lost_uncounted(format: str, data: st.DataObject) -> None:
    items = data.draw(st.lists(anything(), min_size=1, max_size=4))
    try:
        found, report = written_and_read(items, format)
    except DataError:  # nothing in it can be written
        return
    options = {"strip": format == "hh", "thumbs": format.startswith("trl-kto")}
    said = Counter(ordered(each) for item in items for each in statements(item, **options))
    read = Counter(ordered(each) for item in found for each in statements(item, **options))
    assert not read - said
    if not report.rejections.total:
        assert read == said


@settings(quickly, max_examples=30)
@given(st.lists(rankings(single_prompts, strengths=margins), min_size=1, max_size=3))
def test_plain_texts_without_a_prompt_show_it_or_are_counted(items: list[Ranking]) -> None:
    """The prompt ends where the texts part, so they must not part later or earlier."""
    try:
        found, report = written_and_read(items, "trl-implicit-text")
    except DataError:
        return
    assert len(found) + report.rejections.total == len(items)
    assert [item.to_json() for item in found if best_first(item) not in [best_first(each) for each in items]] == []


TOOLS = Demonstration(
    prompt=Prompt(
        messages=(
            Message(role="user", content="Warm?", name="ann"),
            Message(
                role="assistant", content="", tool_calls=(ToolCall(name="heat", arguments="{}", id="c1"),), learn=False
            ),
            Message(role="tool", content="7", tool_call_id="c1", name="heat"),
        ),
        tools=({"type": "function", "function": {"name": "heat"}},),
    ),
    response=Response(text="", tool_calls=(ToolCall(name="heat", arguments='{"again": true}'),)),
)


def test_tools_come_back_whole_or_are_refused() -> None:
    assert written_and_read([TOOLS], "messages")[0] == [TOOLS]
    assert written_and_read([TOOLS.prompt], "messages")[0] == [TOOLS.prompt]
    assert written_and_read([TOOLS, TOOLS.prompt], "palate")[0] == [TOOLS, TOOLS.prompt]
    for format in EXPORTERS.keys() - {"messages", "palate"}:
        with pytest.raises(DataError, match=r"nothing in it can be written"):
            written_and_read([TOOLS], format)


def test_context_becomes_history_with_a_note() -> None:
    turns = [Message(role=role, content=role, learn=role != "assistant") for role in ("user", "assistant", "user")]
    shown = Demonstration(prompt=Prompt(messages=tuple(turns)), response=Response(text="yes"))
    _, report = written_and_read([shown], "alpaca")
    assert [note[:40] for note in report.notes] == ["earlier turns of the assistant's are cont"[:40]]
