"""TFDS datasets: they are read exactly as written, and nothing else opens."""

import json
import pathlib
import pickle
import re
import subprocess
import sys
from itertools import starmap
from typing import Any

import numpy as np
import pytest

from relay_jax.base import Examples
from relay_jax.beam import Workers
from relay_jax.config import BucketConfig, DataConfig, TrainConfig
from relay_jax.data import loader, serialization, tfds_builder, tfds_source
from relay_jax.data.alignment import looped_batch
from relay_jax.data.buckets import open_buckets
from relay_jax.data.sources import BLOCK, MAX_TOKENS, SyntheticSource, shuffled
from relay_jax.tasks import TASKS
from relay_jax.tasks.arithmetic import Arithmetic
from relay_jax.tasks.edit_distance import EditDistance

ROOT = pathlib.Path(__file__).parents[2]
RANGES = [("arithmetic", (1, 6)), ("edit_distance", (2, 7)), ("lis", (1, 23))]
SMALL = Arithmetic(5)
NUM_TRAIN, NUM_TEST = BLOCK + 76, 60


def make(path, task=SMALL, lengths=(1, 6), seed=3, num_train=40, num_test=20):
    config = tfds_builder.TaskRange(
        task=task, lengths=lengths, seed=seed, num_train=num_train, num_test=num_test
    )
    return pathlib.Path(tfds_builder.build(config, path))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A directory with one dataset per task."""
    path = tmp_path_factory.mktemp("data")
    for name, lengths in RANGES:
        make(path, TASKS[name](), lengths, num_train=NUM_TRAIN, num_test=NUM_TEST)
    return path


def same(one: Examples, other: Examples):
    for field, a, b in zip(Examples._fields, one, other, strict=True):
        assert a.dtype == b.dtype, field
        np.testing.assert_array_equal(a, b, err_msg=field)


@pytest.mark.parametrize("name, lengths", RANGES)
@pytest.mark.parametrize("split, num", [("train", NUM_TRAIN), ("test", NUM_TEST)])
def test_datasets_equal_their_synthetic_source(data_dir, name, lengths, split, num):
    task = TASKS[name]()
    source = tfds_source.open_tfds(task, lengths, data_dir, 8, split)
    assert len(source) == num
    indices = np.arange(num - 20, num + 20)  # from one epoch into the next
    fresh = SyntheticSource(task, lengths, 3, split).take(shuffled(indices, num, 8))
    same(source.take(indices), fresh)


def test_vectors_are_as_drawn():
    three = 44  # the token of the number 3
    rounds = np.array([[[three + 3, 0], [0, 0]]], np.int16)
    problem = np.array([[2, three, 13, three - 1, 8, 0, 0]], np.int16)
    one, answer = np.array([1]), np.array([three + 3], np.int16)
    examples = Examples(problem, rounds, one, answer, one)
    (vector,) = serialization.encode(examples)
    drawn = [1, 47, 0, 2, 44, 13, 43, 8, 0, 47, 0]
    assert vector.tolist() == drawn and vector.dtype == np.int16


def test_every_example_occurs_once_per_epoch(data_dir):
    source = tfds_source.open_tfds(TASKS["lis"](), (1, 23), data_dir, 0)
    first, second = (
        source.take(np.arange(NUM_TRAIN)),
        source.take(np.arange(NUM_TRAIN, 2 * NUM_TRAIN)),
    )
    assert not np.array_equal(first.problem, second.problem)
    assert sorted(map(bytes, first.problem)) == sorted(map(bytes, second.problem))


def test_splits_are_disjoint(data_dir):
    for name, lengths in RANGES:
        train, test = (
            tfds_source.open_tfds(TASKS[name](), lengths, data_dir, 0, split)
            for split in ("train", "test")
        )
        seen = set(map(bytes, train.take(np.arange(NUM_TRAIN)).problem))
        problems = set(map(bytes, test.take(np.arange(NUM_TEST)).problem))
        assert problems and not seen & problems


def test_same_seed_same_files(tmp_path):
    def files(seed, folder):
        found = make(tmp_path / folder, seed=seed)
        return {file.name: file.read_bytes() for file in found.glob("*array_record*")}

    one = files(0, "one")
    assert len(one) == 2 and one == files(0, "again") != files(1, "other")


def test_shards_join_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_builder, "SHARD", 2 * BLOCK)
    num = 4 * BLOCK + 9
    path = make(tmp_path, lengths=(1, 2), num_train=num, num_test=0)
    assert len(list(path.glob("*array_record*"))) == 3
    indices = np.arange(0, num, 7)
    read = tfds_source.open_tfds(SMALL, (1, 2), tmp_path, 0).take(indices)
    fresh = SyntheticSource(SMALL, (1, 2), 3).take(shuffled(indices, num, 0))
    same(read, fresh)


@pytest.fixture
def done_here(monkeypatch):
    """Runs the workers' items here, the last one first; tests/beam uses Beam."""

    def run_on_workers(work, items, workers, scratch):
        items = pickle.loads(pickle.dumps([(work, item) for item in items]))
        return [work(*item) for work, item in items[::-1]][::-1]

    monkeypatch.setattr(tfds_builder, "SHARD", 2 * BLOCK)
    monkeypatch.setattr(tfds_builder, "run_on_workers", run_on_workers)


def files_below(path):
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    }


def test_workers_write_the_same_files(tmp_path, done_here):
    for num_train, num_test in [(5 * BLOCK + 9, BLOCK), (0, 3 * BLOCK)]:
        config = tfds_builder.TaskRange(
            task=SMALL, lengths=(1, 3), num_train=num_train, num_test=num_test
        )
        plain, folder = tmp_path / f"plain{num_train}", tmp_path / f"made{num_train}"
        tfds_builder.build(config, plain)
        # A function such as a progress bar's cannot be sent to other processes.
        tfds_builder.build(
            config, folder, progress=lambda _: None, workers=Workers("none")
        )
        assert files_below(folder) == files_below(plain)
        assert len(tfds_source.open_tfds(SMALL, (1, 3), folder, 0, "test")) == num_test


def test_workers_that_fail_leave_the_old_dataset(tmp_path, done_here, monkeypatch):
    make(tmp_path, lengths=(1, 3))
    before = files_below(tmp_path)

    def fails(writer, aside, shard, file):
        if "00001" in file.name:
            raise OSError("the disk is full")
        return write(writer, aside, shard, file)

    write = tfds_builder._write_shard
    monkeypatch.setattr(tfds_builder, "_write_shard", fails)
    monkeypatch.setattr(
        tfds_builder,
        "run_on_workers",
        lambda work, items, *_: list(starmap(work, items)),
    )
    config = tfds_builder.TaskRange(
        task=SMALL, lengths=(1, 3), num_train=5 * BLOCK, num_test=0
    )
    with pytest.raises(OSError, match="the disk is full"):
        tfds_builder.build(config, tmp_path, overwrite=True, workers=Workers("none"))
    left = files_below(tmp_path)
    assert {name: left[name] for name in before} == before
    assert not [name for name in left if "array_record" in name and name not in before]
    monkeypatch.setattr(tfds_builder, "_write_shard", write)
    tfds_builder.build(config, tmp_path, overwrite=True, workers=Workers("none"))
    assert len(tfds_source.open_tfds(SMALL, (1, 3), tmp_path, 0)) == 5 * BLOCK
    assert [path.name for path in tmp_path.iterdir()] == ["relay_tasks"]


def test_batch_of_a_step(data_dir):
    task = TASKS["arithmetic"]()
    path = str(data_dir)
    bucket = BucketConfig(task="arithmetic", lengths=(1, 6), kind="tfds", path=path)
    data = DataConfig(batch_size=16, buckets={"arithmetic": bucket})
    config = TrainConfig(data=data, seed=4)
    step = loader.step_at(9, open_buckets(config), config)
    source = tfds_source.open_tfds(task, (1, 6), path, 4)
    columns = task.round_size(6) + 1
    examples = source.take(9 * 16 + np.arange(16))
    expected = looped_batch(examples, task, 6, columns=columns)
    for got, want in zip(step.batch, expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_paper_configs():
    configs: dict[str, Any] = tfds_builder.RelayTasks.builder_configs
    sizes = {name: (c.num_train, c.num_test) for name, c in configs.items()}
    million, test = (1_000_000, 100_000), (0, 100_000)
    assert sizes == {
        "arithmetic_1_15": million,
        "arithmetic_15_25": test,
        "edit_distance_1_30": million,
        "edit_distance_30_40": test,
        "lis_1_100": million,
        "lis_100_120": test,
    }
    for name, (
        _,
        longest,
    ), *_ in tfds_builder.PAPER:  # and eight times as long is allowed
        task, length = TASKS[name](), 8 * longest
        assert task.num_rounds(length) * task.round_size(length) < MAX_TOKENS


def test_nothing_is_overwritten(tmp_path):
    path = make(tmp_path)
    with pytest.raises(ValueError, match="exists; give --overwrite to build it again"):
        make(tmp_path, seed=1)
    config = tfds_builder.TaskRange(task=SMALL, lengths=(1, 6), num_train=7, num_test=0)
    assert pathlib.Path(tfds_builder.build(config, tmp_path, overwrite=True)) == path
    assert len(tfds_source.open_tfds(SMALL, (1, 6), tmp_path, 0)) == 7


def test_interrupted_build_leaves_nothing(tmp_path):
    def interrupt(count):
        raise KeyboardInterrupt

    config = tfds_builder.TaskRange(task=Arithmetic(), lengths=(1, 3))
    with pytest.raises(KeyboardInterrupt):
        tfds_builder.build(config, tmp_path, progress=interrupt)
    assert not list(tmp_path.rglob("*array_record*"))
    with pytest.raises(ValueError, match="has no dataset arithmetic_1_3"):
        tfds_source.open_tfds(Arithmetic(), (1, 3), tmp_path, 0)


def test_interrupted_overwriting_leaves_the_old_dataset(tmp_path):
    def interrupt(count):
        raise KeyboardInterrupt

    make(tmp_path)
    count = len(tfds_source.open_tfds(SMALL, (1, 6), tmp_path, 0))
    config = tfds_builder.TaskRange(task=SMALL, lengths=(1, 6), num_train=7, num_test=0)
    with pytest.raises(KeyboardInterrupt):
        tfds_builder.build(config, tmp_path, overwrite=True, progress=interrupt)
    assert len(tfds_source.open_tfds(SMALL, (1, 6), tmp_path, 0)) == count
    tfds_builder.build(config, tmp_path, overwrite=True)
    assert len(tfds_source.open_tfds(SMALL, (1, 6), tmp_path, 0)) == 7
    assert [path.name for path in tmp_path.iterdir()] == ["relay_tasks"]


def test_a_dataset_of_an_earlier_version_opens(tmp_path):
    path = make(tmp_path, Arithmetic(5, right_heavy=True), num_test=0)
    file = path / "metadata.json"
    metadata = json.loads(file.read_text())
    metadata["options"] = {"modulus": 5, "lean": True, "order": "leftmost"}
    file.write_text(json.dumps(metadata))
    path.parent.rename(path.parent.with_name("arithmetic_1_6_modulus_5_lean_True"))
    task = Arithmetic(5, right_heavy=True)
    assert len(tfds_source.open_tfds(task, (1, 6), tmp_path, 0)) == 40


def test_options_that_a_dataset_does_not_name_have_their_defaults(tmp_path):
    path = make(tmp_path, EditDistance(), num_test=0)
    file = path / "metadata.json"
    metadata = json.loads(file.read_text())
    del metadata["options"]["border_cost"]  # as before it existed
    file.write_text(json.dumps(metadata))
    assert len(tfds_source.open_tfds(EditDistance(), (1, 6), tmp_path, 0)) == 40
    with pytest.raises(
        ValueError, match="has no dataset edit_distance_1_6_border_cost_1"
    ):
        tfds_source.open_tfds(EditDistance(border_cost=1), (1, 6), tmp_path, 0)


def test_missing_dataset_message(tmp_path):
    make(tmp_path, lengths=(1, 6))
    expected = (
        f"{tmp_path} has no dataset arithmetic_1_8_modulus_7; it has "
        "arithmetic_1_6_modulus_5; build it with python -m experiments.make_data "
        "--task=arithmetic --options=modulus=7,right_heavy=False "
        f"--lengths=1,8 --data_dir={tmp_path}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        tfds_source.open_tfds(Arithmetic(7), (1, 8), tmp_path, 0)
    with pytest.raises(ValueError, match="needs `path`: the --data_dir of"):
        tfds_source.open_tfds(Arithmetic(7), (1, 8), "", 0)


def test_other_options_and_splits(tmp_path):
    path = make(tmp_path, num_train=0)
    with pytest.raises(ValueError, match="has no train examples, only test; build it"):
        tfds_source.open_tfds(SMALL, (1, 6), tmp_path, 0)
    path.parent.rename(path.parent.with_name("arithmetic_1_6"))
    with pytest.raises(ValueError, match=r"was built from .*: 5.*expected .*: 11"):
        tfds_source.open_tfds(Arithmetic(), (1, 6), tmp_path, 0, "test")


@pytest.mark.parametrize("damage", ["cut", "gone", "info", "record"])
def test_damaged_dataset(tmp_path, damage):
    (file,) = (path := make(tmp_path, num_test=0)).glob("*array_record*")
    problems = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(problems[: len(problems) // 2])
    elif damage == "gone":
        file.unlink()
    elif damage == "info":
        (path / "dataset_info.json").write_text("{")
    else:
        problems[300] ^= 255
        file.write_bytes(problems)
    with pytest.raises(
        ValueError, match=r"is damaged \(.*build it again with .*--over"
    ):
        tfds_source.open_tfds(SMALL, (1, 6), tmp_path, 0).take(np.arange(40))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_train": 0, "num_test": 0}, "cannot build 0 training and 0 test"),
        ({"task": Arithmetic(32771)}, "token 32811 does not fit into 16 bits"),
    ],
)
def test_bad_config(changes, message):
    with pytest.raises(ValueError, match=message):
        tfds_builder.TaskRange(**{"task": SMALL, "lengths": (1, 2)} | changes)


@pytest.mark.parametrize(
    "task, lengths, message",
    [
        ("arithmetic", (4, 2), r"arithmetic: lengths 4\.\.2 are out of range"),
        ("arithmetic", (1, 4000), r"length 4000 has up to 63,9.* use shorter problems"),
        ("lis", (1, 200), "lis: length 200 is out of range: with smallest 121 and"),
    ],
)
def test_lengths_without_problems_leave_nothing(tmp_path, task, lengths, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path / "data", TASKS[task](), lengths)
    assert not list(tmp_path.iterdir())


def test_script_needs_no_tensorflow(tmp_path):
    code = f"""
import runpy, sys
sys.argv[1:] = ["--task=arithmetic", "--options=modulus=5", "--lengths=1,3"]
sys.argv += ["--num_train=50", "--num_test=10", "--data_dir={tmp_path}"]
try:
    runpy.run_module("experiments.make_data", run_name="__main__")
finally:
    from relay_jax.data.tfds_source import open_tfds
    from relay_jax.tasks import (TASKS)
    open_tfds(TASKS["arithmetic"](5), (1, 3), "{tmp_path}", 0)
    assert "tensorflow" not in sys.modules
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert "arithmetic_1_3_modulus_5/1.0.0: 50 training and 10 test" in done.stdout
    assert done.stdout.count("\n") == 1


def test_script_checks_before_work(tmp_path):
    flags = ["--task=lis", "--lengths=1,2", f"--data_dir={tmp_path}"]
    done = run("-m", "experiments.make_data", *flags, "--options=group")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --options must be name=number, name=True")
    assert not list(tmp_path.iterdir())


def run(*arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
