r"""Evaluates run directories by problem length and draws the figures.

    python -m experiments.evaluate --run=DIR/ar,DIR/ar_relay --workdir=DIR/evaluation
    python -m experiments.evaluate --run=experiments/checkpoints/arithmetic \\
        --workdir=runs/evaluation --lengths=30,60 --step=10 --count=512
    python -m experiments.evaluate --run=experiments/checkpoints/arithmetic \\
        --workdir=runs/published --problems=FILE

With --problems the problems are those of a text file, such as the data that Feng et al.
published (docs/problem_files.md): answers are compared, and chains where it has them.
Writes records.jsonl (accuracy of answers, chains, tokens and rounds, hit matrices) and
figures/*.png.
"""

from absl import flags
from etils import epath
from tqdm import tqdm

from experiments import command
from relay_jax import files
from relay_jax.base import PyTree
from relay_jax.config import MAX_SEED, TrainConfig
from relay_jax.data.buckets import check_lengths
from relay_jax.data.problem_files import ProblemFile, select_problems
from relay_jax.evaluation.evaluate import (
    evaluate_problems,
    evaluate_run,
    read_problems_for,
)
from relay_jax.evaluation.report import report, trained_metrics
from relay_jax.tasks import Task, make_task
from relay_jax.training import checkpoint

_RUN = flags.DEFINE_list("run", None, "Run directories, separated by commas.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The directory of records and figures.")
_TASK = flags.DEFINE_string("task", "", "One task; default: all of the run's config.")
_LENGTHS = flags.DEFINE_string("lengths", "", "FIRST,LAST; default: the run's config.")
_STEP = flags.DEFINE_integer("step", 1, "Every n-th length of --lengths.", 1)
_COUNT = flags.DEFINE_integer("count", 1000, "Problems of each length.", 1)
_PROBLEMS = flags.DEFINE_string("problems", "", "A file of problems to evaluate on.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the test problems.", 0, MAX_SEED)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an earlier evaluation.")
flags.mark_flags_as_required(["run", "workdir"])
Lengths = dict[str, list[int]] | None  # of each task; None: as in the run's config


def main() -> None:
    path = epath.Path(_WORKDIR.value)
    check_workdir(path)
    # Every input is checked before any evaluation starts.
    runs = {run: checkpoint.load_params(run) for run in _RUN.value}
    lengths, problems, num_read = {}, {}, {}
    for run, (config, _) in runs.items():
        if _PROBLEMS.value:
            *problems[run], num_read[run] = requested_problems(config)
            lengths[run] = {problems[run][0].name: []}
        else:
            lengths[run] = requested_lengths(run, config)
    files.check_seeds(
        (run, task, runs[run][0].name, runs[run][0].seed)
        for run in _RUN.value
        for task in lengths[run] or runs[run][0].evaluation.lengths
    )
    command.make_folder(path)
    lines = []
    for run, (config, params) in tqdm(runs.items(), desc="evaluate"):
        if _PROBLEMS.value:
            lines += evaluate_file(run, config, params, *problems[run])
        else:
            lines += evaluate(run, config, params, lengths[run])
    files.write_lines(path / "records.jsonl", lines)
    print(report(lines, path / "figures"), end="\n\n")
    for run, (task, selected) in problems.items():
        print(describe(task, selected, num_read[run]))
    print(f"records and figures are in {path}")


def check_workdir(path: epath.Path) -> None:
    """Raises ValueError if an evaluation would replace other records."""
    for name in ("config.json", "checkpoints", "run.jsonl"):
        if (path / name).exists():
            raise ValueError(
                f"--workdir {path} is a run directory (it has {name}), whose records "
                f"must stay; give another directory, such as {path / 'evaluation'}"
            )
    if (path / "records.jsonl").exists() and not _OVERWRITE.value:
        raise ValueError(f"{path} has an evaluation; pass --overwrite to replace it")


def requested_lengths(run: str, config: TrainConfig) -> Lengths:
    """The lengths that the flags request for each task.

    Raises:
      ValueError: the flags name no task, or one that the model cannot solve.
    """
    known = config.evaluation.lengths
    tasks = [_TASK.value] if _TASK.value else list(known)
    if _TASK.value and _TASK.value not in known and not _LENGTHS.value:
        raise ValueError(
            f"{run} was not evaluated on {_TASK.value!r}, only on "
            f"{', '.join(known) or 'text'}; give --lengths=FIRST,LAST with that --task"
        )
    if _LENGTHS.value and not tasks:
        raise ValueError(f"{run} has no task: give --task with --lengths")
    lengths = {}
    for name in tasks:
        task = make_task(name, config.evaluation.options.get(name, {}))
        bounds = known.get(name, (0, 0))
        if _LENGTHS.value:
            bounds = command.whole_numbers("lengths", _LENGTHS.value, 2)
        check_lengths(task, bounds, config.model, "test")
        if _LENGTHS.value:  # the last length is always included
            lengths[name] = list(range(bounds[1], bounds[0] - 1, -_STEP.value))[::-1]
        else:
            lengths[name] = config.evaluation.steps_to(name, bounds)
    return lengths if _TASK.value or _LENGTHS.value else None


def evaluate(
    run: str, config: TrainConfig, params: PyTree, lengths: Lengths
) -> list[dict]:
    """The records of one run."""
    metadata = {"run": run, "model": config.name, "seed": config.seed}
    lines = evaluate_run(
        *(config, params, run, metadata | {"problem_seed": _SEED.value}),
        count=_COUNT.value,
        seed=_SEED.value,
        final=True,
        lengths=lengths,
        details=True,
    )
    return trained_metrics(lines, config)


def requested_problems(config: TrainConfig) -> tuple[Task, ProblemFile, int]:
    """The problems of --problems that the flags request, with their task, and the number
    of all problems of the file.

    Raises:
      ValueError: the file cannot be read, or is for none of the run's tasks.
    """
    lengths = None
    if _LENGTHS.value:
        first, last = command.whole_numbers("lengths", _LENGTHS.value, 2)
        lengths = range(last, first - 1, -_STEP.value)
    task, problems = read_problems_for(config, _PROBLEMS.value, _TASK.value)
    selected = select_problems(problems, _COUNT.value, lengths)
    return task, selected, len(problems.has_chain)


def evaluate_file(
    run: str, config: TrainConfig, params: PyTree, task: Task, problems: ProblemFile
) -> list[dict]:
    """The records of one run on the problems of a file."""
    metadata = {"run": run, "model": config.name, "seed": config.seed}
    metadata["problems"] = _PROBLEMS.value
    lines = evaluate_problems(config, params, task, problems, metadata)
    return trained_metrics(lines, config)


def describe(task: Task, problems: ProblemFile, num_read: int) -> str:
    """What was compared, in one line."""
    num_chains, num_others = problems.has_chain.sum(), problems.has_other_chain.sum()
    text = f"{_PROBLEMS.value}: {len(problems.has_chain)} problems of {task.name}"
    if num_left_out := num_read - len(problems.has_chain):
        text += f" ({num_left_out} others left out: --count, --lengths, --step)"
    text += f", {num_chains} with a chain to compare"
    if num_others:
        text += (
            f", {num_others} with a chain in another order than the model's (leftmost "
            "operation first), of which only the answers are compared"
        )
    return text


if __name__ == "__main__":
    command.run(main)
