"""Gathers finished quickstarts or trainings, seeds of one config, into one file.

    python -m experiments.collect_results --run=runs/seed0,runs/seed1,runs/seed2 \\
        --results=experiments/results/quickstart.jsonl

    python -m experiments.collect_results --overwrite --results=experiments/results/quickstart.jsonl \\
        --run=experiments/results/quickstart.jsonl,runs/seed3   # adds one, draws anew

Writes the command, commit and machine of every call, what every stage took and its last
training loss, all final records, hits by round and place, and the speed of decoding; draws
figures/NAME_METRIC.png and figures/NAME_hit_matrix_... beside the file; prints the means over the seeds and the lowest of them.
"""

import statistics
from typing import Any

from absl import flags
from etils import epath

from experiments import command
from relay_jax import files
from relay_jax.evaluation import figures
from relay_jax.evaluation.report import make_table

_RUN = flags.DEFINE_list(
    "run",
    None,
    "Directories of quickstarts or runs, or files of this script's records.",
)
_RESULTS = flags.DEFINE_string("results", None, "The file of records to write.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the file of records.")
flags.mark_flags_as_required(["run", "results"])
LAST_LOSSES = 10
# Of a quickstart: what a line is, and the file it stands in.
FILES = {
    "record": "records.jsonl",
    "hit": "hit_records.jsonl",
    "speed": "rest_records.jsonl",
}
STAGE_FIELDS = ("steps", "seconds", "num_params", "params_sha256")


def main() -> None:
    file = epath.Path(_RESULTS.value)
    if file.exists() and not _OVERWRITE.value:
        raise ValueError(f"{file} exists; pass --overwrite to replace it")
    gathered = [(run, read_run(epath.Path(run))) for run in _RUN.value]
    files.check_seeds(
        (run, *key) for run, lines in gathered for key in measured_by(lines)
    )
    lines = [line for _, lines in gathered for line in lines]
    files.write_lines(file, lines)
    measured = [line for line in lines if line["kind"] == "record"]
    trained = {
        task: tuple(bounds)
        for line in lines
        for task, bounds in line.get("trained", {}).items()
    }
    for metric in figures.TITLES:
        path = file.parent / "figures" / f"{file.stem}_{metric}.png"
        figures.accuracy_by_length(measured, metric, path, trained)
    hits = [line for line in lines if line["kind"] == "hit"]
    name = file.parent / "figures" / f"{file.stem}_hit_matrix"
    figures.longest_hit_matrices(hits, name)
    for task in dict.fromkeys(line["task"] for line in measured):
        for metric in ("answer_accuracy", "chain_accuracy"):
            for name, over_seeds in (("mean", statistics.mean), ("lowest", min)):
                if name == "lowest" and len(_RUN.value) == 1:
                    continue
                print(f"{name} of all seeds that there are")
                print(make_table(measured, task, metric, over_seeds), end="\n\n")
    print(f"records: {file}")


def read_run(run: epath.Path) -> list[dict[str, Any]]:
    """The calls, the stages and the records of a quickstart, or of one training, or what
    was gathered of them before.

    Raises:
      ValueError: none was finished there.
    """
    if run.suffix == ".jsonl" and run.exists():
        lines = list(files.read_lines(run))
        if not all("kind" in line for line in lines):
            raise ValueError(
                f"{run} was not written by this script: it has lines without a kind; "
                "give the directory of the quickstart or training"
            )
        return lines
    if not (run / "run.jsonl").exists():
        raise ValueError(
            f"{run} holds no finished quickstart or training: it has no run.jsonl; make "
            f"one with python -m experiments.quickstart --workdir={run}"
        )
    calls = list(files.read_lines(run / "run.jsonl"))
    if "seed" not in calls[0]:
        raise ValueError(
            f"{run} holds no quickstart or training: its run.jsonl names no seed; what "
            "experiments.reproduce made is drawn by that script"
        )
    common = {"seed": calls[0]["seed"]}
    lines: list[dict[str, Any]] = [{"kind": "call"} | call for call in calls]
    alone = run / "summary.json"  # of a single training
    summaries = [alone] if alone.exists() else sorted(run.glob("*/summary.json"))
    for file in summaries:
        summary = files.read_json(file)
        if "steps" in summary:
            held = {name: summary[name] for name in STAGE_FIELDS}
            held["loss"] = last_loss(file.parent)
            lines.append({"kind": "stage", "run": file.parent.name} | common | held)
        else:
            lines.append({"kind": "chains", "run": file.parent.name} | common | summary)
    if alone.exists():
        return lines + [{"kind": "record"} | x for x in files.read_json(alone)["final"]]
    for kind, name in FILES.items():
        if (run / name).exists():
            lines += [{"kind": kind} | x for x in files.read_lines(run / name)]
    return lines


def measured_by(lines: list[dict[str, Any]]) -> set[tuple[str, str, int]]:
    """Task, model and seed of all records."""
    measured = [line for line in lines if line["kind"] == "record"]
    return {(line["task"], line["model"], line["seed"]) for line in measured}


def last_loss(run: epath.Path) -> float:
    """The mean of the last training losses that were logged: has it converged?"""
    lines = files.read_lines(run / "metrics.jsonl")
    return statistics.mean([line["loss"] for line in lines][-LAST_LOSSES:])


if __name__ == "__main__":
    command.run(main)
