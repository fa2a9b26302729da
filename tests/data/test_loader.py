"""The loader: a batch is a function of (seed, step)."""

import collections
import dataclasses
import multiprocessing

import jax
import numpy as np
import pytest

from relay_jax.base import DecoderBatch, LoopedBatch
from relay_jax.config import ModelConfig, TrainConfig
from relay_jax.config_io import build
from relay_jax.data.buckets import check_lengths, open_buckets
from relay_jax.data.loader import step_at, steps
from relay_jax.tasks import make_task
from relay_jax.tasks.arithmetic import Arithmetic


def config(buckets=None, **values):
    easy = {"task": "arithmetic", "lengths": (1, 3), "options": {"modulus": 5}}
    hard = {"task": "lis", "lengths": (2, 12), "weight": 3.0}
    buckets = {"easy": easy, "hard": hard} if buckets is None else buckets
    return build(TrainConfig, {"data": {"batch_size": 4, "buckets": buckets}, **values})


def assert_equal(one, two):
    assert (one.step, one.task, one.num_loops) == (two.step, two.task, two.num_loops)
    assert type(one.batch) is type(two.batch)
    jax.tree.map(np.testing.assert_array_equal, one.batch, two.batch)


@pytest.mark.parametrize("kind", ["looped", "decoder"])
def test_starting_in_the_middle_gives_the_same_steps(kind, tmp_path):
    run = config(model={"kind": kind})
    through = list(steps(run, tmp_path, 0, 24))
    assert [now.step for now in through] == list(range(24))
    for now, later in zip(through[17:], steps(run, tmp_path, 17, 24), strict=True):
        assert_equal(now, later)
    assert_equal(step_at(20, open_buckets(run), run), through[20])
    batches = {"looped": LoopedBatch, "decoder": DecoderBatch}
    assert all(type(now.batch) is batches[kind] for now in through)


def test_worker_processes_build_the_same_batches_and_end_with_the_iterator(tmp_path):
    run = config()
    data = dataclasses.replace(run.data, num_workers=2)
    parallel = steps(dataclasses.replace(run, data=data), tmp_path, 17, 1000)
    alone = steps(run, tmp_path, 17, 21)
    for now, one in zip(parallel, alone):
        assert_equal(now, one)
    assert len(multiprocessing.active_children()) == 2
    parallel.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("kind", ["looped", "decoder"])
def test_a_process_can_build_some_rows_alone(kind):
    """Its rows are as wide as any row could be; the additional columns are padding."""
    run = config(model={"kind": kind})
    buckets = open_buckets(run)
    rows, widths = np.array([1, 2]), set()
    for step in range(12):
        whole, part = (step_at(step, buckets, run, r).batch for r in (None, rows))
        widths.add((step_at(step, buckets, run).task.name, part[0].shape[-1]))
        for name, all_, local in zip(whole._fields, whole, part, strict=True):
            local = local.swapaxes(0, 1) if name in ("rounds", "mask") else local
            all_ = all_.swapaxes(0, 1) if name in ("rounds", "mask") else all_
            assert len(local) == 2
            if local.ndim > 1:  # looped batches are aligned to the right
                more = local.shape[-1] - all_.shape[-1]
                assert more >= 0 and not local[..., :more].any() or kind == "decoder"
                columns = (
                    slice(more, None) if kind == "looped" else slice(all_.shape[-1])
                )
                assert np.count_nonzero(local) == np.count_nonzero(local[..., columns])
                local = local[..., columns]
            np.testing.assert_array_equal(local, all_[rows])
    assert len(widths) == 2  # one per bucket, for all rows


def test_all_steps_and_seeds_differ():
    first = [config(), config(seed=1)]
    buckets = [open_buckets(run) for run in first]
    seen = {
        step_at(step, opened, run).batch.problem.tobytes()
        for run, opened in zip(first, buckets)
        for step in range(30)
    }
    assert len(seen) == 60


def test_step_and_row_give_the_example():
    """Row i of step s is example s * batch_size + i of the bucket's source."""
    run = config({"one": {"task": "edit_distance", "lengths": (3, 5)}})
    [bucket] = open_buckets(run)
    expected = bucket.source.take(np.arange(28, 32))
    now = step_at(7, [bucket], run)
    np.testing.assert_array_equal(now.batch.answer, expected.answer)
    np.testing.assert_array_equal(now.batch.num_rounds, expected.num_rounds)


def test_buckets_are_drawn_by_weight():
    run = config()
    buckets = open_buckets(run)
    assert [bucket.num_loops for bucket in buckets] == [3, 2]
    drawn = collections.Counter(
        step_at(step, buckets, run).task.name for step in range(400)
    )
    assert abs(drawn["lis"] / 400 - 3 / 4) < 0.06
    for step in range(5):
        now = step_at(step, buckets, run)
        assert now.num_loops == now.batch.rounds.shape[0]
        assert now.num_loops == {"lis": 2, "arithmetic": 3}[now.task.name]


def test_a_bucket_is_not_drawn_before_its_start():
    easy = {"task": "arithmetic", "lengths": (1, 3), "options": {"modulus": 5}}
    late = {"task": "lis", "lengths": (2, 12), "weight": 3.0, "start_share": 0.25}
    run = config({"easy": easy, "late": late}, num_steps=40)
    buckets = open_buckets(run)
    names = [step_at(step, buckets, run).task.name for step in range(40)]
    assert set(names[:10]) == {"arithmetic"}
    assert 20 <= names[10:].count("lis") < 30
    for step in range(10, 40):  # afterwards, steps are as if it had always been there
        always = [bucket._replace(first_step=0) for bucket in buckets]
        assert step_at(step, always, run).task.name == names[step]


def test_a_bucket_of_first_rounds_has_fewer_loops():
    whole = {"task": "arithmetic", "lengths": (1, 4), "options": {"modulus": 5}}
    runs = [config({"b": whole | {"max_rounds": n}}) for n in (0, 1, 9)]
    full, cut, more = (step_at(3, open_buckets(run), run) for run in runs)
    assert (full.num_loops, cut.num_loops, more.num_loops) == (4, 1, 4)
    np.testing.assert_array_equal(cut.batch.rounds, full.batch.rounds[:1])
    np.testing.assert_array_equal(cut.batch.num_rounds, 1)
    jax.tree.map(np.testing.assert_array_equal, full.batch, more.batch)


def test_a_bucket_with_sampled_rounds_has_all_rounds_in_its_batch():
    whole = {"task": "lis", "lengths": (1, 30), "options": {"group": 10}}
    runs = [config({"b": whole | {"sampled_rounds": n}}) for n in (0, 2, 9)]
    full, drawn, more = (step_at(3, open_buckets(run), run) for run in runs)
    assert (full.num_loops, drawn.num_loops, more.num_loops) == (3, 2, 3)
    assert full.batch.rounds.shape[::2] == (3, 12)  # ten numbers, a comma, the boundary
    jax.tree.map(np.testing.assert_array_equal, full.batch, drawn.batch)


def test_make_task():
    assert make_task("arithmetic", {"modulus": 7}) == Arithmetic(7)
    assert make_task("arithmetic") == Arithmetic(11)
    check_lengths(make_task("arithmetic"), (1, 1), ModelConfig(num_numbers=11))


def refusal(call, *arguments):
    with pytest.raises(ValueError) as error:
        call(*arguments)
    return str(error.value)


def test_messages(tmp_path):
    assert refusal(make_task, "sorting") == (
        "unknown task 'sorting'; valid tasks: arithmetic, edit_distance, lis"
    )
    assert refusal(make_task, "arithmetic", {"modulus": 6}) == (
        "arithmetic: modulus must be a prime, got 6"
    )
    assert "modulo" in refusal(make_task, "arithmetic", {"modulo": 5})
    assert refusal(open_buckets, config({})) == (
        "data.buckets is empty; name at least one task to train on"
    )
    one = {"task": "lis", "lengths": (1, 3)}
    assert refusal(open_buckets, config({"one": one | {"start_share": 1.0}})) == (
        "data.buckets.one.start_share must be at least 0 and below 1, got 1.0"
    )
    assert refusal(open_buckets, config({"one": one | {"start_share": 0.5}})) == (
        "every bucket of data.buckets has a start_share above 0, so training has "
        "nothing to start with; set start_share=0 for at least one"
    )
    for lengths in [(0, 3), (4, 3)]:
        run = config({"one": {"task": "lis", "lengths": lengths}})
        assert refusal(open_buckets, run) == (
            f"lis: lengths {lengths[0]}..{lengths[1]} are out of range; give "
            "(shortest, longest) with 1 <= shortest <= longest"
        )
    long = config({"one": {"task": "arithmetic", "lengths": (1, 100_000)}})
    assert refusal(open_buckets, long) == (
        "arithmetic: a chain of length 100000 has up to 39,999,600,000 tokens, more "
        "than the 262,144 that are supported; use shorter problems"
    )
    run = config(
        {"one": {"task": "edit_distance", "lengths": (1, 30)}},
        model={"num_numbers": 94},
    )
    assert refusal(open_buckets, run) == (
        "edit_distance: problems of length 30 contain numbers up to 94, but the "
        "vocabulary ends at 93; raise model.num_numbers"
    )
    one = {"task": "lis", "lengths": (1, 2), "kind": "chains", "path": "none"}
    assert refusal(open_buckets, config({"one": one}), tmp_path / "run") == (
        f"{tmp_path}/none has no finished chains; generate them with "
        "python -m experiments.write_chains --config=... --workdir=..."
    )
