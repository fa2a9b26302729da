"""The flags --runner and --beam_options, with and without Beam installed."""

import importlib.util
import os

import pytest
from etils import epath

from relay_jax import beam
from relay_jax.beam import RUNNERS, atomic_file, find_workers
from tests.script_server import run_script

HAS_BEAM = bool(importlib.util.find_spec("apache_beam"))
SCRIPTS = {
    "make_data": ["--task=lis", "--lengths=1,2", "--data_dir=OUTPUT"],
    "build_datastore": [
        *("--datastore=OUTPUT", "--token_array=none.npy"),
        *("--eos_id=1", "--vocab_size=9"),
    ],
}


def test_without_a_runner_there_are_no_workers():
    assert find_workers("", "") is None


def test_options_need_a_runner():
    with pytest.raises(ValueError) as error:
        find_workers("", "--region=us")
    assert str(error.value) == (
        "--beam_options=--region=us is for Apache Beam; give --runner too, one of "
        "DirectRunner, DataflowRunner, FlinkRunner, SparkRunner"
    )


def test_an_unknown_runner_is_named():
    with pytest.raises(ValueError) as error:
        find_workers("directrunner", "")
    assert str(error.value) == (
        "--runner must be one of DirectRunner, DataflowRunner, FlinkRunner, "
        "SparkRunner, got directrunner"
    )


@pytest.mark.parametrize("runner", RUNNERS)
def test_missing_beam_is_an_error_with_a_remedy(monkeypatch, runner):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        beam.importlib.util,
        "find_spec",
        lambda name: None if name == "apache_beam" else found(name),
    )
    with pytest.raises(ValueError) as error:
        find_workers(runner, "")
    assert str(error.value) == (
        f"--runner={runner} needs Apache Beam, which is not installed here; it has its "
        "own environment: ./launch/beam.sh python -m ... runs the same command"
    )


@pytest.mark.skipif(HAS_BEAM, reason="Apache Beam is installed here")
@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_report_missing_beam_in_one_line_before_any_work(script, tmp_path):
    done = run(script, tmp_path, "--runner=DirectRunner")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: --runner=DirectRunner needs Apache Beam, ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--runner=Spark", "error: --runner must be one of DirectRunner, "),
        ("--beam_options=--x=1", "error: --beam_options=--x=1 is for Apache Beam; "),
    ],
)
def test_scripts_refuse_flags_in_one_line_before_any_work(
    script, tmp_path, flag, message
):
    done = run(script, tmp_path, flag)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_unfinished_file_does_not_exist(tmp_path):
    folder = epath.Path(tmp_path)
    file = folder / "a"
    with pytest.raises(KeyboardInterrupt), atomic_file(file, folder) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert not file.exists()
    with (
        atomic_file(file, folder) as one,
        atomic_file(file, folder) as other,
    ):
        other.write_text("whole")  # by a worker that processes the same item again
        one.write_text("whole")
        assert one != other and not file.exists()
    assert file.read_text() == "whole"


def run(script, folder, flag):
    flags = [each.replace("OUTPUT", str(folder / "output")) for each in SCRIPTS[script]]
    return run_script(f"experiments.{script}", [*flags, flag], dict(os.environ))
