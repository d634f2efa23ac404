"""Records survive a round trip, know what is wrong with them, and have ids that stay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from palate.records import (
    Candidates,
    Demonstration,
    Message,
    Prompt,
    Provenance,
    Ranking,
    Record,
    Response,
    Revision,
    ToolCall,
    content_id,
)

texts = st.text(max_size=40)
finite = st.floats(allow_nan=False, allow_infinity=False)
calls = st.lists(st.builds(ToolCall, name=texts, arguments=texts, id=texts), max_size=2).map(tuple)


def turns(*roles: str) -> st.SearchStrategy[Message]:
    """Turns by these speakers, with what goes with tools."""
    role = st.sampled_from(roles)
    return st.builds(
        Message, role=role, content=texts, tool_calls=calls, tool_call_id=texts, name=texts, learn=st.booleans()
    )


tools = st.lists(st.dictionaries(texts, texts | st.lists(st.integers(), max_size=2), max_size=2), max_size=2)
prompts = st.builds(
    lambda earlier, last, tools, tags: Prompt(messages=(*earlier, last), tools=tools, tags=tags),
    st.lists(turns("system", "user", "assistant", "tool"), max_size=3),
    turns("system", "user", "tool"),
    tools.map(tuple),
    st.dictionaries(texts, texts, max_size=2),
)
revisions = st.builds(Revision, principle=texts, constitution=texts, draft=texts, critique=texts)
provenances = st.builds(
    Provenance,
    model=texts,
    checkpoint=texts,
    temperature=finite,
    logprob=st.none() | finite,
    ended=st.booleans(),
    revisions=st.lists(revisions, max_size=2).map(tuple),
)
responses = st.builds(Response, text=texts, tool_calls=calls, provenance=st.none() | provenances)


@st.composite
def rankings(draw: st.DrawFn) -> Ranking:
    answers = draw(st.lists(responses, min_size=1, max_size=4))
    count = len(answers)

    def per_response(element: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
        return st.none() | st.lists(element, min_size=count, max_size=count).map(tuple)

    ranks = draw(st.lists(st.integers(1, 5), min_size=count, max_size=count))
    return Ranking(
        prompt=draw(prompts),
        responses=tuple(answers),
        ranks=tuple(rank - min(ranks) + 1 for rank in ranks),
        ratings=draw(per_response(st.floats(1, 7))),  # type: ignore[arg-type]
        flags=draw(per_response(st.lists(texts, max_size=2).map(tuple))),  # type: ignore[arg-type]
        strength=draw(st.none() | st.floats(0, 10)),
        labeler=draw(texts),
        shown_order=draw(st.none() | st.permutations(range(count)).map(tuple)),
        seconds=draw(st.none() | st.floats(0, 1e6)),
        source=draw(
            st.sampled_from(["human", "simulated", "ai", "forum", "thumbs", "trees", "template", "abstention"])
        ),
    )


records = st.one_of(
    prompts,
    responses,
    st.builds(Demonstration, prompt=prompts, response=responses, author=texts),
    st.builds(Candidates, prompt=prompts, responses=st.lists(responses, min_size=1, max_size=3).map(tuple)),
    rankings(),
)


@given(records)
def test_round_trip_through_one_line_of_json(record: Record) -> None:
    line = record.to_json()
    assert "\n" not in line
    back = type(record).model_validate_json(line)
    assert back == record
    assert getattr(back, "id", None) == getattr(record, "id", None)


@given(rankings())
def test_pairs_are_exactly_the_strictly_ordered_ones(ranking: Ranking) -> None:
    count = len(ranking.ranks)
    ties = sum(ranking.ranks[i] == ranking.ranks[j] for i in range(count) for j in range(i))
    assert len(ranking.pairs) + ties == count * (count - 1) // 2
    assert all(ranking.ranks[better] < ranking.ranks[worse] for better, worse in ranking.pairs)


def test_pairs_of_a_ranking_with_a_tie() -> None:
    ranking = rank(2, 1, 2, 4)
    assert ranking.pairs == ((0, 3), (1, 0), (1, 2), (1, 3), (2, 3))


def test_ids_are_what_they_always_were() -> None:
    assert Prompt.from_text("What is a palate?").id == "f454a7f070ef2331"
    assert Prompt.from_text("What is a palate?", system="Be brief.").id == "741a4ef6969c4e98"
    assert rank(1, 2).id == "5adfa47985277025"


def test_a_plain_record_is_written_as_it_always_was() -> None:
    shown = Demonstration(prompt=Prompt.from_text("a", system="b"), response=Response(text="c"))
    turns = '[{"role":"system","content":"b"},{"role":"user","content":"a"}]'
    assert shown.to_json() == f'{{"prompt":{{"messages":{turns}}},"response":{{"text":"c"}}}}'


def test_tools_are_part_of_what_is_said_and_learning_is_not() -> None:
    call, ask = ToolCall(name="weather", arguments="{}"), Message(role="user", content="How warm is it?")
    plain, with_tools = Prompt(messages=(ask,)), Prompt(messages=(ask,), tools=({"name": "weather"},))
    calls = [Response(text=""), Response(text="", tool_calls=(call,))]
    ids = {Demonstration(prompt=prompt, response=r).id for prompt in (plain, with_tools) for r in calls}
    assert len(ids) == 4
    ids = {rank(1).model_copy(update={"responses": (response,)}).id for response in calls}
    assert len(ids) == 2
    said = [Message(role="assistant", content="Cold.", learn=learn) for learn in (True, False)]
    assert len({Prompt(messages=(ask, each, ask)).id for each in said}) == 1
    assert [prompt.has_tools for prompt in (with_tools, plain)] == [True, False]


def test_tags_are_not_part_of_what_a_prompt_says() -> None:
    assert Prompt.from_text("a", tags={"topic": "b"}).id == Prompt.from_text("a").id


@given(st.lists(texts, max_size=4), st.lists(texts, max_size=4))
def test_where_one_part_ends_is_part_of_the_id(first: list[str], second: list[str]) -> None:
    assert (content_id(*first) == content_id(*second)) == (first == second)


def test_records_are_frozen_and_strict() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Message(role="user", content="a").content = "b"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Prompt.model_validate({"messages": [{"role": "user", "content": "a"}], "tag": {}})
    with pytest.raises(ValidationError, match="role"):
        Message.model_validate({"role": "human", "content": "a"})


def test_a_prompt_ends_where_the_assistant_is_to_answer() -> None:
    turns = (Message(role="user", content="a"), Message(role="assistant", content="b"))
    with pytest.raises(ValidationError, match="a prompt ends with a user or system turn"):
        Prompt(messages=turns)
    with pytest.raises(ValidationError, match="at least 1 item"):
        Prompt(messages=())
    assert Prompt(messages=(*turns, Message(role="user", content="c"))).text == "c"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ranks": (1,)}, "ranks has 1 entries for 2 responses"),
        ({"ranks": (2, 3)}, "the best response has rank 1"),
        ({"ranks": (0, 1)}, "greater than or equal to 1"),
        ({"ratings": (8.0, 1.0)}, "less than or equal to 7"),
        ({"ratings": (7.0,)}, "ratings has 1 entries for 2 responses"),
        ({"flags": ((),)}, "flags has 1 entries for 2 responses"),
        ({"shown_order": (0, 0)}, "shown_order must name every response once"),
        ({"seconds": -1.0}, "greater than or equal to 0"),
        ({"source": "guess"}, "source"),
    ],
)
def test_a_ranking_that_contradicts_itself(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Ranking.model_validate(rank(1, 2).model_dump() | fields)


def rank(*ranks: int) -> Ranking:
    answers = tuple(Response(text=f"answer {index}") for index in range(len(ranks)))
    return Ranking(prompt=Prompt.from_text("question"), responses=answers, ranks=ranks)
