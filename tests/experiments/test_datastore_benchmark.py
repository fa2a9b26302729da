"""The benchmark that builds a datastore on one core and on all."""

import json
import os

import pytest

from experiments.benchmarks.build_times import compare
from tests.experiments.test_scripts import script


def line(seconds, files="abc", cores=2):
    counts = {"cores": cores, "tokens": 100, "documents": 3, "files": list(files)}
    times = {"tokenize_seconds": seconds, "seconds": 2 * seconds}
    return counts | times | {"peak_mb": 10 * seconds}


def test_the_fastest_builds_are_compared():
    record = compare([[line(4, cores=1), line(3)], [line(5, cores=1), line(2)]])
    assert record == {
        "cores": 2,
        "tokens": 100,
        "documents": 3,
        "peak_mb": 30,
        "tokenize_seconds_one_core": 4,
        "tokenize_seconds": 2,
        "seconds_one_core": 8,
        "seconds": 4,
        "tokenize_speed_up": 2.0,
        "speed_up": 2.0,
    }
    with pytest.raises(ValueError, match="the same texts have different files"):
        compare([[line(4, cores=1), line(3, "abd")]])


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="it compares two cores")
def test_the_benchmark_writes_one_record(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(f"1+{number}=" * 50)
    file = tmp_path / "records.jsonl"
    done = script(
        "benchmarks.datastore_build",
        "--tokenizer=relay:8",
        f"--files={tmp_path}/*.txt",
        "--repeats=1",
        f"--records={file}",
    )
    assert done.returncode == 0, done.stderr
    (record,) = map(json.loads, file.read_text().splitlines())
    assert (record["documents"], record["tokens"]) == (3, 3 * (4 * 50 + 1))
    assert record["cores"] == len(os.sched_getaffinity(0)) and record["speed_up"] > 0
    assert "datastore_build" in record["command"]
