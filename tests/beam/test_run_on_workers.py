"""Functions called by Beam's workers: the order of results, processes and errors."""

import json
import operator
import os
from functools import partial

import pytest
from etils import epath

from relay_jax import beam as beam_runner
from relay_jax.beam import Workers, find_workers, run_on_workers

beam = pytest.importorskip(
    "apache_beam", reason="needs Apache Beam: ./launch/beam.sh test"
)

ONE = Workers("DirectRunner")
TWO = find_workers(
    "DirectRunner", "--direct_num_workers=2 --direct_running_mode=multi_processing"
)


def test_other_processes_work_and_results_are_in_order(tmp_path):
    items = [(f"{number}, __import__('os').getpid()",) for number in range(40)]
    numbers, pids = zip(
        *run_on_workers(eval, items, TWO, epath.Path(tmp_path)), strict=True
    )
    assert numbers == (*range(40),)
    assert len({*pids}) == 2 and os.getpid() not in pids


def test_without_items_there_are_no_results(tmp_path):
    assert run_on_workers(divmod, [], ONE, epath.Path(tmp_path)) == []


def test_the_first_bad_item_is_an_error(tmp_path):
    items = [("1",), ("[2",), ("{",)]
    with pytest.raises(ValueError, match=r"^Expecting ',' delimiter: line 1 column 3"):
        run_on_workers(json.loads, items, ONE, epath.Path(tmp_path))


def test_any_other_error_ends_the_work(tmp_path):
    with pytest.raises(Exception, match="division or modulo by zero"):
        run_on_workers(operator.floordiv, [(1, 1), (1, 0)], ONE, epath.Path(tmp_path))


class Job(beam.runners.runner.PipelineResult):
    """Runs elsewhere: until it is cancelled, or ends without a trace."""

    def __init__(self, stop=None):
        super().__init__("RUNNING")
        self.stop, self.is_cancelled = stop, False

    def wait_until_finish(self, duration=None):
        if self.stop:
            raise self.stop
        return "DONE"

    def cancel(self):
        self.is_cancelled = True


class Elsewhere(beam.runners.runner.PipelineRunner):
    def __init__(self, job):
        self.job = job

    def run_pipeline(self, pipeline, options):
        return self.job


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_caller_cancels_its_job(tmp_path, stop):
    job = Job(stop)
    with pytest.raises(stop):
        run_on_workers(abs, [(1,)], Workers(Elsewhere(job)), epath.Path(tmp_path))
    assert job.is_cancelled


def test_workers_that_write_to_another_disk_are_an_error(tmp_path):
    with pytest.raises(
        ValueError, match=r"ended \(DONE\), but .*results-.* use paths of"
    ):
        run_on_workers(abs, [(1,)], Workers(Elsewhere(Job())), epath.Path(tmp_path))


def test_options_reach_the_runner_and_override_the_log_level():
    workers = find_workers(
        "DirectRunner", "--direct_num_workers=3 --default_sdk_harness_log_level=INFO"
    )
    options = beam.options.pipeline_options.PipelineOptions([*workers.options])
    values = options.get_all_options()
    assert values["direct_num_workers"] == 3
    assert values["default_sdk_harness_log_level"] == "INFO"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--direct_num_worker=2", "--beam_options=--direct_num_worker=2: Beam has no "),
        (
            "--a=1 --zz",
            "--beam_options=--a=1 --zz: Beam has no option --a; its options ",
        ),
        ("--zone", "--beam_options=--zone: argument --zone: expected one argument"),
    ],
)
def test_bad_options_are_an_error_before_any_work(options, message, capfd):
    with pytest.raises(ValueError) as error:
        find_workers("DirectRunner", options)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_missing_dataflow_options_are_an_error_before_any_work(monkeypatch):
    with pytest.raises(ValueError) as error:
        find_workers("DataflowRunner", "")
    assert "pip install 'apache-beam[gcp]' --constraint" in str(error.value)
    monkeypatch.setattr(beam_runner, "_GCP", "apache_beam")  # as if it were there
    with pytest.raises(
        ValueError, match="validations errors: Missing .* option: project"
    ):
        find_workers("DataflowRunner", "--region=us-east1")


def test_the_function_may_be_a_partial(tmp_path):
    function = partial(divmod, 100)
    assert run_on_workers(function, [(7,)], ONE, epath.Path(tmp_path)) == [[14, 2]]
