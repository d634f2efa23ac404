"""A draft, its critiques and its revisions: how a model is asked for them, and the demonstration that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from palate.recipe import Principle
from palate.records import AI, Demonstration, Message, Prompt, Record, Response, Revision, Role
from palate.rewards.judges.constitutions import drawn
from palate.rewards.judges.judge_model import JudgeModel

CUT_OFF, EMPTY = "the revision was cut off", "the revision is empty"


class Revised(Record):
    """A prompt, and what became of its draft.

    Attributes:
        response: the last that was written, with all that went before in its provenance; None if nothing was.
        left_out: why there is no demonstration of it; empty if there is one.
    """

    prompt: Prompt
    response: Response | None
    left_out: str = ""

    @property
    def revisions(self) -> tuple[Revision, ...]:
        """Round by round."""
        return self.response.provenance.revisions if self.response and self.response.provenance else ()

    @property
    def draft(self) -> str:
        """What it was before the first round."""
        return self.revisions[0].draft if self.revisions else ""

    @property
    def changed(self) -> bool:
        """Whether the last revision says something else than the draft, white space aside."""
        return self.response is not None and self.response.text.split() != self.draft.split()

    def demonstration(self, model: str) -> Demonstration | None:
        """Marked as AI's; None where it is left out."""
        if self.left_out or self.response is None:
            return None
        return Demonstration(prompt=self.prompt, response=self.response, author=AI + model)


@dataclass(slots=True, kw_only=True)
class InWork:
    """A prompt on its way.

    Attributes:
        principles: one for each round.
        current: what was written last: a draft, or a revision.
        critique: of it, once there is one.
        rounds: that are done.
        reason: why it goes no further.
    """

    prompt: Prompt
    principles: Sequence[Principle]
    constitution: str
    current: Response | None = None
    critique: str = ""
    rounds: list[Revision] = field(default_factory=list)
    reason: str = ""

    @property
    def principle(self) -> Principle:
        """That of the round at hand."""
        return self.principles[len(self.rounds)]

    def asks(self, *said: str) -> Prompt:
        """The conversation with the draft as the assistant's turn, and further turns, the user's first."""
        assert self.current is not None, "nobody criticises what was not written"
        roles: tuple[Role, ...] = ("user", "assistant") * len(said)
        more = (Message(role=role, content=text) for role, text in zip(roles, said, strict=False))
        return self.prompt.model_copy(update={"messages": (*self.prompt.messages, self.current.message, *more)})

    def take_draft(self, response: Response) -> None:
        """The first that is written."""
        self.current = response

    def take_critique(self, response: Response) -> None:
        """What is wrong with it."""
        self.critique = response.text

    def take_revision(self, response: Response) -> None:
        """The end of a round; the revision is the next round's draft."""
        assert self.current is not None, "nobody revises what was not written"
        done = Revision(
            principle=self.principle.name,
            constitution=self.constitution,
            draft=self.current.text,
            critique=self.critique,
        )
        self.rounds.append(done)
        self.current = response

    def done(self, *, keep_cut_off: bool) -> Revised:
        """What came of it."""
        if self.current is None:
            return Revised(prompt=self.prompt, response=None, left_out=self.reason)
        assert self.current.provenance is not None, "what a model writes has its provenance"
        provenance = self.current.provenance.model_copy(update={"revisions": tuple(self.rounds)})
        cut_off = not provenance.ended and not keep_cut_off
        reason = self.reason or (EMPTY if not self.current.text else CUT_OFF if cut_off else "")
        response = self.current.model_copy(update={"provenance": provenance})
        return Revised(prompt=self.prompt, response=response, left_out=reason)


def principles_of(prompt: Prompt, principles: Sequence[Principle], rounds: int, seed: int) -> list[Principle]:
    """One for each round, by lot; each comes round again only after all the others have."""
    order = drawn(principles, len(principles), seed, "revise", prompt.id)
    return [order[number % len(order)] for number in range(rounds)]


def revise_all(
    model: JudgeModel,
    prompts: Sequence[Prompt],
    principles: Sequence[Principle],
    *,
    rounds: int,
    constitution: str,
    seed: int,
    keep_cut_off: bool,
) -> list[Revised]:
    """Draft, critiques and revisions of every prompt, in the order of the prompts.

    Args:
        principles: that may be drawn.
        constitution: the version of the file that they stand in.
        keep_cut_off: revisions that were cut off are demonstrations too.
    """
    work = [
        InWork(prompt=prompt, principles=principles_of(prompt, principles, rounds, seed), constitution=constitution)
        for prompt in prompts
    ]
    _write(model, work, lambda each: each.prompt, InWork.take_draft, purpose="draft")
    for number in range(rounds):
        _write(
            model,
            work,
            lambda each: each.asks(each.principle.critique),
            InWork.take_critique,
            purpose=f"critique {number}",
        )
        _write(
            model,
            work,
            lambda each: each.asks(each.principle.critique, each.critique, each.principle.revise),
            InWork.take_revision,
            purpose=f"revision {number}",
        )
    return [each.done(keep_cut_off=keep_cut_off) for each in work]


def _write(
    model: JudgeModel,
    work: Sequence[InWork],
    ask: Callable[[InWork], Prompt],
    take: Callable[[InWork, Response], None],
    *,
    purpose: str,
) -> None:
    """One text for every prompt that goes on."""
    going = [each for each in work if not each.reason]
    for each, written in zip(going, model.write(list(map(ask, going)), purpose=purpose), strict=True):
        if written.response is None:
            each.reason = written.reason
        else:
            take(each, written.response)
