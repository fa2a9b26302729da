"""Trains any model of the project.

    python -m experiments.train --config=experiments/configs/tiny.py --workdir=/tmp/tiny

Any field can be set on the command line (--config.num_steps=100). Running the same
command again goes on where it was interrupted. Command, commit and machine of every call
that did something are in WORKDIR/run.jsonl, which `gather` reads.
"""

import json
import sys
import time

from absl import flags
from etils import epath
from ml_collections import config_flags

from experiments import command
from relay_jax import config as configs
from relay_jax import files
from relay_jax.training import checkpoint, loop

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment's file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's directory.")
_PROFILE = flags.DEFINE_string(
    "profile_steps", "", "FIRST,LAST: steps of which WORKDIR/profile holds a trace."
)
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    config = command.build(configs.TrainConfig, _CONFIG.value.to_dict())
    profile = range(0)
    if _PROFILE.value:
        first, last = command.whole_numbers("profile_steps", _PROFILE.value, 2)
        profile = range(first, last + 1)
        if not profile:
            raise ValueError(f"--profile_steps={first},{last} has no step in it")
    call, start = command.describe(), time.monotonic()
    path = epath.Path(_WORKDIR.value)
    was_finished = checkpoint.is_finished(path)
    try:
        summary = loop.train(config, path, profile)
    except loop.Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(143)
    if not was_finished:
        minutes = round((time.monotonic() - start) / 60, 1)
        call |= {"minutes": minutes, "seed": config.seed}
        files.append_lines(path / "run.jsonl", [call])
    print(json.dumps({k: v for k, v in summary.items() if k != "final"}, indent=2))


if __name__ == "__main__":
    command.run(main, is_shared=True)
