"""Parallel work on many machines: Apache Beam calls one function for every item.

    run_on_workers(function, items)     item 0 --> a worker --> files
                                        item 1 --> a worker --> files    --> [results]
                                        item 2 --> a worker --> files

Only items and results, both small, pass through Beam. Large data goes from files to
files, in a file system that all workers share. A file depends on its item alone, so the
number of workers does not matter. A runner may process an item twice: every file is
written under a unique temporary name and then renamed (`atomic_file`).
"""

import contextlib
import importlib.util
import io
import json
import shlex
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from etils import epath

from relay_jax import files

RUNNERS = ("DirectRunner", "DataflowRunner", "FlinkRunner", "SparkRunner")
_QUIET = "--default_sdk_harness_log_level=ERROR"  # a later option overrides it
_GCP = "apitools"  # comes with apache-beam[gcp]


class Workers(NamedTuple):
    """A Beam runner and its options."""

    runner: Any  # a name in RUNNERS, or a runner for beam.Pipeline
    options: tuple[str, ...] = ()  # e.g. ("--direct_num_workers=2",)


def find_workers(runner: str, options: str) -> Workers | None:
    """The workers of the flags --runner and --beam_options; None if both are empty.

    Raises:
      ValueError: options without a runner, an unknown option or runner, or a runner
        whose packages are not installed.
    """
    if not runner:
        if options:
            raise ValueError(
                f"--beam_options={options} is for Apache Beam; give --runner too, "
                f"one of {', '.join(RUNNERS)}"
            )
        return None
    if runner not in RUNNERS:
        raise ValueError(f"--runner must be one of {', '.join(RUNNERS)}, got {runner}")
    if not importlib.util.find_spec("apache_beam"):
        raise ValueError(
            f"--runner={runner} needs Apache Beam, which is not installed here; it has its "
            "own environment: ./launch/beam.sh python -m ... runs the same command"
        )
    if runner == "DataflowRunner" and not importlib.util.find_spec(_GCP):
        raise ValueError(
            f"--runner={runner} needs Beam's part for Google Cloud, which is not "
            "installed here: .venv-beam/bin/pip install 'apache-beam[gcp]' "
            "--constraint launch/locks/beam.txt"
        )
    workers = Workers(runner, (_QUIET, *shlex.split(options)))
    _check_options(workers)
    return workers


def run_on_workers(
    function: Callable[..., Any],
    items: Iterable[tuple],
    workers: Workers,
    scratch: epath.Path,
) -> list[Any]:
    """`[function(*item) for item in items]`, computed by workers.

    Args:
      function: a function of a module or a `partial` of one, which returns JSON values.
      scratch: a directory that all workers share, for the results.

    Raises:
      ValueError: the first one that an item raised. Such an item is not retried; after
        any other error the runner retries or fails.
    """
    import apache_beam as beam  # pyright: ignore

    file = scratch / f"results-{uuid.uuid4().hex}.json"
    options = beam.options.pipeline_options.PipelineOptions(list(workers.options))
    pipeline = beam.Pipeline(runner=workers.runner, options=options)
    _ = (
        pipeline
        | beam.Create(list(enumerate(items)))  # distributed from here on
        | beam.Map(_attempt, function)
        | beam.combiners.ToList()
        | beam.Map(_write_results, file)
    )
    job = pipeline.run()
    try:
        state = job.wait_until_finish()
    except (KeyboardInterrupt, SystemExit):
        job.cancel()  # a remote job would continue
        raise
    if not file.exists():
        raise ValueError(
            f"the job ended ({state}), but {file}, which a worker wrote, does not exist "
            "here; use paths of a file system that all workers share"
        )
    results = sorted(json.loads(file.read_text()))
    for _, _, error in results:
        if error:
            raise ValueError(error)
    return [result for _, result, _ in results]


@contextlib.contextmanager
def atomic_file(file: epath.Path, folder: epath.Path) -> Iterator[epath.Path]:
    """Yields a temporary path that is renamed to `file` at the end of the block.

    Args:
      folder: the directory of the temporary path, in the same file system as `file`.
    """
    temporary = folder / f"{file.name}-{uuid.uuid4().hex}"
    yield temporary
    temporary.replace(file)


def _attempt(numbered: tuple[int, tuple], function: Callable) -> tuple[int, Any, str]:
    number, item = numbered
    try:
        return number, function(*item), ""
    except ValueError as error:
        return number, None, str(error)


def _write_results(results: list[tuple[int, Any, str]], file: epath.Path) -> None:
    files.write_atomically(file, json.dumps(results).encode())


def _check_options(workers: Workers) -> None:
    import apache_beam as beam  # pyright: ignore

    errors, asked = io.StringIO(), shlex.join(workers.options[1:])
    try:
        with contextlib.redirect_stderr(errors):  # it prints its whole usage
            options = beam.options.pipeline_options.PipelineOptions(
                list(workers.options)
            )
            known = options.get_all_options()
            requested = options.get_all_options(retain_unknown_options=True)
            beam.Pipeline(runner=workers.runner, options=options)
    except SystemExit:
        reason = errors.getvalue().strip().rpartition("error: ")[2]
        raise ValueError(f"--beam_options={asked}: {reason}") from None
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"--runner={workers.runner} --beam_options={asked}: {reason}"
        ) from None
    if unknown := sorted(set(requested) - set(known)):
        raise ValueError(
            f"--beam_options={asked}: Beam has no option --{unknown[0]}; its options are "
            "listed at https://beam.apache.org/documentation/#runners"
        )
