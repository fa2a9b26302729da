"""Both scripts on Beam write the files of the plain path with any number of workers."""

import contextlib
import json
import operator
import pathlib
import socket
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

from relay_jax.beam import Workers, find_workers
from relay_jax.data import tfds_builder
from relay_jax.data.sources import BLOCK
from relay_jax.rest.build import build_datastore
from relay_jax.rest.build_beam import build_datastore_beam
from relay_jax.rest.datastore import open_datastore
from relay_jax.tasks.arithmetic import Arithmetic

pytest.importorskip("apache_beam", reason="needs Apache Beam: ./launch/beam.sh test")

ROOT = pathlib.Path(__file__).parents[2]
VOCAB = {"tokenizer": "test", "vocab_size": 50, "eos_id": 1}
RUNNER = "--runner=DirectRunner"
NUMBERS = {1: "", 2: "--direct_num_workers=2 --direct_running_mode=multi_processing"}


def run(script, *flags):
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{script}", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def files(path):
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize("number", NUMBERS)
def test_a_datastore_has_the_plain_bytes(tmp_path, number):
    rng = np.random.default_rng(0)
    for name in "abcde":
        numbers = rng.integers(64, size=(9, 30)).tolist()
        lines = [json.dumps({"content": " ".join(map(str, row))}) for row in numbers]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    flags = [
        *("--tokenizer=relay:64", f"--jsonl={tmp_path}/*.jsonl", "--text_key=content"),
        "--shard_tokens=300",  # of 1395: five shards of five files
    ]
    beam = [RUNNER, f"--beam_options={NUMBERS[number]}"]
    for folder, more in (("plain", []), ("store", beam)):
        done = run("build_datastore", *flags, f"--datastore={tmp_path}/{folder}", *more)
        assert done.returncode == 0, done.stderr
        assert "45 documents, 1,395 tokens in 5 shards" in done.stdout
        assert done.stdout.count("\n") == 1
        assert ("tokens a CPU-second" in done.stdout) == (folder == "plain")
    assert files(tmp_path / "store") == files(tmp_path / "plain")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("number", NUMBERS)
def test_a_dataset_has_the_plain_bytes(tmp_path, monkeypatch, number):
    monkeypatch.setattr(tfds_builder, "SHARD", BLOCK)
    config = tfds_builder.TaskRange(
        task=Arithmetic(5), lengths=(1, 3), num_train=4 * BLOCK + 9, num_test=2 * BLOCK
    )
    tfds_builder.build(config, tmp_path / "plain")
    workers = find_workers("DirectRunner", NUMBERS[number])
    tfds_builder.build(config, tmp_path / "beam", workers=workers)
    output = files(tmp_path / "beam")
    assert output == files(tmp_path / "plain")
    assert len([name for name in output if "array_record" in name]) == 5 + 2


def test_the_script_makes_a_dataset(tmp_path):
    flags = ["--task=arithmetic", "--lengths=1,3", "--num_train=300", "--num_test=90"]
    for folder, more in (("plain", []), ("beam", [RUNNER])):
        done = run("make_data", *flags, f"--data_dir={tmp_path}/{folder}", *more)
        assert done.returncode == 0, done.stderr
        assert "300 training and 90 test examples" in done.stdout
        assert done.stdout.count("\n") == 1
    assert files(tmp_path / "beam") == files(tmp_path / "plain")


def test_a_bad_line_is_the_error_of_the_plain_path(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "1"}\n{"text": "2"')
    (tmp_path / "b.jsonl").write_text('{"text": "3"}')
    flags = ["--tokenizer=relay:8", f"--jsonl={tmp_path}/*.jsonl"]
    runs = [
        run("build_datastore", *flags, f"--datastore={tmp_path}/store", *more)
        for more in ([], [RUNNER])
    ]
    assert [done.returncode for done in runs] == [1, 1]
    assert runs[0].stderr.startswith("error: ") and runs[0].stderr in runs[1].stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl"]


@pytest.fixture(scope="module")
def job_service():
    """A job service that accepts the jobs of Flink and Spark runners and runs them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    service = "apache_beam.runners.portability.local_job_service_main"
    command = [sys.executable, "-m", service, "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        for _ in range(300):
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("localhost", port)),
            ):
                break
            time.sleep(0.1)
        yield f"--job_endpoint=localhost:{port}", "--environment_type=LOOPBACK"
        process.terminate()


@pytest.mark.parametrize("runner", ["DirectRunner", "FlinkRunner", "SparkRunner"])
def test_a_failed_pipeline_leaves_the_old_store(tmp_path, runner, job_service):
    """A pipeline that succeeds then builds the new one."""
    path = tmp_path / "store"
    build_datastore([np.arange(2, 40)], path, **VOCAB)
    before = files(path)
    good, bad = partial(list, [np.arange(9)]), partial(operator.truediv, 1, 0)
    workers = Workers(runner, job_service if runner != "DirectRunner" else ())
    with pytest.raises(Exception, match=r"division by zero|failed"):
        build_datastore_beam([good, bad], path, workers, overwrite=True, **VOCAB)
    assert files(path) == before and open_datastore(path, verify=True)
    assert [file.name for file in tmp_path.iterdir()] == ["store"]
    build_datastore_beam([good, good], path, workers, overwrite=True, **VOCAB)
    build_datastore([np.arange(9)] * 2, tmp_path / "plain", **VOCAB)
    assert files(path) == files(tmp_path / "plain")


def test_a_failed_pipeline_leaves_the_old_dataset(tmp_path, monkeypatch):
    config = tfds_builder.TaskRange(
        task=Arithmetic(5), lengths=(1, 3), num_train=BLOCK, num_test=0
    )
    tfds_builder.build(config, tmp_path)
    before = files(tmp_path)

    def fails(*args):
        raise OSError("the disk is full")

    monkeypatch.setattr(tfds_builder, "_write_shard", fails)
    with pytest.raises(Exception, match="the disk is full"):
        tfds_builder.build(
            config, tmp_path, overwrite=True, workers=Workers("DirectRunner")
        )
    left = files(tmp_path)
    assert {name: left[name] for name in before} == before
    assert not [name for name in left if "array_record" in name and name not in before]
