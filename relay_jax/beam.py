"""Work on many machines: one function for every item, by the workers of Apache Beam.

    run_on_workers(work, items)     item 0 --> a worker --> files
                            item 1 --> a worker --> files       [what work returned]
                            item 2 --> a worker --> files

Only items and what is returned, both small, pass through Beam; what is large goes from
files to files, in a place that all workers see. A file depends on its item alone, so the
number of workers changes nothing, nor does it that a runner may do an item twice: every
file is written aside, under a name of its own, and put in its place by `replace`.
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
_QUIET = "--default_sdk_harness_log_level=ERROR"  # an option given later counts instead
_GCP = "apitools"  # comes with apache-beam[gcp]


class Workers(NamedTuple):
    """Who does the work."""

    runner: Any  # a name in RUNNERS, or what beam.Pipeline takes for a runner
    options: tuple[str, ...] = ()  # e.g. ("--direct_num_workers=2",)


def find_workers(runner: str, options: str) -> Workers | None:
    """What --runner and --beam_options ask for; None where they ask for nothing.

    Raises:
      ValueError: options without a runner or that Beam does not know, a runner that is
        none, or what it needs is not installed.
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
            f"--runner={runner} needs Apache Beam, which is not installed here; it has an "
            "environment of its own: ./launch/beam.sh python -m ... runs the same command"
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
    work: Callable[..., Any],
    items: Iterable[tuple],
    workers: Workers,
    scratch: epath.Path,
) -> list[Any]:
    """`[work(*item) for item in items]`, by the workers.

    Args:
      work: a function of a module, or a `partial` of one; what it returns is JSON.
      scratch: a directory that all workers see, for what the work returned.

    Raises:
      ValueError: of the first item that raised one. It is not tried again, as bad input
        stays bad; after any other error the runner tries anew, or fails.
    """
    import apache_beam as beam  # pyright: ignore

    told = scratch / f"told-{uuid.uuid4().hex}.json"
    options = beam.options.pipeline_options.PipelineOptions(list(workers.options))
    pipeline = beam.Pipeline(runner=workers.runner, options=options)
    _ = (
        pipeline
        | beam.Create(list(enumerate(items)))  # in several workers' hands from here
        | beam.Map(_attempt, work)
        | beam.combiners.ToList()
        | beam.Map(_tell, told)
    )
    job = pipeline.run()
    try:
        state = job.wait_until_finish()
    except (KeyboardInterrupt, SystemExit):
        job.cancel()  # elsewhere it would go on without us
        raise
    if not told.exists():
        raise ValueError(
            f"the job ended ({state}), but {told}, which a worker wrote, is not here; "
            "give paths of a disk that all workers see"
        )
    answers = sorted(json.loads(told.read_text()))
    for _, _, error in answers:
        if error:
            raise ValueError(error)
    return [answer for _, answer, _ in answers]


@contextlib.contextmanager
def atomic_file(file: epath.Path, folder: epath.Path) -> Iterator[epath.Path]:
    """Where, in a folder of the same disk, to write what then becomes `file`, whole."""
    aside = folder / f"{file.name}-{uuid.uuid4().hex}"
    yield aside
    aside.replace(file)


def _attempt(numbered: tuple[int, tuple], work: Callable) -> tuple[int, Any, str]:
    number, item = numbered
    try:
        return number, work(*item), ""
    except ValueError as error:
        return number, None, str(error)


def _tell(answers: list[tuple[int, Any, str]], file: epath.Path) -> None:
    files.write_atomically(file, json.dumps(answers).encode())


def _check_options(workers: Workers) -> None:
    import apache_beam as beam  # pyright: ignore

    said, asked = io.StringIO(), shlex.join(workers.options[1:])
    try:
        with contextlib.redirect_stderr(said):  # it prints its usage, all of it
            options = beam.options.pipeline_options.PipelineOptions(
                list(workers.options)
            )
            known = options.get_all_options()
            given = options.get_all_options(retain_unknown_options=True)
            beam.Pipeline(runner=workers.runner, options=options)
    except SystemExit:
        reason = said.getvalue().strip().rpartition("error: ")[2]
        raise ValueError(f"--beam_options={asked}: {reason}") from None
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"--runner={workers.runner} --beam_options={asked}: {reason}"
        ) from None
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(
            f"--beam_options={asked}: Beam has no option --{unknown[0]}; its options are "
            "listed at https://beam.apache.org/documentation/#runners"
        )
