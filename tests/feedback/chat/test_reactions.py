"""Thumbs, choices and edits: what each says in the log, and how it is taken back; on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from tests.feedback.talk import Talk
from tests.feedback.world import World

from palate.errors import ConflictError, NotFoundError
from palate.feedback.chat import conversations, exchanges, reactions
from palate.feedback.chat.reactions import ChoiceForm, ComparisonForm, EditForm, ThumbForm
from palate.feedback.store.tables import ChatMessage, Judgement
from palate.feedback.tasks import judgements
from palate.records import Demonstration, Ranking

UP, DOWN = ThumbForm(up=True), ThumbForm(up=False)


@pytest.fixture
def talk(world: World) -> Talk:
    talk = Talk(world, world.user("ada", role="chat"), consent=True)
    talk.say("Hello", "Hi!")
    return talk


@pytest.fixture
def pair(world: World) -> Talk:
    talk = Talk(world, world.user("bob", role="chat"), consent=True, two_answers=True)
    talk.say("Hello", "zero", "one")
    return talk


def ranking(line: Judgement) -> Ranking:
    return Ranking.model_validate(line.record)


def training(talk: Talk) -> list[Ranking]:
    with talk.store.read() as session:
        return list(judgements.rankings(session, judgements.for_training()))


def take_back(talk: Talk, message: ChatMessage, kind: str) -> None:
    talk.react(lambda session, user, _, answer: reactions.take_back(session, user, answer, kind), message)


@pytest.mark.parametrize(("up", "rating"), [(True, 7), (False, 1)])
def test_a_thumb_is_a_rating(talk: Talk, up: bool, rating: int) -> None:
    reason = "correct" if up else "hallucination"
    line = talk.react(reactions.thumb, talk.last, ThumbForm(up=up, reasons=(reason,), comment="so it is"))
    said = ranking(line)
    assert [(m.role, m.content) for m in said.prompt.messages] == [("user", "Hello")]
    assert said.responses[0].text == "Hi!"
    assert said.responses[0].provenance is not None
    assert said.responses[0].provenance.checkpoint == "abc"
    assert (said.ranks, said.ratings, said.flags, said.labeler) == ((1,), (rating,), ((reason,),), "ada")
    assert (line.kind, line.comment, line.consent, line.message_id) == ("thumb", "so it is", True, talk.last.id)
    assert training(talk) == [said]


def test_a_thumb_in_the_middle_has_the_conversation_before_it(talk: Talk) -> None:
    talk.again("Hey!")
    talk.say("And?", "Yes.")
    talk.say("So?", "Well.")
    line = talk.react(reactions.thumb, talk.turns[3].variants[0], UP)
    assert [m.content for m in ranking(line).prompt.messages] == ["Hello", "Hey!", "And?"]
    assert ranking(line).responses[0].text == "Yes."


def test_a_second_thumb_replaces_the_first_and_can_be_taken_back(talk: Talk) -> None:
    first = talk.react(reactions.thumb, talk.last, UP)
    second = talk.react(reactions.thumb, talk.last, DOWN)
    assert second.supersedes == first.id
    assert [line.id for line in talk.lines] == [second.id]
    take_back(talk, talk.last, "thumb")
    assert talk.lines == []
    with pytest.raises(NotFoundError, match="nothing to take back"):
        take_back(talk, talk.last, "thumb")
    third = talk.react(reactions.thumb, talk.last, UP)
    assert third.supersedes is None
    assert [line.id for line in talk.lines] == [third.id]


def test_unknown_reasons(talk: Talk) -> None:
    for up, reason in ((True, "hallucination"), (False, "correct"), (True, "nonsense")):
        with pytest.raises(ConflictError, match=f"no such reason: {reason}"):
            talk.react(reactions.thumb, talk.last, ThumbForm(up=up, reasons=(reason,)))


@pytest.mark.parametrize("better", [0, 1, None])
def test_a_choice_between_two(pair: Talk, better: int | None) -> None:
    shown = exchanges.shown(pair.turns[-1].pair)
    line = pair.react(reactions.choice, ChoiceForm(better=better, seconds=3.5))
    said = ranking(line)
    assert [r.text for r in said.responses] == ["zero", "one"]
    assert [r.provenance.sample_index for r in said.responses if r.provenance] == [0, 1]
    assert (said.shown_order, said.seconds, line.seconds, line.kind) == (shown, 3.5, 3.5, "choice")
    if better is None:
        assert (said.ranks, said.pairs) == ((1, 1), ())
    else:
        assert said.pairs == ((shown[better], shown[1 - better]),)
    goes_on = ["zero", "one"][shown[better or 0]]
    assert pair.said == ["Hello", goes_on]
    assert pair.last.id == line.message_id
    with pytest.raises(ConflictError, match="no two answers to choose from"):
        pair.react(reactions.choice, ChoiceForm(better=0))


def test_a_choice_leans_neither_left_nor_right(world: World) -> None:
    """Whoever always takes the left one prefers each response as often as the other, in the long run."""
    talk = Talk(world, world.user("ada", role="chat"), consent=True, two_answers=True)
    talk.say("Hello", "zero", "one")
    wins = 0
    for _ in range(24):
        wins += ranking(talk.react(reactions.choice, ChoiceForm(better=0))).ranks[0] == 1
        talk.again("zero", "one")
    assert 3 <= wins <= 21  # else one in 30,000


def test_one_answer_is_no_choice(talk: Talk) -> None:
    with pytest.raises(ConflictError, match="no two answers"):
        talk.react(reactions.choice, ChoiceForm(better=0))


def test_an_edit_is_preferred_and_is_a_demonstration(talk: Talk) -> None:
    original = talk.last
    line = talk.react(reactions.edit, original, EditForm(text=" Hello, Ada! \n", comment="my name"))
    said = ranking(line)
    assert [r.text for r in said.responses] == ["Hello, Ada!", "Hi!"]
    assert [r.provenance is None for r in said.responses] == [True, False]
    assert (said.ranks, line.comment, line.message_id) == ((1, 2), "my name", original.id)
    assert talk.said == ["Hello", "Hello, Ada!"]
    with talk.store.read() as session:
        (shown,) = judgements.demonstrations(session, judgements.for_training())
    assert shown == Demonstration(prompt=said.prompt, response=said.responses[0], author="ada")
    again = talk.react(reactions.edit, original, EditForm(text="Hey, Ada!"))
    assert again.supersedes == line.id
    assert talk.said == ["Hello", "Hey, Ada!"]


def test_ones_own_version_is_not_judged(talk: Talk) -> None:
    talk.react(reactions.edit, talk.last, EditForm(text="Hello, Ada!"))
    with pytest.raises(ConflictError, match="no model's answer"):
        talk.react(reactions.thumb, talk.last, UP)
    talk.say("And?", "Yes.")
    line = talk.react(reactions.thumb, talk.last, UP)
    assert [m.content for m in ranking(line).prompt.messages] == ["Hello", "Hello, Ada!", "And?"]


def test_edits_that_are_none(talk: Talk) -> None:
    first = talk.last
    for text, problem in (("Hi! ", "change something"), (" ", "write something")):
        with pytest.raises(ConflictError, match=problem):
            talk.react(reactions.edit, first, EditForm(text=text))
    talk.say("And?", "Yes.")
    with pytest.raises(ConflictError, match="the conversation has gone on"):
        talk.react(reactions.edit, first, EditForm(text="Hello, Ada!"))


@pytest.mark.parametrize(("verdict", "ranks"), [("better", (2, 1)), ("worse", (1, 2)), ("same", (1, 1))])
def test_an_answer_drawn_again_is_compared_with_the_one_before(
    talk: Talk, verdict: Any, ranks: tuple[int, ...]
) -> None:
    talk.again("Hey!")
    talk.again("Ho!")
    said = ranking(talk.react(reactions.compare, talk.last, ComparisonForm(verdict=verdict)))
    assert [r.text for r in said.responses] == ["Hey!", "Ho!"]
    assert (said.ranks, said.shown_order) == (ranks, (0, 1))


def test_what_cannot_be_compared(talk: Talk, pair: Talk) -> None:
    with pytest.raises(ConflictError, match="no earlier answer"):
        talk.react(reactions.compare, talk.last, ComparisonForm(verdict="same"))
    pair.react(reactions.choice, ChoiceForm(better=0))
    for each in pair.turns[-1].variants:
        with pytest.raises(ConflictError, match="no earlier answer"):
            pair.react(reactions.compare, each, ComparisonForm(verdict="same"))


def test_nothing_is_recorded_before_consent_was_asked_for(world: World) -> None:
    talk = Talk(world, world.user("ada", role="chat"))
    talk.say("Hello", "Hi!")
    with pytest.raises(ConflictError, match="say first whether"):
        talk.react(reactions.thumb, talk.last, UP)
    with pytest.raises(ConflictError, match="say first whether"):
        talk.react(reactions.edit, talk.last, EditForm(text="x"))
    assert talk.lines == []
    assert talk.said == ["Hello", "Hi!"]
    talk.react(reactions.give_consent, False)
    line = talk.react(reactions.thumb, talk.last, UP)
    assert not line.consent
    assert [each.id for each in talk.lines] == [line.id]
    assert training(talk) == []


def test_withdrawing_consent_takes_back_what_was_given_under_it(world: World, talk: Talk) -> None:
    other = Talk(world, talk.user, consent=True)
    other.say("Hello", "Hi!")
    kept = other.react(reactions.thumb, other.last, UP)
    talk.react(reactions.thumb, talk.last, UP)
    talk.do(exchanges.reword, "Hello!")  # what was said about a replaced answer counts as well
    talk.do(exchanges.reconcile)
    talk.again("Hey!")
    talk.react(reactions.edit, talk.last, EditForm(text="Ho!"))
    assert len(training(talk)) == 3
    assert talk.react(reactions.give_consent, False) == 2
    assert [line.id for line in talk.lines] == [kept.id]
    talk.react(reactions.give_consent, True)
    assert len(training(talk)) == 1


def test_deleting_a_conversation_with_or_without_what_was_said(talk: Talk) -> None:
    talk.react(reactions.thumb, talk.last, UP)
    assert talk.react(reactions.take_all_back) == 1
    line = talk.react(reactions.thumb, talk.last, UP)
    talk.do(conversations.erase)
    assert [ranking(each).responses[0].text for each in talk.lines] == ["Hi!"]
    assert talk.lines[0].id == line.id


def test_what_is_still_written_or_failed_is_not_judged(talk: Talk) -> None:
    talk.do(exchanges.say, "And?")
    with pytest.raises(ConflictError, match="still being written"):
        talk.react(reactions.thumb, talk.last, UP)
    talk.do(exchanges.reconcile)
    with pytest.raises(ConflictError, match="no model's answer"):
        talk.react(reactions.thumb, talk.last, UP)


def test_a_stopped_answer_is_judged_as_cut_off(talk: Talk) -> None:
    ask = talk.do(exchanges.say, "And?")
    talk.write(ask, "Well, I", state="stopped")
    said = ranking(talk.react(reactions.thumb, talk.last, DOWN))
    provenance = said.responses[0].provenance
    assert provenance is not None
    assert (provenance.ended, provenance.seed, provenance.model) == (False, ask.seed, "tiny")
