"""Measures run directories by problem length, and draws the figures.

    python -m experiments.evaluate --run=DIR/ar,DIR/ar_relay --workdir=DIR/evaluation \
        --lengths=1,12 --count=1000

Writes records.jsonl (answers, chains, tokens, rounds, hit matrix) and figures/*.png.
"""

from absl import flags
from etils import epath
from tqdm import tqdm

from experiments import command
from relay_jax import records
from relay_jax.data import pipeline
from relay_jax.evaluation import accuracy, figures
from relay_jax.evaluation.table import make_table
from relay_jax.training import checkpoint

_RUN = flags.DEFINE_list("run", None, "Run directories, with commas.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where records and figures go.")
_TASK = flags.DEFINE_string("task", "", "One task; default: all of the run's config.")
_LENGTHS = flags.DEFINE_string("lengths", "", "FIRST,LAST; default: the run's config.")
_COUNT = flags.DEFINE_integer("count", 1000, "Problems a length.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the test problems.", lower_bound=0)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an earlier evaluation.")
flags.mark_flags_as_required(["run", "workdir"])


def main() -> None:
    path = epath.Path(_WORKDIR.value)
    if (path / "records.jsonl").exists() and not _OVERWRITE.value:
        raise ValueError(f"{path} holds an evaluation; pass --overwrite to replace it")
    runs = [checkpoint.load_params(run) for run in _RUN.value]
    work = [
        (epath.Path(run).name, config, params, name)
        for run, (config, params) in zip(_RUN.value, runs, strict=True)
        for name in ([_TASK.value] if _TASK.value else config.evaluation.lengths)
    ]
    lines = []
    for run, config, params, name in tqdm(work, desc="evaluate"):
        task = pipeline.make_task(name, config.evaluation.options.get(name, {}))
        bounds = config.evaluation.lengths.get(name, (1, 1))
        if _LENGTHS.value:
            bounds = command.whole_numbers("lengths", _LENGTHS.value, 2)
        pipeline.check_lengths(task, bounds, config.model)
        lengths = config.evaluation.steps_to(name, bounds)
        problems = accuracy.test_problems(
            task, lengths, _COUNT.value, _SEED.value, final=True
        )
        scored = accuracy.score(
            params, config.model, task, problems, config.evaluation.batch_size
        )
        common = {
            "run": run,
            "task": name,
            "model": config.name,
            "seed": _SEED.value,
        }
        lines += accuracy.make_records(scored, common, details=True)
    path.mkdir(parents=True, exist_ok=True)
    records.write_lines(path / "records.jsonl", lines)

    for metric in figures.TITLES:
        figures.accuracy_by_length(lines, metric, path / f"figures/{metric}.png")
    for task in dict.fromkeys(line["task"] for line in lines):
        print(make_table(lines, task, "answer_accuracy"), end="\n\n")
        longest = max(line["length"] for line in lines if line["task"] == task)
        name = f"figures/hit_matrix_{task}_{longest}.png"
        figures.hit_matrices(lines, task, longest, path / name)
    print(f"records and figures are in {path}")


if __name__ == "__main__":
    command.run(main)
