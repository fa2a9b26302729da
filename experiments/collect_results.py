r"""Collects finished quickstarts or trainings, several seeds of them, into one file.

    python -m experiments.collect_results --run=runs/seed0,runs/seed1,runs/seed2 \\
        --results=experiments/results/quickstart.jsonl

    # adds a seed, and draws again
    python -m experiments.collect_results --overwrite \\
        --results=experiments/results/quickstart.jsonl \\
        --run=experiments/results/quickstart.jsonl,runs/seed3

Writes the command, commit and machine of every call, the steps, duration and last
training loss of every stage, all final records, and the speed of decoding. Draws
figures/NAME_METRIC.png and figures/NAME_hit_matrix_*.png beside the file. Prints the mean
and the minimum over the seeds.
"""

import statistics
from typing import Any

from absl import flags
from etils import epath

from experiments import command
from relay_jax import files
from relay_jax.evaluation.report import report

_RUN = flags.DEFINE_list(
    "run",
    None,
    "Directories of quickstarts or runs, or files that this script wrote.",
)
_RESULTS = flags.DEFINE_string("results", None, "The file of records to write.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the file of records.")
flags.mark_flags_as_required(["run", "results"])
NUM_LOSSES = 10  # logged ones whose mean is the last loss
# Of a quickstart: the kind of a line, and the file with these lines.
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
    collected = {run: read_results(epath.Path(run)) for run in _RUN.value}
    files.check_seeds(
        (run, *key) for run in _RUN.value for key in measured_models(collected[run])
    )
    lines = [line for run in _RUN.value for line in collected[run]]
    files.write_lines(file, lines)
    trained_lengths = {
        task: tuple(bounds)
        for line in lines
        for task, bounds in line.get("trained", {}).items()
    }
    records = [line for line in lines if line["kind"] in ("record", "hit")]
    print(report(records, file.parent / "figures", trained_lengths, prefix=file.stem))
    print(f"\nrecords: {file}")


def read_results(run: epath.Path) -> list[dict[str, Any]]:
    """The calls, stages and records of a quickstart or a training, or of a file in which
    they were collected before.

    Raises:
      ValueError: there is no finished one.
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
            f"{run} has no finished quickstart or training: there is no run.jsonl; make "
            f"one with python -m experiments.quickstart --workdir={run}"
        )
    calls = list(files.read_lines(run / "run.jsonl"))
    if "seed" not in calls[0]:
        raise ValueError(
            f"{run} is no quickstart or training: its run.jsonl has no seed; results of "
            "experiments.reproduce are drawn by that script"
        )
    lines = [{"kind": "call"} | call for call in calls]
    summary = run / "summary.json"
    if summary.exists():  # a single training
        lines.append(stage_line(summary, calls[0]["seed"]))
        lines += [{"kind": "record"} | x for x in files.read_json(summary)["final"]]
        details = run / FILES["record"]
        found = files.read_lines(details) if details.exists() else ()
        hits = (line for line in found if line["metric"] == "hit_accuracy")
        return lines + [{"kind": "hit"} | line for line in hits]
    for file in sorted(files.LiteralPath(run).glob("*/summary.json")):
        lines.append(stage_line(file, calls[0]["seed"]))
    for kind, name in FILES.items():
        if (run / name).exists():
            lines += [{"kind": kind} | line for line in files.read_lines(run / name)]
    return lines


def stage_line(summary: epath.Path, seed: int) -> dict[str, Any]:
    """A line about a finished training or chain generation, from its summary.json."""
    values, run = files.read_json(summary), summary.parent
    if "steps" not in values:
        return {"kind": "chains", "run": run.name, "seed": seed} | values
    fields = {name: values[name] for name in STAGE_FIELDS}
    fields["loss"] = last_loss(run)
    return {"kind": "stage", "run": run.name, "seed": seed} | fields


def measured_models(lines: list[dict[str, Any]]) -> set[tuple[str, str, int]]:
    """Task, model and seed of all records."""
    records = [line for line in lines if line["kind"] == "record"]
    return {(line["task"], line["model"], line["seed"]) for line in records}


def last_loss(run: epath.Path) -> float:
    """The mean of the last logged training losses: has the run converged?"""
    lines = files.read_lines(run / "metrics.jsonl")
    return statistics.mean([line["loss"] for line in lines][-NUM_LOSSES:])


if __name__ == "__main__":
    command.run(main)
