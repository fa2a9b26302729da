"""The RELAY paper's figures and tables, each with one command.

    python -m experiments.reproduce --figure=4 --recipe=small --workdir=runs/small

Makes the stages that the figure needs and no others, measures them, and draws. Stopped,
by a signal or by --minutes, the same command goes on, on another machine too: DIR is all
that it needs. Figures of one DIR share what they have in common. Exit code 143: stopped.
"""

import math
import os
import sys
import time

from absl import flags
from etils import epath

from experiments import command, reproduction, tables
from experiments.configs.relay_recipe import MULTITASK
from experiments.reproduction import FIGURES, RECIPES, TABLES
from relay_jax import files
from relay_jax.relay import stages
from relay_jax.training import loop

_FIGURE = flags.DEFINE_string("figure", "", f"One of {', '.join(FIGURES)}.")
_TABLE = flags.DEFINE_string("table", "", f"Or one of {', '.join(TABLES)}.")
_RECIPE = flags.DEFINE_string("recipe", "paper", f"One of {', '.join(RECIPES)}.")
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Where everything goes; default: runs/RECIPE."
)
_MINUTES = flags.DEFINE_float("minutes", math.inf, "Then save and stop.", 0)
_STAGES = flags.DEFINE_list(
    "stages",
    [],
    "Only these, such as multitask/ar, and what they need; default: all that is needed.",
)
_JOBS = flags.DEFINE_integer(
    "jobs", min(2, os.cpu_count() or 1), "Stages at once; 1 on an accelerator.", 1
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Tell what is to be done, and stop.")
_TERAFLOPS = flags.DEFINE_float(
    "teraflops", 90.0, "The dry run's estimate is for so many a second.", 1e-6
)


def main() -> None:
    call, start = command.describe(), time.monotonic()
    needs, name = reproduction.wanted(_FIGURE.value, _TABLE.value)
    plans = reproduction.read_plans(_RECIPE.value, needs)
    if not needs.stages:
        print(tables.settings(name, plans[MULTITASK], _RECIPE.value))
        return
    path = epath.Path(_WORKDIR.value or f"runs/{_RECIPE.value}").absolute()
    reproduction.check_recipe(path, _RECIPE.value)
    chosen = reproduction.choose_stages(plans, needs, _STAGES.value)
    for experiment, planned in chosen.items():
        stages.check_stages(planned, path / experiment)
    if _DRY_RUN.value:
        reproduction.tell(plans, needs, _STAGES.value, path, _TERAFLOPS.value)
        return
    command.make_folder(path)
    files.write_json(path / "recipe.json", {"recipe": _RECIPE.value})
    deadline = start + 60 * _MINUTES.value
    try:
        reproduction.make(plans, needs, _STAGES.value, path, _JOBS.value, deadline)
    except loop.Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(143)
    finally:
        minutes = round((time.monotonic() - start) / 60, 1)
        files.append_lines(path / "run.jsonl", [call | {"minutes": minutes}])
    left = reproduction.unfinished(plans, needs, path)
    if left:
        print(f"{name} is not drawn yet; what is left: {', '.join(left)}")
        return
    reproduction.report(name, needs, plans, path)


if __name__ == "__main__":
    command.run(main)
