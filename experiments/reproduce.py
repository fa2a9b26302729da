r"""Reproduces a figure or a table of the RELAY paper.

    python -m experiments.reproduce --figure=4 --recipe=reduced --workdir=runs/reduced
    python -m experiments.reproduce --figure=4 --dry_run
    python -m experiments.reproduce --table=3 --minutes=10
    python -m experiments.reproduce --figure=4 --recipe=reduced --seed=1 \\
        --workdir=runs/reduced1 --other_seeds=runs/reduced

Runs the stages that the figure needs and no others, measures them, and draws. After a
signal or --minutes, the same command resumes, on another machine too: it needs only
the work directory. Figures with the same work directory share their stages. Exit code
143: stopped before the end. With --stages the figure has the curves measured so far.
Every seed has a work directory; a figure of several seeds has their mean and range.
"""

import math
import os
import sys
import time

from absl import flags
from etils import epath

from experiments import command, paper_figures, recipe_folder, tables
from experiments.configs.relay_recipe import MULTITASK
from experiments.paper_figures import FIGURES, RECIPES, TABLES
from relay_jax import files
from relay_jax.config import MAX_SEED
from relay_jax.relay import measurement, stages
from relay_jax.relay.stage_checks import check_stages
from relay_jax.training import loop

_FIGURE = flags.DEFINE_string("figure", "", f"One of {', '.join(FIGURES)}.")
_TABLE = flags.DEFINE_string("table", "", f"Or one of {', '.join(TABLES)}.")
_RECIPE = flags.DEFINE_string("recipe", "paper", f"One of {', '.join(RECIPES)}.")
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "The work directory; default: runs/RECIPE."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of every stage.", 0, MAX_SEED)
_OTHER_SEEDS = flags.DEFINE_list(
    "other_seeds",
    [],
    "Work directories of other seeds, to be shown in the same figure.",
)
_MINUTES = flags.DEFINE_float(
    "minutes", math.inf, "Save and stop after this many minutes.", 0
)
_STAGES = flags.DEFINE_list(
    "stages",
    [],
    "Only these, such as multitask/ar, and their dependencies; default: all.",
)
_JOBS = flags.DEFINE_integer(
    "jobs", min(2, os.cpu_count() or 1), "Parallel stages; use 1 on an accelerator.", 1
)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the stages, and stop.")
_TERAFLOPS = flags.DEFINE_float(
    "teraflops",
    None,
    "TFLOP/s of the device for the dry run's estimate; default: 90, a GPU, or, for the "
    "recipes reduced and reduced_rope, 0.03, one CPU core.",
    1e-6,
)


def main() -> None:
    call, start = command.describe(), time.monotonic()
    required, name = paper_figures.find_result(_FIGURE.value, _TABLE.value)
    experiments = paper_figures.read_experiments(_RECIPE.value, required, _SEED.value)
    if not required.stages:
        print(tables.settings(name, experiments[MULTITASK], _RECIPE.value))
        return
    path = epath.Path(_WORKDIR.value or f"runs/{_RECIPE.value}").absolute()
    recipe_folder.check(path, _RECIPE.value, _SEED.value)
    others = _OTHER_SEEDS.value
    if others and not _FIGURE.value:
        raise ValueError("--other_seeds is for figures; a table is of one seed")
    recipe_folder.check_others(others, _RECIPE.value, _SEED.value)
    only = _STAGES.value
    selected = paper_figures.select_stages(experiments, required, only)
    for experiment, planned in selected.items():
        check_stages(planned, path / experiment)
    if _DRY_RUN.value:
        rate = _TERAFLOPS.value or paper_figures.sustained_teraflops(_RECIPE.value)
        options = only, path, rate
        print(paper_figures.describe_progress(experiments, required, *options))
        return
    command.make_folder(path)
    recipe_folder.write(path, _RECIPE.value, _SEED.value)
    parts = list(paper_figures.measurements(experiments, required))
    try:
        deadline = start + 60 * _MINUTES.value
        measurement.run_and_measure(selected, parts, path, _JOBS.value, deadline)
    except loop.Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stages.STOPPED)
    finally:
        minutes = round((time.monotonic() - start) / 60, 1)
        files.append_lines(path / "run.jsonl", [call | {"minutes": minutes}])
    remaining = paper_figures.unfinished(experiments, required, path)
    if remaining:
        print(f"{name} is not complete yet; remaining: {', '.join(remaining)}")
        if not paper_figures.has_measurements(parts, path):
            return
    print(paper_figures.draw(name, required, experiments, path, others))


if __name__ == "__main__":
    command.run(main)
