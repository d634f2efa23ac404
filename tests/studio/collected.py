"""A workspace in which something was collected: rankings with ties, pairs, demonstrations, thumbs, edits, a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from palate.feedback.store.database import Store
from palate.feedback.store.tables import Batch, Item, User
from palate.feedback.tasks import batches, judgements, queue
from palate.feedback.tasks.batches import BatchPlan
from palate.feedback.tasks.judgements import DemonstrationForm, RankingForm
from palate.records import Demonstration, Prompt, Provenance, Ranking, Response


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """Ids of batches, and how many judgements were made of each kind."""

    ranking: str
    pair: str
    demonstration: str
    screening: str


def collect(store: Store, people: Sequence[User], *, texts: Sequence[str] = ()) -> Collected:
    """Everyone ranks two items of four (with a tie) and one pair, and writes one demonstration; the first talks too."""
    texts = texts or [f"answer number {index}" for index in range(4)]
    ranking = _batch(store, texts, "ranking", items=2, k=4, overlap=len(people))
    pair = _batch(store, texts, "pair", items=1, k=2, overlap=len(people))
    shown = _batch(store, texts, "demonstration", items=1, k=0, overlap=len(people))
    test = _batch(store, texts, "ranking", items=1, k=2, is_screening=True, threshold=0.5, gold=(1, 2))
    for number, user in enumerate(people):
        for kind in ("ranking", "ranking", "pair", "demonstration"):
            _work(store, user, {"ranking": ranking, "pair": pair, "demonstration": shown}[kind], kind, number)
        _work(store, user, test, "pair", 0)
    _talk(store, people[0])
    return Collected(ranking=ranking, pair=pair, demonstration=shown, screening=test)


def _batch(
    store: Store,
    texts: Sequence[str],
    kind: str,
    *,
    items: int,
    k: int,
    gold: tuple[int, ...] | None = None,
    **plan: object,
) -> str:
    with store.write() as session:
        plan = {"name": f"{kind} {'test' if gold else 'batch'}", "kind": kind, **plan}
        batch = batches.create_batch(session, BatchPlan(**plan), by=None)  # type: ignore[arg-type]
        for number in range(items):
            prompt = Prompt.from_text(f"{kind}{' test' if gold else ''} question {number}")
            batches.add_prompts(session, [prompt])
            drawn = Provenance(model="some-model", seed=number)
            rows = [
                batches.add_response(session, prompt.id, Response(text=text, provenance=drawn)) for text in texts[:k]
            ]
            batches.add_item(session, batch, prompt.id, [row.id for row in rows], gold=gold)
        return batch.id


def _work(store: Store, user: User, batch_id: str, kind: str, number: int) -> None:
    """Ranks differ from person to person; ratings go with them."""
    with store.write() as session:
        user = session.get_one(User, user.id)
        batch = session.get_one(Batch, batch_id)
        item = session.scalars(select(Item).where(Item.batch_id == batch_id)).first()
        assert item is not None
        user.screening = None if batch.is_screening else "passed"
        task = queue.claim(session, user, batch_id=batch_id)
        assert task is not None, batch.name
        if kind == "demonstration":
            form = DemonstrationForm(text=f"my way, number {number}", seconds=60, confirmed=True)
            judgements.submit_demonstration(session, user, task, form)
            return
        by_response = (1, 2, 2, 3) if kind == "ranking" and number % 2 == 0 else (2, 1, 3, 3)
        places = judgements.by_place(task.shown_order, by_response[: len(task.shown_order)])
        more = (
            {"strength": 2} if kind == "pair" and not batch.is_screening else {"ratings": [8 - 2 * r for r in places]}
        )
        form_ = RankingForm(ranks=places, seconds=60, confirmed=True, comment="a comment", **more)  # type: ignore[arg-type]
        judgements.submit_ranking(session, user, task, form_)


def _talk(store: Store, user: User) -> None:
    """A thumb, an edited answer, and a thumb without consent."""
    prompt = Prompt.from_text("what people ask in the chat")
    drawn = Response(text="what the model said", provenance=Provenance(model="some-model"))
    thumb = Ranking(prompt=prompt, responses=(drawn,), ranks=(1,), ratings=(7,), labeler=user.name)
    edit = Ranking(prompt=prompt, responses=(drawn, Response(text="my version")), ranks=(2, 1), labeler=user.name)
    secret = Ranking(
        prompt=Prompt.from_text("a private matter"), responses=(drawn,), ranks=(1,), ratings=(1,), labeler=user.name
    )
    with store.write() as session:
        user = session.get_one(User, user.id)
        for kind, record, consent in (("thumb", thumb, True), ("edit", edit, True), ("thumb", secret, False)):
            judgements.append(
                session, kind, record.model_dump(mode="json", exclude_defaults=True), user, consent=consent
            )


def texts_and_preferences(records: Sequence[object]) -> set[tuple[str, str, str]]:
    """(prompt, better, worse) of every pair, (prompt, response, "shown") of a demonstration, thumbs as up or down."""
    said: set[tuple[str, str, str]] = set()
    for record in records:
        if isinstance(record, Ranking):
            responses = [response.text for response in record.responses]
            said |= {(record.prompt.text, responses[better], responses[worse]) for better, worse in record.pairs}
            if len(responses) == 1 and record.ratings:
                said.add((record.prompt.text, responses[0], "up" if record.ratings[0] > 4 else "down"))
        elif isinstance(record, Demonstration):
            said.add((record.prompt.text, record.response.text, "shown"))
    return said
