"""The RELAY paper's figures and tables: the stages, measurements and drawing of each.

A run's own evaluation at its end is switched off here: a figure's accuracies are measured
afterwards in small parts (`relay_jax.relay.measurement`), so that an interrupted
measurement resumes.
"""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from etils import epath

from experiments import tables
from experiments.configs import (
    length_extrapolation,
    paper,
    paper_size,
    reduced,
    reduced_rope,
    relay_recipe,
)
from relay_jax import aliases, config_io, files
from relay_jax.config import RelayConfig, TrainConfig
from relay_jax.evaluation import figures, flops
from relay_jax.evaluation.report import make_table
from relay_jax.relay import measurement, stages
from relay_jax.relay.measurement import Measurement

RECIPES = {
    "paper": paper,
    "length_extrapolation": length_extrapolation,
    "paper_size": paper_size,
    "reduced": reduced,
    "reduced_rope": reduced_rope,
}
GPU_TERAFLOPS = 90.0  # what an H200 was measured to sustain in a step of paper size
Experiments = dict[str, RelayConfig]  # by name
Stages = dict[str, dict[str, stages.StageConfig]]  # by experiment and name


class Requirements(NamedTuple):
    """The runs and measurements of a figure or a table."""

    experiments: tuple[str, ...]
    stages: tuple[str, ...]  # the runs that it shows, or the chains that it counts
    metric: str = ""  # shown by length; or, if empty,
    extra_numbers: int = 0  # the hit matrix of LIS with more numbers than in training


TASKS = tuple(paper.PLANS)
MULTITASK = (relay_recipe.MULTITASK,)
FIGURES = {
    "2": Requirements(TASKS, ("ar", "looped_vanilla"), "answer_accuracy"),
    "4": Requirements(
        MULTITASK,
        (
            *("ar_relay", "looped_aligned", "looped_vanilla", "ar"),
            *("ar_self_loop_5", "ar_self_oracle_5"),
        ),
        "answer_accuracy",
    ),
    # LIS of 105 and of 101 numbers: RELAY's looped model beside the AR models that
    # generate the self-made chains of these lengths, in the fifth and the first phase.
    "5": Requirements(
        MULTITASK, ("looped_aligned", "ar_self_oracle_4"), extra_numbers=5
    ),
    "6": Requirements(MULTITASK, ("looped_aligned", "ar"), extra_numbers=1),
    "7": Requirements(
        MULTITASK, ("looped_aligned", "ar_relay", "ar"), "token_accuracy"
    ),
}
TABLES = {
    "1": Requirements(MULTITASK, ()),
    "2": Requirements(MULTITASK, ()),
    "3": Requirements(MULTITASK, tuple(f"chains_{task}" for task in TASKS)),
    "4": Requirements(
        MULTITASK,
        tuple(
            f"chains_self_{kind}_{phase}_{task}"
            for kind in ("loop", "oracle")
            for phase in range(1, 6)
            for task in TASKS
        ),
    ),
}


def find_result(figure: str, table: str) -> tuple[Requirements, str]:
    """The requirements of a figure or a table, and its name, such as `figure_4`.

    Raises:
      ValueError: not exactly one figure or table of the paper.
    """
    for kind, name, known in (("figure", figure, FIGURES), ("table", table, TABLES)):
        if name and name not in known:
            valid = ", ".join(known)
            raise ValueError(f"--{kind}={name} is unknown; give one of {valid}")
    if bool(figure) == bool(table):
        raise ValueError(
            f"give one of --figure={'|'.join(FIGURES)} and --table={'|'.join(TABLES)}"
        )
    if figure:
        return FIGURES[figure], f"figure_{figure}"
    return TABLES[table], f"table_{table}"


def read_experiments(recipe: str, required: Requirements, seed: int = 0) -> Experiments:
    """The required experiments of a recipe, with all their stages.

    Args:
      seed: of every stage.

    Raises:
      ValueError: there is no such recipe.
    """
    if new := aliases.RECIPES.get(recipe, aliases.REPLACED_RECIPES.get(recipe)):
        raise ValueError(f"--recipe={recipe} is now --recipe={new}")
    if recipe not in RECIPES:
        valid = ", ".join(RECIPES)
        raise ValueError(f"--recipe={recipe} is unknown; give one of {valid}")
    experiments = {}
    for name in required.experiments:
        values = RECIPES[recipe].get_config(name).to_dict()
        values = relay_recipe.with_seed(values, seed)
        experiments[name] = config_io.build(RelayConfig, values)
    return experiments


def sustained_teraflops(recipe: str) -> float:
    """The rate (TFLOP/s) of one device that a recipe is for: a GPU or a CPU core."""
    return getattr(RECIPES[recipe], "TERAFLOPS", GPU_TERAFLOPS)


def select_stages(
    experiments: Experiments, required: Requirements, only: Sequence[str] = ()
) -> Stages:
    """The required stages of each experiment with their dependencies.

    Args:
      only: names such as `multitask/ar`; if any, these stages alone, with their
        dependencies.

    Raises:
      ValueError: a name in `only` is not a required stage.
    """
    selected = {}
    for experiment, config in experiments.items():
        planned = {**_without_evaluation(config), **config.chains}
        selected[experiment] = stages.with_dependencies(planned, required.stages)
    if not only:
        return selected
    names = [f"{e}/{name}" for e, planned in selected.items() for name in planned]
    unknown = [name for name in only if name not in names]
    if unknown:
        raise ValueError(
            f"--stages: {unknown[0]!r} is not needed here; choose from "
            f"{', '.join(names)}"
        )
    for experiment, planned in selected.items():
        chosen = [name for name in planned if f"{experiment}/{name}" in only]
        selected[experiment] = stages.with_dependencies(planned, chosen)
    return selected


def _without_evaluation(config: RelayConfig) -> dict[str, TrainConfig]:
    """The runs without the evaluation at their end."""
    runs = {}
    for name, run in config.runs.items():
        evaluation = dataclasses.replace(run.evaluation, lengths={})
        runs[name] = dataclasses.replace(run, evaluation=evaluation)
    return runs


def measurements(
    experiments: Experiments, required: Requirements
) -> Iterator[Measurement]:
    """Everything that has to be measured."""
    for experiment, config in experiments.items():
        for name in required.stages:
            if required.extra_numbers:
                length = hit_length(config, required)
                yield Measurement(experiment, name, "lis", (length,), True)
            elif required.metric:
                yield from measurement.all_lengths(experiment, name, config.runs[name])


def hit_length(config: RelayConfig, required: Requirements) -> int:
    """The numbers of a hit matrix's problems: 105 or 101 at the paper's lengths."""
    return config.trained_lengths["lis"][1] + required.extra_numbers


def unfinished(
    experiments: Experiments, required: Requirements, path: epath.Path
) -> list[str]:
    """What remains to be measured or run."""
    parts = measurements(experiments, required)
    remaining = [part.file for part in parts if not (path / part.file).exists()]
    for experiment, planned in select_stages(experiments, required).items():
        done = stages.finished(planned, path / experiment)
        remaining += [f"{experiment}/{name}" for name in planned if name not in done]
    return remaining


def has_measurements(parts: Sequence[Measurement], path: epath.Path) -> bool:
    """Whether each task of a figure has been measured with some run."""
    measured = {(p.experiment, p.task) for p in parts if (path / p.file).exists()}
    return bool(parts) and measured == {(p.experiment, p.task) for p in parts}


def describe_progress(
    experiments: Experiments,
    required: Requirements,
    only: Sequence[str],
    path: epath.Path,
    teraflops: float,
) -> str:
    """The stages, what is finished, and how long the remaining trainings would take on a
    device with `teraflops` (TFLOP/s, sustained)."""
    lines, total_minutes = [], 0.0
    for experiment, planned in select_stages(experiments, required, only).items():
        done = stages.finished(planned, path / experiment)
        for name, stage in planned.items():
            workdir = path / experiment / name
            count, total, unit = stages.progress(stage, workdir)
            state = ", finished" if name in done else ""
            if isinstance(stage, TrainConfig) and name not in done:
                remaining = 1 - count / total
                minutes = remaining * flops.run_flops(stage) / (teraflops * 60e12)
                total_minutes += minutes
                state = f", {minutes:,.1f} minutes"
            lines.append(
                f"{experiment + '/' + name:<45}{count:>9,} of {total:>9,} {unit}{state}"
            )
    parts = list(measurements(experiments, required))
    count = sum((path / part.file).exists() for part in parts)
    lines.append(f"{'measured':<45}{count:>9,} of {len(parts):>9,} parts")
    lines.append(f"trainings: {total_minutes:,.1f} minutes at {teraflops:g} TFLOP/s")
    return "\n".join(lines)


def draw(
    name: str,
    required: Requirements,
    experiments: Experiments,
    path: epath.Path,
    others: Sequence[str] = (),
) -> str:
    """Draws a figure from records alone, and returns it, or a table, as text.

    Args:
      others: work directories of other seeds.
    """
    folders = path, *map(epath.Path, others)
    records = [x for each in folders for x in files.read_lines(each / "records.jsonl")]
    lines = [
        line
        for shown in required.stages
        for line in records
        if line["run"] == shown and line["experiment"] in required.experiments
    ]
    first = experiments[required.experiments[0]]
    file = path / "figures" / f"{name}.png"
    if required.metric:
        trained_lengths = {}
        for config in experiments.values():
            trained_lengths |= config.trained_lengths
        figures.accuracy_by_length(lines, required.metric, file, trained_lengths)
        parts = [make_table(lines, task, required.metric) for task in trained_lengths]
    elif required.extra_numbers:
        length = hit_length(first, required)
        figures.hit_matrices(lines, "lis", length, file)
        parts = [tables.round_accuracies(lines, length)]
    else:
        return tables.sample_counts(name, first, lines)
    missing = sorted(missing_chains(experiments, required, path))
    end = [*missing, f"figure: {file}", f"records: {path / 'records.jsonl'}"]
    return "\n\n".join([*parts, "\n".join(end)])


def missing_chains(
    experiments: Experiments, required: Requirements, path: epath.Path
) -> Iterator[str]:
    """A line for each stage whose filter accepted fewer chains than planned."""
    generated: dict[tuple[str, str], int] = collections.Counter()
    for line in files.read_lines(path / "records.jsonl"):
        if line["metric"] == "samples":
            generated[line["experiment"], line["run"]] += line["count"]
    for experiment, selected in select_stages(experiments, required).items():
        chains = experiments[experiment].chains
        for name in selected.keys() & chains.keys():
            planned = sum(chains[name].counts.values())
            if (count := generated[experiment, name]) < planned:
                yield f"{experiment}/{name}: {count} of {planned} planned chains"
