"""Jobs are real processes: they end, fail, are cancelled, killed, resumed, and outlive the app that began them."""

from __future__ import annotations

import os
import signal
import textwrap
import time
from pathlib import Path

import pytest
from tests.studio.shops import ENDS, NOTED, PATIENCE, Shop

from palate.errors import ConflictError, NotFoundError
from palate.feedback.store.tables import Job, Model, User
from palate.records import Demonstration, Prompt, Response
from palate.studio.training import jobs, launch, processes, progress


def test_jobs_run_one_at_a_time_in_their_order(shop: Shop) -> None:
    runner = shop.runner(NOTED.format("(here.parent / 'order').open('a').write(here.name + '\\n')", 0))
    ids = [shop.job("one"), shop.job("two"), shop.job("three")]
    seen = set()
    deadline = time.monotonic() + PATIENCE
    while shop.look(ids[-1]).state != "done":
        assert time.monotonic() < deadline
        runner.tick()
        seen.add(tuple(shop.look(job_id).state for job_id in ids))
    assert all(states.count("running") <= 1 for states in seen)
    assert (shop.workspace.runs / "order").read_text().split() == ["one", "two", "three"]
    done = shop.look(ids[0])
    assert done.started_at is not None
    assert done.ended_at is not None
    assert done.ended_at >= done.started_at >= done.created_at


def test_a_directory_is_used_once(shop: Shop) -> None:
    (shop.workspace.runs / "a-name").mkdir()
    ids = [shop.job("A name!"), shop.job("A name!"), shop.job("../..")]
    assert [shop.look(job_id).directory for job_id in ids] == ["runs/a-name-2", "runs/a-name-3", "runs/job"]
    assert [shop.look(job_id).name for job_id in ids] == ["A name! 2", "A name! 3", "../.."]


def test_a_failure_shows_its_one_clear_line(shop: Shop) -> None:
    script = NOTED.format("print('palate: first'); print('step 1/2'); print('palate: no such model; name another')", 2)
    runner = shop.runner(script)
    job_id = shop.job()
    shop.until(runner, shop.ended(job_id))
    assert (shop.look(job_id).state, shop.look(job_id).message) == ("failed", "no such model; name another")


def test_an_error_nobody_foresaw_shows_the_last_line_of_its_traceback(shop: Shop) -> None:
    runner = shop.runner(NOTED.format("", 1).replace("launch.write_note(here, launch.Note(process, 1))", "1 / 0"))
    job_id = shop.job()
    shop.until(runner, shop.ended(job_id))
    assert shop.look(job_id).state == "failed"
    # it wrote no status, as a process that was killed
    assert shop.look(job_id).message == jobs.KILLED
    assert "ZeroDivisionError" in progress.last_word(shop.directory(job_id))


def test_a_process_killed_from_outside_is_noticed(shop: Shop) -> None:
    runner = shop.runner(NOTED.format("time.sleep(60)", 0))
    job_id = shop.job()
    shop.until(runner, lambda: (shop.directory(job_id) / launch.FILE).exists())
    processes.signal_group(shop.process(job_id), signal.SIGKILL)
    shop.until(runner, shop.ended(job_id))
    assert (shop.look(job_id).state, shop.look(job_id).message) == ("failed", jobs.KILLED)


def test_a_restarted_app_finds_its_job_running_and_then_how_it_ended(shop: Shop) -> None:
    first = shop.runner(NOTED.format("\n    while not (here / 'go').exists(): time.sleep(0.02)", 0))
    job_id = shop.job()
    shop.until(first, lambda: (shop.directory(job_id) / launch.FILE).exists())
    second = shop.runner(ENDS)
    second.tick()
    assert shop.look(job_id).state == "running"
    (shop.directory(job_id) / "go").touch()
    shop.until(second, shop.ended(job_id))
    assert shop.look(job_id).state == "done"


def test_an_app_killed_before_it_knew_the_process_finds_it_by_its_note(shop: Shop) -> None:
    first = shop.runner(NOTED.format("time.sleep(60)", 0))
    job_id = shop.job()
    shop.until(first, lambda: (shop.directory(job_id) / launch.FILE).exists())
    with shop.workspace.store.write() as session:
        job = session.get_one(Job, job_id)
        job.pid = job.process_started = None
    second = shop.runner(ENDS)
    second.tick()
    assert shop.look(job_id).state == "running"
    shop.cancel(job_id)
    shop.until(second, shop.ended(job_id))
    assert shop.look(job_id).state == "cancelled"


def test_a_job_that_never_got_a_process_is_given_up_after_a_while(shop: Shop) -> None:
    job_id = shop.job()
    with shop.workspace.store.write() as session:
        job = session.get_one(Job, job_id)
        job.state, job.started_at = "running", time.time()
    runner = shop.runner(ENDS)
    runner.tick()
    assert shop.look(job_id).state == "running"
    with shop.workspace.store.write() as session:
        session.get_one(Job, job_id).started_at = time.time() - jobs.FOUND_WITHIN - 1
    runner.tick()
    assert shop.look(job_id).state == "failed"


def test_a_reused_number_is_not_taken_for_the_job(shop: Shop) -> None:
    job_id = shop.job()
    ours = processes.find(os.getpid())
    assert ours is not None
    with shop.workspace.store.write() as session:
        job = session.get_one(Job, job_id)
        job.state, job.started_at = "running", time.time()
        (shop.workspace.directory / job.directory).mkdir()
        job.pid, job.process_started = ours.pid, ours.started - 1000
    shop.cancel(job_id)  # were it taken for ours, this test would be interrupted
    shop.runner(ENDS).tick()
    assert shop.look(job_id).state in ("failed", "cancelled")


def test_cancelling_a_waiting_job_takes_it_out_of_the_queue(shop: Shop) -> None:
    runner = shop.runner(NOTED.format("time.sleep(60)", 0))
    first, second = shop.job("one"), shop.job("two")
    runner.tick()
    shop.cancel(second)
    assert shop.look(second).state == "cancelled"
    assert shop.look(first).state == "running"
    with pytest.raises(ConflictError, match="cancelled already"):
        shop.cancel(second)
    with pytest.raises(ConflictError, match="nothing to resume"):
        shop.resume(first)


def test_what_does_not_end_when_asked_is_ended(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "TERM_AFTER", 0.2)
    monkeypatch.setattr(jobs, "KILL_AFTER", 0.2)
    deaf = "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    runner = shop.runner(deaf + "\n" + textwrap.dedent(NOTED.format("time.sleep(60)", 0)))
    job_id = shop.job()
    shop.until(runner, lambda: (shop.directory(job_id) / launch.FILE).exists())
    shop.cancel(job_id)
    shop.until(runner, shop.ended(job_id))
    assert (shop.look(job_id).state, shop.look(job_id).message) == ("cancelled", "stopped at once")


def test_cancelled_twice_it_stops_at_once(shop: Shop) -> None:
    runner = shop.runner(
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + textwrap.dedent(NOTED.format("time.sleep(60)", 0))
    )
    job_id = shop.job()
    shop.until(runner, lambda: (shop.directory(job_id) / launch.FILE).exists())
    shop.cancel(job_id)
    runner.tick()
    assert shop.look(job_id).message == "stopping after this step"
    assert processes.is_alive(shop.process(job_id))
    shop.cancel(job_id)
    shop.until(runner, shop.ended(job_id))
    assert shop.look(job_id).state == "cancelled"


def test_a_result_that_cannot_be_used_fails_the_job_and_no_other(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = shop.runner(NOTED.format("", 0))
    broken, fine = shop.job("broken", do="register", kind="policy", parent_id=None), shop.job("fine")
    shop.until(runner, shop.ended(fine))
    assert shop.look(broken).state == "failed"
    assert "runs/broken holds no model" in shop.look(broken).message
    assert shop.look(fine).state == "done"
    assert capsys.readouterr().err == ""


def test_a_second_app_leaves_the_jobs_to_the_first(shop: Shop) -> None:
    first, second = shop.runner(ENDS), shop.runner(ENDS)
    assert first._is_ours()
    assert not second._is_ours()
    first.stop()
    assert second._is_ours()


def test_the_thread_looks_after_jobs_until_it_is_stopped(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LOOK_EVERY", 0.01)
    runner = shop.runner(NOTED.format("", 0))
    runner.start()
    job_id = shop.job()
    deadline = time.monotonic() + PATIENCE
    while shop.look(job_id).state != "done":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    runner.stop()
    later = shop.job()
    time.sleep(0.1)
    assert shop.look(later).state == "queued"


def test_there_is_no_job_of_an_unknown_id(shop: Shop) -> None:
    with shop.workspace.store.read() as session, pytest.raises(NotFoundError):
        jobs.job_of(session, "nothing")


def test_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(100)) + "\x1b[1mbold\x1b[0m\n")
    assert progress.tail(log, most=40).splitlines() == ["line 97", "line 98", "line 99", "bold"]
    assert progress.tail(tmp_path / "nothing") == ""


def test_training_is_cancelled_and_resumed_and_outlives_the_app(shop: Shop) -> None:
    """The real thing: `palate sft` on the tiny model, stopped by SIGINT, resumed, and left to a new app."""
    data = shop.workspace.data / "demonstrations.jsonl"
    shown = (
        Demonstration(prompt=Prompt.from_text(f"What is {n}?"), response=Response(text=f"{n}.")) for n in range(12)
    )
    data.write_text("".join(each.to_json() + "\n" for each in shown))
    recipe = textwrap.dedent("""
        stage = "sft"
        model = "tiny"
        precision = "fp32"
        epochs = 60
        checkpoint_every = 4
        holdout.fraction = 0.3
        data.path = "data/demonstrations.jsonl"
    """)
    with shop.workspace.store.write() as session:
        session.add(parent := Model(name="tiny", path="tiny", created_at=0.0))
    runner = shop.runner()
    job_id = shop.job("sft", recipe=recipe, do="register", kind="policy", parent_id=parent.id)
    metrics = shop.directory(job_id) / "metrics.jsonl"

    def steps() -> int:
        return metrics.read_text().count("\n") if metrics.exists() else 0

    shop.until(runner, lambda: steps() >= 2)
    shop.cancel(job_id)
    shop.until(runner, shop.ended(job_id))
    stopped = shop.look(job_id)
    assert stopped.state == "cancelled"
    assert stopped.message == f"stopped at step {steps()} of 60"

    shop.resume(job_id)
    shop.until(runner, lambda: (shop.directory(job_id) / launch.FILE).exists())
    other = shop.runner()
    shop.until(other, shop.ended(job_id))
    done = shop.look(job_id)
    assert (done.state, done.message) == ("done", "made the model sft"), progress.tail(
        shop.directory(job_id) / launch.LOG
    )
    assert steps() == 60
    with shop.workspace.store.read() as session:
        made = session.query(Model).filter(Model.job_id == job_id).one()
        assert (made.name, made.path, made.kind, made.parent_id) == ("sft", "runs/sft", "policy", parent.id)
        assert session.get_one(User, shop.admin.id).name == "admin"
