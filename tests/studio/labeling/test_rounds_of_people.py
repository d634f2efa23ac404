"""What `palate rounds` hands to people comes back from the web app as it wants it: a batch's file, and its export."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.studio.conftest import Client, ClientOf, Studio

from palate.experiments.rounds.judging import FROM_PEOPLE, Judged, People
from palate.feedback.store.tables import User
from palate.feedback.tasks import judgements, queue
from palate.feedback.tasks.judgements import RankingForm
from palate.records import Candidates, Prompt, Provenance, Response


def candidates(first: int) -> list[Candidates]:
    """As a round samples them: texts with what a model writes at their ends, and where they came from."""
    return [
        Candidates(
            prompt=Prompt.from_text(f"What of {number}?", system="Be brief.", tags={"subject": "rain"}),
            responses=tuple(
                Response(text=f"{text} {number}.", provenance=Provenance(model="runs/x", seed=3, sample_index=place))
                for place, text in enumerate((" Much\nof", "Naïve 中", "No "))
            ),
        )
        for number in range(first, first + 2)
    ]


@pytest.fixture
def admin(client_of: ClientOf) -> Client:
    return client_of("admin")


def batch_of(admin: Client, name: str, items: list[Candidates]) -> str:
    files = {"file": ("candidates.jsonl", "".join(item.to_json() + "\n" for item in items).encode())}
    made = admin.post("/api/batches/file", files=files, data={"name": name, "kind": "ranking"})
    assert made.status_code == 201, made.text
    assert made.json()["added"] == len(items)
    return str(made.json()["id"])


def test_a_batch_of_a_rounds_candidates_comes_back(
    admin: Client, studio: Studio, client_of: ClientOf, tmp_path: Path
) -> None:
    rounds = [candidates(0), candidates(2)]
    batches = [batch_of(admin, f"round {number}", items) for number, items in enumerate(rounds, start=1)]
    worker = client_of("labeler").user
    for batch in batches:
        for _ in range(2):
            with studio.store.write() as session:
                user = session.get_one(User, worker.id)
                task = queue.claim(session, user, batch_id=batch)
                assert task is not None
                ranks = judgements.by_place(task.shown_order, (2, 1, 3))
                judgements.submit_ranking(session, user, task, RankingForm(ranks=ranks, seconds=60, confirmed=True))
    answer = admin.get("/api/exports/palate", params={"batch": batches[1]})
    assert answer.status_code == 200, answer.text
    (tmp_path / FROM_PEOPLE).write_text(answer.text, encoding="utf-8")
    found = People(1.0)(rounds[1], tmp_path)
    assert isinstance(found, Judged)
    assert found.notes == ()
    by_text = [
        dict(zip((response.text for response in ranking.responses), ranking.ranks, strict=True))
        for ranking in sorted(found.rankings, key=lambda ranking: ranking.prompt.text)
    ]
    assert by_text == [{f" Much\nof {n}.": 2, f"Naïve 中 {n}.": 1, f"No  {n}.": 3} for n in (2, 3)]
    assert {ranking.source for ranking in found.rankings} == {"human"}

    # the whole workspace will do as well: what is not about this round is counted
    everything = admin.get("/api/exports/palate")
    (tmp_path / FROM_PEOPLE).write_text(everything.text, encoding="utf-8")
    found = People(1.0)(rounds[1], tmp_path)
    assert isinstance(found, Judged)
    assert len(found.rankings) == 2
    assert found.notes == ("2 of 4 judgements compare none of this round's candidates",)
