"""The training benchmark as a user runs it. Times are never tested."""

import importlib.util

import pytest

from relay_jax import files
from tests.experiments.test_scripts import refusal, script

HAS_TORCH = importlib.util.find_spec("torch") is not None
TINY = [
    "--config=experiments/configs/tiny.py",
    *("--config.model.dim=16", "--config.model.num_layers=1", "--batch_size=4"),
]
FEW = ["--steps=2", "--rounds=2"]


def test_a_step_is_recorded_with_times_and_rates(tmp_path):
    file = tmp_path / "records.jsonl"
    baseline = ["--baseline"] if HAS_TORCH else []
    done = script("benchmarks.train", *TINY, *FEW, *baseline, f"--records={file}")
    assert done.returncode == 0, done.stderr
    ours, *theirs = files.read_lines(file)
    assert [line["side"] for line in theirs] == ["torch"] * len(baseline)
    for line in (ours, *theirs):
        assert line["command"].startswith("python -m experiments.benchmarks.train")
        expected = {
            "bucket": "arithmetic",
            "batch_size": 4,
            "num_loops": 3,
            "width": 13,
        }
        assert expected.items() <= line.items() and line["positions"] == 3 * 4 * 13
        for name in ("ms_per_step", "cpu_ms_per_step", "gigaflops", "share_of_peak"):
            assert line[name] > 0
        for name in ("examples", "tokens", "trained_tokens", "batches"):
            assert line[f"{name}_per_second"] > 0
    assert ours["times_jax"] == 1 and ours["memory_megabytes"] > 0
    assert "of the peak" in done.stdout


def test_a_decoder_with_muon_is_timed(tmp_path):
    file = tmp_path / "records.jsonl"
    changes = ["--config.model.kind=decoder", "--config.optimizer.kind=muon"]
    done = script("benchmarks.train", *TINY, *FEW, *changes, f"--records={file}")
    assert done.returncode == 0, done.stderr
    (line,) = files.read_lines(file)
    assert line["optimizer"] == "muon" and line["num_loops"] == 1
    assert line["positions"] == 4 * line["width"]


def test_what_cannot_be_timed_is_refused():
    line = refusal("benchmarks.train", *TINY, "--compile")
    assert line == "error: --compile is for PyTorch; give --baseline too"
    line = refusal("benchmarks.train", *TINY, "--config.data.accumulate=0")
    assert line == "error: data.accumulate must be 1 or more, got 0"
    line = refusal("benchmarks.train", *TINY, "--config.mesh.data=99")
    assert "a mesh of 99 x 1 x 1" in line
    line = refusal("benchmarks.train", "--config=experiments/configs/code_lm.py")
    assert line.endswith("code_lm.py is for python -m experiments.train")


@pytest.mark.skipif(HAS_TORCH, reason="torch is here")
def test_the_baseline_needs_torch():
    line = refusal("benchmarks.train", *TINY, "--baseline")
    assert line == (
        "error: --baseline needs PyTorch, which is not installed here; "
        "pip install -e '.[oracle]'"
    )
