"""Several processes as one world: sums, order, who computes, and what is said when one of them ends."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from tests.cluster.gangs import in_gang
from torch import nn

from palate import recipe
from palate.cluster import gang as gangs
from palate.cluster.gang import Gang
from palate.errors import PeerError, RunError, SilentError
from palate.lm.batch import Sequences, per_token
from palate.lm.microbatches import divided
from palate.lm.optim import Optimizer
from palate.lm.sources.zoo import load_language_model, load_scalar_model
from palate.recipe import Sampling
from palate.records import Prompt
from palate.rewards.learned import raw_scores
from palate.rewards.mix import Mix
from palate.rollout.local import LocalEngine
from palate.run.directory import Run
from palate.stages.reinforcement.watching import check_on_policy


def sequences() -> Sequences:
    """Eleven responses to four prompts."""
    drawn = torch.Generator().manual_seed(1)
    prompts = [torch.randint(3, 200, (length,), generator=drawn).tolist() for length in (5, 9, 3, 6)]
    lengths = (4, 7, 2, 9, 3, 1, 8, 2, 6, 5, 3)
    responses = [torch.randint(3, 200, (length,), generator=drawn).tolist() for length in lengths]
    return Sequences.pack([prompts[row % 4] for row in range(11)], responses, group_ids=[row % 4 for row in range(11)])


def test_parts_come_back_in_their_order_and_sums_are_sums(tmp_path: Path) -> None:
    """gloo's average is silently a sum (pytorch 162338): nothing here may depend on which of them it is asked for."""

    def work(gang: Gang) -> Any:
        squares = [place**2 for place in gang.mine(range(7))]
        few = gang.whole(list(gang.mine(["alone"])), "one part")
        numbers = [torch.full((3,), 1.0 + gang.rank), torch.full((2, 2), 0.5), torch.tensor(gang.rank)]
        gang.add(numbers, "numbers")
        computed = gang.once(lambda: gang.rank + 41, "a number")
        return squares, gang.whole(squares, "squares"), few, [each.tolist() for each in numbers], computed

    found = in_gang(3, tmp_path / "gang", work)
    assert [each[0] for each in found] == [[0, 9, 36], [1, 16], [4, 25]]
    for _, whole, few, sums, computed in found:
        assert whole == [0, 1, 4, 9, 16, 25, 36]
        assert few == ["alone"]
        assert sums == [[6.0] * 3, [[1.5, 1.5], [1.5, 1.5]], 3]
        assert computed == 41


def test_many_numbers_are_added_a_bucket_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gangs, "BUCKET", 10)

    def work(gang: Gang) -> Any:
        tensors = [torch.arange(float(count)) for count in (4, 7, 25, 1, 2)] + [torch.ones(3, dtype=torch.float64)]
        gang.add(tensors, "numbers")
        return gang.count, [each.tolist() for each in tensors]

    for count, sums in in_gang(2, tmp_path / "gang", work):
        assert count == 6, "five sums, after the beginning"
        assert sums == [[2.0 * each for each in range(count)] for count in (4, 7, 25, 1, 2)] + [[2.0] * 3]


def test_an_update_is_that_of_one_process(tmp_path: Path) -> None:
    """Also where a process has no gradient of a weight, or nobody has one: weight decay then leaves it alone."""

    def updated(parts: list[int]) -> dict[str, Any]:
        torch.manual_seed(0)
        model = nn.ModuleDict({name: nn.Linear(3, 2) for name in ("both", "first", "nobody")})
        optimizer = Optimizer(model, recipe.Optimizer(learning_rate=0.1, weight_decay=0.5), 10, name="policy")
        x = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]])
        for part in parts:
            loss = model["both"](x[part]).square().sum() + (model["first"](x[part]).sum() if part == 0 else 0.0)
            loss.backward()
        told = optimizer.step(0)
        names = sorted(optimizer.state_dict())
        return {"told": told, "names": names, **{key: p.detach().clone() for key, p in model.named_parameters()}}

    one, found = updated([0, 1]), in_gang(2, tmp_path / "gang", lambda gang: updated([gang.rank]))
    for each in found:
        assert each["names"] == one["names"]
        assert not any("nobody" in name and name.startswith("exp") for name in each["names"])
        assert each["told"] == pytest.approx(one["told"])
        for key, value in one.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(each[key], value)
                assert torch.equal(each[key], found[0][key]), "the same bits everywhere"


def test_whatever_is_computed_in_parts_is_whole_everywhere(tmp_path: Path) -> None:
    """Log-probabilities, scores, the trunk and responses; three processes, of which one may have nothing to do."""
    loaded, scalar = load_language_model("tiny", precision="fp32"), load_scalar_model("tiny", precision="fp32").model
    loaded.model.freeze(1)
    prompts = [Prompt.from_text(text) for text in ("Hello there", "What is it?", "Hello there", "Go on.")]

    def compute() -> dict[str, Any]:
        batch, found = sequences(), {}
        trunk = loaded.model.trunk(batch, max_tokens=30)
        assert trunk is not None
        found["trunk"] = torch.cat([trunk.responses[row] for row in range(11)] + [trunk.prompts[0]])
        found["logprobs"] = per_token(batch, 30, lambda part: loaded.model.logprobs(part, temperature=1.0, trunk=trunk))
        found["one part"] = per_token(batch.select(torch.tensor([0])), 30, lambda part: part.mask.float())
        found["scores"] = raw_scores(scalar, batch, 30)
        engine = LocalEngine(loaded.model, loaded.chat)
        rollout = engine.generate(prompts, Sampling(max_new_tokens=5), num_responses=2, key=("drawn",))
        return found | {"texts": rollout.texts, "drawn": rollout.logprobs}

    one, several = compute(), in_gang(3, tmp_path / "gang", lambda _: compute())
    for each in several:
        assert each["texts"] == one["texts"]
        assert len(set(each["texts"])) > 6, "a prompt that is given twice gets other responses"
        for name in ("trunk", "logprobs", "one part", "scores", "drawn"):
            torch.testing.assert_close(each[name], one[name], rtol=1e-4, atol=1e-5)
            assert torch.equal(each[name], several[0][name])


@given(
    lengths=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=20),
    max_tokens=st.integers(1, 40),
    among=st.integers(1, 5),
    whole_groups=st.booleans(),
)
def test_every_sequence_is_in_one_microbatch(
    lengths: list[tuple[int, int]], max_tokens: int, among: int, whole_groups: bool
) -> None:
    """Of the size allowed; and for several processes as many as there is something for, none of them left out."""
    batch = Sequences.pack(
        [[1] * (4 + group) for group, _ in lengths],
        [[2] * length for _, length in lengths],
        group_ids=[group for group, _ in lengths],
    )
    parts = divided(batch, max_tokens, whole_groups=whole_groups, among=among)
    assert sorted(row for part in parts for row in part.tolist()) == list(range(len(lengths)))
    for part in parts:
        groups = batch.group_ids[part].unique()
        tokens = sum(4 + int(group) for group in groups) + int((batch.lengths - batch.prompt_lengths)[part].sum())
        assert tokens <= max_tokens or len(part) == 1 or (whole_groups and len(groups) == 1)
        if whole_groups:
            others = [other for other in parts if other is not part]
            assert not any(torch.isin(batch.group_ids[other], groups).any() for other in others)
    alone = divided(batch, max_tokens, whole_groups=whole_groups)
    assert len(alone) <= len(parts) <= -(-len(alone) // among) * among
    units = len(batch.group_ids.unique()) if whole_groups else len(batch)
    if among == 2 and units >= 2 and len(set(lengths)) == 1:
        assert len(parts) >= 2, "alike as they are, both have something to do"


def test_what_is_somebody_elses_is_asked_once(tmp_path: Path) -> None:
    """A reward's function, and a number that the recipe leaves open and memory decides."""

    def work(gang: Gang) -> Any:
        rewards = Mix((recipe.Reward(function="tests.cluster.gangs:process"),))
        run = Run.open(tmp_path / "run", recipe.SFTRecipe(data={"path": "x"}))
        return rewards([Prompt.from_text("Hi")] * 2, ["a", "b"]).tolist(), run.settle("tokens", lambda: 5 + gang.rank)

    first, second = in_gang(2, tmp_path / "gang", work)
    assert first == second
    assert first[1] == 5


def test_sampler_and_trainer_are_compared_on_every_token(tmp_path: Path) -> None:
    """Not on those of one process, which would then end alone."""

    def work(gang: Gang) -> Any:
        own = [torch.full((3,), 0.01 * place) for place in gang.mine(range(4))]
        return check_on_policy(own, 4, clip_range=0.2, step=0)

    for found in in_gang(2, tmp_path / "gang", work):
        assert found["sampler/gap"] == pytest.approx(0.015)
        assert found["sampler/gap_max"] == pytest.approx(0.03)


def test_there_is_a_gpu_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for rank, error in (("0", RunError), ("1", SilentError)):
        for name, value in {"RANK": rank, "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MASTER_ADDR", "localhost")
        monkeypatch.setenv("MASTER_PORT", "1")
        with pytest.raises(error, match="2 processes" if rank == "0" else None), gangs.joined():
            pass


def test_how_long_others_are_waited_for_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[timedelta] = []

    def meets(_: str, *, timeout: timedelta) -> Any:
        asked.append(timeout)
        raise RunError("nobody there")

    monkeypatch.setattr(gangs, "rendezvous", meets)
    for said, error in (("", "nobody there"), ("7200", "nobody there"), ("long", "PALATE_PEER_TIMEOUT = 'long'")):
        monkeypatch.setenv("PALATE_PEER_TIMEOUT", said)
        with pytest.raises(RunError, match=error), gangs.joined():
            pass
    assert asked == [timedelta(minutes=30), timedelta(hours=2)]


def test_weights_that_have_drifted_apart_are_noticed(tmp_path: Path) -> None:
    """All make the same updates, so at a checkpoint all have the same bits, or something is wrong."""

    def work(gang: Gang) -> Any:
        model = nn.Linear(3, 2)
        with torch.no_grad():
            model.weight.fill_(1.0)
            model.bias.fill_(0.5 if gang.rank == 0 else 0.5 + 2e-7)
        optimizer = Optimizer(model, recipe.Optimizer(), 10, name="policy")
        run = Run.open(tmp_path / "run", recipe.SFTRecipe(data={"path": "x"}))
        for step in run.steps(2, every=1, keep=1, state={"policy": optimizer}):
            run.log(step, {"sft/loss": 1.0})

    found = in_gang(2, tmp_path / "gang", work)
    told = [str(each) for each in found if not isinstance(each, SilentError)]
    assert told
    assert all(each.startswith("the weights of process 1 are not those of process 0") for each in told)
    assert not [*(tmp_path / "run" / "checkpoints").glob("step-*")]


@pytest.mark.parametrize("whole_groups", [False, True])
def test_a_batch_that_fits_in_one_pass_is_divided_all_the_same(whole_groups: bool) -> None:
    batch = Sequences.pack([[1, 1, 1]] * 12, [[2] * 4] * 12, group_ids=[row // 2 for row in range(12)])
    for among, sizes in ((1, [12]), (2, [6, 6]), (3, [4, 4, 4])):
        parts = divided(batch, 4096, whole_groups=whole_groups, among=among)
        assert [len(part) for part in parts] == sizes


def test_an_error_of_one_ends_the_others_with_its_status(tmp_path: Path) -> None:
    """Wherever they wait: the one who spoke is the one to be read."""

    def work(gang: Gang) -> Any:
        gang.whole([gang.rank], "the first meeting")
        if gang.rank == 1:
            raise RunError("the disk is full")
        gang.add([torch.ones(3)], "gradients")
        return gang.once(lambda: "never", "a word")

    first, second, third = in_gang(3, tmp_path / "gang", work)
    assert str(second) == "the disk is full"
    for other in (first, third):
        assert isinstance(other, SilentError), other
        assert other.status == 2


def test_a_process_that_is_gone_is_named(tmp_path: Path) -> None:
    def work(gang: Gang) -> Any:
        gang.whole([gang.rank], "the first meeting")
        if gang.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        gang.add([torch.ones(3)], "gradients of the policy")

    found = in_gang(2, tmp_path / "gang", work)
    assert found[1] is None
    assert isinstance(found[0], PeerError), found[0]
    assert found[0].status == 3
    assert "waited for 'gradients of the policy', and one is gone" in str(found[0])
    assert "process 1 was last at 'the first meeting'" in str(found[0])


def test_a_process_that_does_not_come_is_named(tmp_path: Path) -> None:
    """Nothing hangs without a word (verl 7180)."""
    hold = tmp_path / "hold"
    os.mkfifo(hold)

    def work(gang: Gang) -> Any:
        second = timedelta(seconds=1)
        hasty = Gang(gang.store, here=2, patience=second, group=dist.new_group(backend="gloo", timeout=second))
        if gang.rank == 1:
            hold.read_bytes()  # until the other one has given up
            return None
        try:
            return hasty.add([torch.ones(3)], "gradients")
        finally:
            hold.write_bytes(b"")

    found = in_gang(2, tmp_path / "gang", work)
    assert found[1] is None
    assert isinstance(found[0], PeerError), found[0]
    assert "waited for 'gradients', and one did not come within 1 s: process 1 was last at 'the beg" in str(found[0])


def test_processes_that_read_other_files_are_told(tmp_path: Path) -> None:
    """A disk that not all of them see may hold something else."""

    def work(gang: Gang) -> Any:
        run = Run.open(tmp_path / "run", recipe.SFTRecipe(data={"path": "x"}))
        run.add_inputs({"data": {"x": "1"}})
        run.add_inputs({"model": "one" if gang.rank == 0 else "another"})

    found = in_gang(2, tmp_path / "gang", work)
    told = [str(each) for each in found if not isinstance(each, SilentError)]
    assert told
    assert all(each.startswith("model of process 1 is not what process 0 reads") for each in told)
