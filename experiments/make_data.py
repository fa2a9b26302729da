r"""Writes a TFDS dataset of solved problems, for buckets of kind "tfds".

    python -m experiments.make_data --task=arithmetic --lengths=1,15 --data_dir=DIR
    ./launch/beam.sh python -m experiments.make_data --task=arithmetic --lengths=1,15 \
        --num_train=100000000 --data_dir=DIR --runner=DirectRunner \
        --beam_options='--direct_num_workers=8 --direct_running_mode=multi_processing'

An existing dataset is replaced with --overwrite only, and an interrupted run leaves
nothing that a training would open. With --runner, workers of Apache Beam write the same
files, of 262,144 examples each; all of them need access to DIR.
"""

import contextlib
import io
import signal
import sys
import time

import tqdm
from absl import flags, logging

from experiments import command
from relay_jax.beam import find_workers
from relay_jax.config import MAX_SEED
from relay_jax.tasks import make_task

_TASK = flags.DEFINE_string("task", None, "A task's name.", required=True)
_LENGTHS = flags.DEFINE_string("lengths", None, "FIRST,LAST.", required=True)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "The directory of TFDS datasets.", required=True
)
_OPTIONS = flags.DEFINE_string("options", "", "Options of the task, such as modulus=5.")
_NUM_TRAIN = flags.DEFINE_integer("num_train", 1_000_000, "Training examples.", 0)
_NUM_TEST = flags.DEFINE_integer("num_test", 100_000, "Test examples.", 0)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the sampled examples.", 0, MAX_SEED)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the dataset.")
_RUNNER = flags.DEFINE_string(
    "runner", "", "An Apache Beam runner, such as DirectRunner."
)
_BEAM_OPTIONS = flags.DEFINE_string(
    "beam_options",
    "",
    "Options of the runner, as on a command line: '--NAME=VALUE ...'.",
)


def main() -> None:
    task = make_task(_TASK.value, parse_options(_OPTIONS.value))
    lengths = command.whole_numbers("lengths", _LENGTHS.value, 2)
    logging.set_verbosity(logging.ERROR)
    workers = find_workers(_RUNNER.value, _BEAM_OPTIONS.value)
    from relay_jax.data import tfds_builder  # slow to import

    config = tfds_builder.TaskRange(
        task=task,
        lengths=(lengths[0], lengths[1]),
        seed=_SEED.value,
        num_train=_NUM_TRAIN.value,
        num_test=_NUM_TEST.value,
    )
    # On SIGTERM, TFDS removes its unfinished files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    start = time.monotonic()
    with (
        # With the delay, an error at the start is not printed beside the bar.
        tqdm.tqdm(
            total=config.num_examples,
            unit=" examples",
            unit_scale=True,
            delay=0.5,
            disable=bool(workers),  # workers do not report progress
        ) as bar,
        contextlib.redirect_stdout(io.StringIO()),  # TFDS prints messages of downloads
    ):
        path = tfds_builder.build(
            config, _DATA_DIR.value, _OVERWRITE.value, bar.update, workers
        )
    seconds = time.monotonic() - start
    print(
        f"{path}: {config.num_train} training and {config.num_test} test examples in "
        f"{seconds:.1f} s ({config.num_examples / seconds:,.0f} per second)"
    )


def parse_options(text: str) -> dict[str, int | bool]:
    """`"modulus=5,right_heavy=True"` -> {"modulus": 5, "right_heavy": True}."""
    options = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if value not in ("True", "False") and not value.isdecimal():
            raise ValueError(
                "--options must be name=number, name=True or name=False, separated by "
                f"commas, got {text!r}"
            )
        options[name] = int(value) if value.isdecimal() else value == "True"
    return options


if __name__ == "__main__":
    command.run(main)
