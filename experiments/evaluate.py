"""Measures run directories by problem length, and draws the figures.

    python -m experiments.evaluate --run=DIR/ar,DIR/ar_relay --workdir=DIR/evaluation \
        --lengths=1,12 --count=1000

Writes records.jsonl (answers, chains, tokens, rounds, hit matrix) and figures/*.png.
"""

from absl import flags
from etils import epath
from tqdm import tqdm

from experiments import command
from relay_jax import files
from relay_jax.config import MAX_SEED, TrainConfig
from relay_jax.data.buckets import check_lengths
from relay_jax.evaluation import figures
from relay_jax.evaluation.evaluate import evaluate_run
from relay_jax.evaluation.report import make_table
from relay_jax.tasks import make_task
from relay_jax.training import checkpoint

_RUN = flags.DEFINE_list("run", None, "Run directories, with commas.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where records and figures go.")
_TASK = flags.DEFINE_string("task", "", "One task; default: all of the run's config.")
_LENGTHS = flags.DEFINE_string("lengths", "", "FIRST,LAST; default: the run's config.")
_STEP = flags.DEFINE_integer("step", 1, "Every how many of --lengths.", lower_bound=1)
_COUNT = flags.DEFINE_integer("count", 1000, "Problems a length.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the test problems.", 0, MAX_SEED)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an earlier evaluation.")
flags.mark_flags_as_required(["run", "workdir"])


def main() -> None:
    path = epath.Path(_WORKDIR.value)
    check_workdir(path)
    if (path / "records.jsonl").exists() and not _OVERWRITE.value:
        raise ValueError(f"{path} holds an evaluation; pass --overwrite to replace it")
    work = []
    for run in _RUN.value:  # all that can be wrong, before any of the work
        config, params = checkpoint.load_params(run)
        work.append((run, config, params, wanted_lengths(run, config)))
    files.check_seeds(
        (run, task, config.name, config.seed)
        for run, config, _, lengths in work
        for task in lengths or config.evaluation.lengths
    )
    command.make_folder(path)
    lines = []
    for run, config, params, lengths in tqdm(work, desc="evaluate"):
        about = {"run": run, "model": config.name, "seed": config.seed}
        measured = evaluate_run(
            *(config, params, run, about | {"problem_seed": _SEED.value}),
            count=_COUNT.value,
            seed=_SEED.value,
            final=True,
            lengths=lengths,
            details=True,
        )
        lines += [
            line
            for line in measured
            if config.supervises_rounds or line["metric"] == "answer_accuracy"
        ]
    files.write_lines(path / "records.jsonl", lines)
    report(lines, path)
    print(f"records and figures are in {path}")


def check_workdir(path: epath.Path) -> None:
    """Raises ValueError at a directory whose own records an evaluation would replace."""
    for name in ("config.json", "checkpoints", "run.jsonl"):
        if (path / name).exists():
            raise ValueError(
                f"--workdir {path} holds a run (it has {name}), whose records must stay; "
                f"give another directory, such as {path / 'evaluation'}"
            )


def wanted_lengths(run: str, config: TrainConfig) -> dict[str, list[int]] | None:
    """The lengths of the flags for each task; None: what the run's config says.

    Raises:
      ValueError: the flags do not say what is to be measured, or it cannot be.
    """
    known = config.evaluation.lengths
    tasks = [_TASK.value] if _TASK.value else list(known)
    if _TASK.value and _TASK.value not in known and not _LENGTHS.value:
        raise ValueError(
            f"{run} was not evaluated on {_TASK.value!r}, only on "
            f"{', '.join(known) or 'text'}; give --lengths=FIRST,LAST with that --task"
        )
    if _LENGTHS.value and not tasks:
        raise ValueError(f"{run} knows no task: give --task with --lengths")
    lengths = {}
    for name in tasks:
        task = make_task(name, config.evaluation.options.get(name, {}))
        bounds = known.get(name, (0, 0))
        if _LENGTHS.value:
            bounds = command.whole_numbers("lengths", _LENGTHS.value, 2)
        check_lengths(task, bounds, config.model, "test")
        if _LENGTHS.value:
            lengths[name] = list(range(bounds[1], bounds[0] - 1, -_STEP.value))[::-1]
        else:
            lengths[name] = config.evaluation.steps_to(name, bounds)
    return lengths if _TASK.value or _LENGTHS.value else None


def report(lines: list[dict], path: epath.Path) -> None:
    """Draws the figures and prints the tables."""
    texts = [line for line in lines if line["task"] == "text"]
    for line in texts:
        print(f"{line['run']}: {line['metric']} {line['value']:.4f} on held-out text")
    lines = [line for line in lines if line["task"] != "text"]
    for metric in figures.TITLES:
        if any(line["metric"] == metric for line in lines):
            figures.accuracy_by_length(lines, metric, path / f"figures/{metric}.png")
    for task in dict.fromkeys(line["task"] for line in lines):
        print(make_table(lines, task, "answer_accuracy"), end="\n\n")
    figures.longest_hit_matrices(lines, path / "figures" / "hit_matrix")


if __name__ == "__main__":
    command.run(main)
