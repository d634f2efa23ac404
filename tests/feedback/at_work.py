"""A process that labels: claims and hands in until nothing is left (or for ever, with --again), printing each id."""

from __future__ import annotations

import sys

from palate.feedback.store.database import Store
from palate.feedback.store.tables import Task, User
from palate.feedback.tasks import judgements, queue
from palate.feedback.tasks.judgements import RankingForm


def main(url: str, user_ids: list[str], again: bool) -> None:
    store = Store(url)
    with store.read() as session:
        users = [session.get_one(User, user_id) for user_id in user_ids]
    while users:
        for user in list(users):
            with store.write() as session:
                task = queue.claim(session, user)
            if task is None:
                users.remove(user)
                continue
            with store.write() as session:
                task = session.get_one(Task, task.id)
                form = RankingForm(ranks=(2, 1, 3), seconds=60)
                line = judgements.submit_ranking(session, user, task, form).judgement
            assert line is not None
            print(line.id, flush=True)  # acknowledged: from now on it must not be lost
            if again:
                with store.write() as session:
                    judgements.withdraw(session, user, line)


if __name__ == "__main__":
    words = sys.argv[1:]
    main(words[0], [word for word in words[1:] if word != "--again"], "--again" in words)
