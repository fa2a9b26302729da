"""What the RELAY paper's figures and tables are made from, and how: `reproduce.py`.

    DIR/recipe.json               whose experiments these are
    DIR/multitask/ar/...          stages, by experiment
    DIR/measured/*.jsonl          one model at some lengths, a piece each
    DIR/records.jsonl             all of that, and what chains were made
    DIR/figures/figure_4.png      drawn from these records alone

A run is not measured by itself at its end, as it is by `train`: what a figure shows is
measured here, in pieces, each of which takes minutes at most.
"""

import collections
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from experiments import tables
from experiments.configs import (
    length_extrapolation,
    paper,
    paper_small,
    relay_recipe,
    small,
)
from relay_jax import config as configs
from relay_jax import config_io, files
from relay_jax.data.chain_files import read_chains
from relay_jax.evaluation import accuracy, figures, flops
from relay_jax.evaluation.evaluate import evaluate_run
from relay_jax.evaluation.report import make_table
from relay_jax.relay import stages
from relay_jax.tasks import make_task
from relay_jax.training import checkpoint, loop

RECIPES = {
    "paper": paper,
    "far": length_extrapolation,
    "small": small,
    "paper_small": paper_small,
}
Plans = dict[str, configs.RelayConfig]  # by experiment
PIECE = 8  # lengths that are measured at once


class Needs(NamedTuple):
    """What a figure or a table is made from."""

    experiments: tuple[str, ...]
    stages: tuple[str, ...]  # runs that are shown, or chains that are counted
    metric: str = ""  # that is shown by length
    beyond: int = 0  # or the hits at so many numbers more than LIS was trained on


TASKS = tuple(paper.PLANS)
ALL = (relay_recipe.MULTITASK,)
FIGURES = {
    "2": Needs(TASKS, ("ar", "looped_vanilla"), "answer_accuracy"),
    "4": Needs(
        ALL,
        (
            *("ar_relay", "looped_aligned", "looped_vanilla", "ar"),
            *("ar_self_loop_5", "ar_self_oracle_5"),
        ),
        "answer_accuracy",
    ),
    # LIS at 105 and 101: RELAY's writer against those who write the self-made chains of
    # these lengths, in the fifth phase and in the first.
    "5": Needs(ALL, ("looped_aligned", "ar_self_oracle_4"), beyond=5),
    "6": Needs(ALL, ("looped_aligned", "ar"), beyond=1),
    "7": Needs(ALL, ("looped_aligned", "ar_relay", "ar"), "token_accuracy"),
}
TABLES = {
    "1": Needs(ALL, ()),
    "2": Needs(ALL, ()),
    "3": Needs(ALL, tuple(f"chains_{task}" for task in TASKS)),
    "4": Needs(
        ALL,
        tuple(
            f"chains_self_{kind}_{phase}_{task}"
            for kind in ("loop", "oracle")
            for phase in range(1, 6)
            for task in TASKS
        ),
    ),
}


def wanted(figure: str, table: str) -> tuple[Needs, str]:
    """What is asked for, and its name, such as `figure_4`.

    Raises:
      ValueError: not one figure or one table of the paper.
    """
    for kind, given, known in (("figure", figure, FIGURES), ("table", table, TABLES)):
        if given and given not in known:
            valid = ", ".join(known)
            raise ValueError(f"--{kind}={given} is unknown; give one of {valid}")
    if bool(figure) == bool(table):
        raise ValueError(
            f"give one of --figure={'|'.join(FIGURES)} and --table={'|'.join(TABLES)}"
        )
    if figure:
        return FIGURES[figure], f"figure_{figure}"
    return TABLES[table], f"table_{table}"


def read_plans(name: str, needs: Needs) -> Plans:
    """The experiments of a recipe, with all their stages.

    Raises:
      ValueError: there is no such recipe.
    """
    if name not in RECIPES:
        valid = ", ".join(RECIPES)
        raise ValueError(f"--recipe={name} is unknown; give one of {valid}")
    return {
        experiment: config_io.build(
            configs.RelayConfig, RECIPES[name].get_config(experiment).to_dict()
        )
        for experiment in needs.experiments
    }


def make(
    plans: Plans,
    needs: Needs,
    only: Sequence[str],
    path: epath.Path,
    jobs: int,
    deadline: float,
) -> None:
    """Makes and measures what is left of it, and writes all records anew.

    Args:
      only: see `choose_stages`.
      deadline: see `run_stages`.

    Raises:
      Stopped: there was not enough time.
    """
    chosen = choose_stages(plans, needs, only)
    try:
        for experiment, planned in chosen.items():
            stages.run_stages(planned, path / experiment, jobs, deadline)
        for piece in pieces(plans, needs):
            if piece.run in chosen[piece.experiment]:
                measure(piece, path, deadline)
    finally:
        files.write_lines(path / "records.jsonl", gather(path))


def check_recipe(path: epath.Path, name: str) -> None:
    """Raises ValueError at a directory of another recipe."""
    file = path / "recipe.json"
    held = files.read_json(file).get("recipe", name) if file.exists() else name
    if held != name:
        raise ValueError(
            f"{path} holds experiments of the recipe {held!r}, not {name!r}; give "
            f"--recipe={held}, or another --workdir"
        )


def choose_stages(
    plans: Plans, needs: Needs, only: Sequence[str] = ()
) -> dict[str, dict[str, stages.StageConfig]]:
    """Of each experiment the stages that are to be made; of --stages, `only` these.

    Raises:
      ValueError: one of `only` is not among those that are needed.
    """
    chosen = {}
    for experiment, config in plans.items():
        planned = {**unmeasured(config), **config.chains}
        chosen[experiment] = stages.with_needs(planned, needs.stages)
    if not only:
        return chosen
    known = [f"{e}/{name}" for e, planned in chosen.items() for name in planned]
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ValueError(
            f"--stages: {unknown[0]!r} is not needed here; choose from {', '.join(known)}"
        )
    for experiment, planned in chosen.items():
        names = [name for name in planned if f"{experiment}/{name}" in only]
        chosen[experiment] = stages.with_needs(planned, names)
    return chosen


def unmeasured(config: configs.RelayConfig) -> dict[str, configs.TrainConfig]:
    """The runs, without the evaluations that each would make by itself."""
    none = {"lengths": {}}
    return {
        name: dataclasses.replace(
            run, evaluation=dataclasses.replace(run.evaluation, **none)
        )
        for name, run in config.runs.items()
    }


class Piece(NamedTuple):
    """Of one model, what is measured at once."""

    experiment: str
    run: str
    task: str
    lengths: tuple[int, ...]
    is_hits: bool  # by round and place, or answers, chains and tokens

    @property
    def file(self) -> str:
        """Its records, in the work directory."""
        about = "hits" if self.is_hits else "accuracy"
        where = f"{self.task}_{self.lengths[0]}_{self.lengths[-1]}"
        return f"measured/{self.experiment}_{self.run}_{where}_{about}.jsonl"


def pieces(plans: Plans, needs: Needs) -> Iterator[Piece]:
    """All that is to be measured."""
    for experiment, config in plans.items():
        for name in needs.stages:
            if needs.beyond:
                length = hit_length(config, needs)
                yield Piece(experiment, name, "lis", (length,), True)
            elif needs.metric:
                settings = config.runs[name].evaluation
                for task, bounds in settings.lengths.items():
                    lengths = settings.steps_to(task, bounds)
                    for i in range(0, len(lengths), PIECE):
                        part = tuple(lengths[i : i + PIECE])
                        yield Piece(experiment, name, task, part, False)


def hit_length(config: configs.RelayConfig, needs: Needs) -> int:
    """The length of a hit matrix: 105 or 101, with the paper's plans."""
    return config.trained_lengths["lis"][1] + needs.beyond


def measure(piece: Piece, path: epath.Path, deadline: float) -> None:
    """Measures a piece, once.

    Raises:
      Stopped: there is no time for it.
    """
    file = path / piece.file
    if file.exists():
        return
    if time.monotonic() >= deadline:
        raise loop.Stopped("out of time; run the same command to go on")
    print(f"measures {file.stem}", flush=True)
    run = path / piece.experiment / piece.run
    config, params = checkpoint.load_params(run)
    about = {"run": piece.run, "model": config.name, "seed": config.seed}
    lines = evaluate_run(
        *(config, params, run, about | {"experiment": piece.experiment}),
        count=config.evaluation.final,
        seed=config.seed,
        final=True,
        lengths={piece.task: list(piece.lengths)},
        details=piece.is_hits,
    )
    kept = [
        line
        for line in lines
        if (line["metric"] in accuracy.DETAILS) == piece.is_hits
        and (config.supervises_rounds or line["metric"] == "answer_accuracy")
    ]
    file.parent.mkdir(exist_ok=True)
    files.write_lines(file, kept)


def gather(path: epath.Path) -> list[dict[str, Any]]:
    """All records of a work directory: what was measured, and what chains were made."""
    lines = []
    for file in sorted(path.glob("measured/*.jsonl")):
        lines += files.read_lines(file)
    for file in sorted(path.glob("*/chains_*/summary.json")):
        lines += made_chains(file.parent)
    return lines


def made_chains(path: epath.Path) -> Iterator[dict[str, Any]]:
    """The records of a stage that wrote chains, with the samples of each length."""
    values = files.read_json(path / "config.json")
    config = config_io.build(configs.ChainsConfig, values)
    task = make_task(config.task, config.options)
    about = {"model": config.model, "experiment": path.parent.name}
    for line in files.read_lines(path / "records.jsonl"):
        yield line | about
    for length in map(int, config.counts):
        held = read_chains(path, task, (length, length), config.seed).examples
        count = len(held.length)
        yield files.make_record(
            **about | {"run": path.name, "task": task.name, "seed": config.seed},
            length=length,
            metric="samples",
            value=count,
            count=count,
        )


def unfinished(plans: Plans, needs: Needs, path: epath.Path) -> list[str]:
    """What is still to be made or measured."""
    work = pieces(plans, needs)
    left = [piece.file for piece in work if not (path / piece.file).exists()]
    for experiment, planned in choose_stages(plans, needs).items():
        done = stages.finished(planned, path / experiment)
        left += [f"{experiment}/{name}" for name in planned if name not in done]
    return left


def tell(
    plans: Plans, needs: Needs, only: list[str], path: epath.Path, teraflops: float
) -> None:
    """Prints the stages with their steps, what is finished, and about how many minutes
    the trainings that are left take at `teraflops` a second."""
    chosen, work = choose_stages(plans, needs, only), list(pieces(plans, needs))
    all_minutes = 0.0
    for experiment, planned in chosen.items():
        done = stages.finished(planned, path / experiment)
        for name, stage in planned.items():
            shown = f"{experiment}/{name}"
            count, total, unit = stages.progress(stage, path / experiment / name)
            state = ", finished" if name in done else ""
            if isinstance(stage, configs.TrainConfig) and name not in done:
                left = 1 - count / total
                minutes = left * flops.run_flops(stage) / (teraflops * 60e12)
                all_minutes, state = all_minutes + minutes, f", {minutes:,.1f} minutes"
            print(f"{shown:<45}{count:>9,} of {total:>9,} {unit}{state}")
    made = sum((path / piece.file).exists() for piece in work)
    print(f"{'measured':<45}{made:>9,} of {len(work):>9,} pieces")
    print(f"trainings: {all_minutes:,.1f} minutes at {teraflops:g} TFLOP/s")


def report(name: str, needs: Needs, plans: Plans, path: epath.Path) -> None:
    """Draws and prints, from the records alone."""
    lines = [
        line
        for shown in needs.stages
        for line in files.read_lines(path / "records.jsonl")
        if line["run"] == shown and line["experiment"] in needs.experiments
    ]
    file = path / "figures" / f"{name}.png"
    config = plans[needs.experiments[0]]
    if needs.metric:
        trained = {}
        for config in plans.values():
            trained |= config.trained_lengths
        figures.accuracy_by_length(lines, needs.metric, file, trained)
        for task in trained:
            print(make_table(lines, task, needs.metric), end="\n\n")
    elif needs.beyond:
        length = hit_length(config, needs)
        figures.hit_matrices(lines, "lis", length, file)
        print(tables.rounds(lines, length), end="\n\n")
    else:
        print(tables.samples(name, config, lines))
        return
    for told in sorted(fewer_chains(plans, needs, path)):
        print(told)
    print(f"figure: {file}\nrecords: {path / 'records.jsonl'}")


def fewer_chains(plans: Plans, needs: Needs, path: epath.Path) -> Iterator[str]:
    """Of the stages that write chains, a line for each that has fewer than planned."""
    made: dict[tuple[str, str], int] = collections.Counter()
    for line in files.read_lines(path / "records.jsonl"):
        if line["metric"] == "samples":
            made[line["experiment"], line["run"]] += line["count"]
    for experiment, planned in choose_stages(plans, needs).items():
        for name in planned.keys() & plans[experiment].chains.keys():
            wanted = sum(plans[experiment].chains[name].counts.values())
            if (count := made[experiment, name]) < wanted:
                yield f"{experiment}/{name}: {count} chains, {wanted} were planned"
