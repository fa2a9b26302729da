"""The whole RELAY method with one command: five models, chains, table, figures.

At the end, REST: what the AR model says is drafted from the chains that it learnt from.

    python -m experiments.quickstart [--workdir DIR] [--config FILE] [--seed N]

Interrupted and started again, every stage goes on where it was.
"""

import os
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from absl import flags
from etils import epath
from ml_collections import config_flags

from experiments import command
from relay_jax import config as configs
from relay_jax import files
from relay_jax.evaluation import figures
from relay_jax.evaluation.report import make_speed_table, make_table
from relay_jax.relay import chain_datastore, stages

HIT_MATRICES = ("looped_aligned", "ar", "ar_relay")  # whose are drawn
_DEFAULT = pathlib.Path(__file__).parent / "configs" / "quickstart.py"
with command.one_line_errors():  # here the default is read, with all that changes it
    command.check_config(sys.argv, str(_DEFAULT))
    _CONFIG = config_flags.DEFINE_config_file("config", str(_DEFAULT), "The plan.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "Where everything goes.")
_SEED = flags.DEFINE_integer("seed", 0, "Of every stage.", 0, configs.MAX_SEED)
_JOBS = flags.DEFINE_integer(
    "jobs", min(2, os.cpu_count() or 1), "Stages at once; 1 on an accelerator.", 1
)


def main() -> None:
    call, started = command.describe(), time.monotonic()
    values = with_seed(_CONFIG.value.to_dict())
    config = command.build(configs.RelayConfig, values)
    path = epath.Path(_WORKDIR.value).absolute()
    planned = {**config.runs, **config.chains}
    stages.check_stages(planned, path)
    command.make_folder(path)
    stages.run_stages(planned, path, _JOBS.value)
    trained = report(config, path)
    report_speed(config, path)
    minutes = (time.monotonic() - started) / 60
    call |= {"minutes": round(minutes, 1), "seed": _SEED.value}
    files.append_lines(path / "run.jsonl", [call | {"trained": trained}])
    print(f"figures: {path / 'figures'}\nrecords: {path / 'records.jsonl'}")
    print(f"this call took {minutes:.1f} minutes")


def with_seed(values: dict[str, Any]) -> dict[str, Any]:
    """The same seed for every stage. Raises ValueError where the config has another."""
    for kind in ("runs", "chains"):
        for name, stage in values.get(kind, {}).items():
            seed = stage.get("seed", 0)
            if seed not in (0, _SEED.value):
                raise ValueError(
                    f"config.{kind}.{name}.seed is {seed}, but every stage of a "
                    f"quickstart has the seed of --seed, which is {_SEED.value}; give "
                    f"--seed={seed}"
                )
            stage["seed"] = _SEED.value
    return values


def report(config: configs.RelayConfig, path: epath.Path) -> dict[str, tuple[int, int]]:
    """Gathers the stages' final records; prints the table and draws the figures.

    Returns the training lengths of every task.
    """
    lines = []
    for name, run in config.runs.items():
        for line in files.read_json(path / name / "summary.json")["final"]:
            if run.supervises_rounds or line["metric"] == "answer_accuracy":
                lines.append(line)
    files.write_lines(path / "records.jsonl", lines)
    trained = config.trained_lengths
    tasks = list(dict.fromkeys(line["task"] for line in lines))
    for metric in figures.TITLES:
        file = path / "figures" / f"{metric}.png"
        figures.accuracy_by_length(lines, metric, file, trained)
    found = list(hits(config, path))
    files.write_lines(path / "hit_records.jsonl", found)
    figures.longest_hit_matrices(found, path / "figures" / "hit_matrix")
    print()
    for task in tasks:
        for metric in ("answer_accuracy", "chain_accuracy"):
            print(make_table(lines, task, metric), end="\n\n")
        first, last = trained[task]
        print(f"trained on lengths {first} to {last}; the rest was never seen\n")
    return trained


def hits(config: configs.RelayConfig, path: epath.Path) -> Iterator[dict[str, Any]]:
    """What the runs of `HIT_MATRICES` recorded of each place of each round."""
    for name in HIT_MATRICES:
        if name in config.runs:
            lines = files.read_lines(path / name / "records.jsonl")
            yield from (x for x in lines if x["metric"] == "hit_accuracy")


def report_speed(config: configs.RelayConfig, path: epath.Path) -> None:
    """Plain decoding of `ar_relay` against drafts from its chains, honestly."""
    lines = chain_datastore.compare_speed(config, path)
    if lines:
        figures.speed_by_drafter(lines, path / "figures" / "rest_speed.png")
    for task in dict.fromkeys(line["prompts"] for line in lines):
        chosen = [line for line in lines if line["prompts"] == task]
        about = f"{task}, length {chosen[0]['length']}, {chosen[0]['texts']} problems"
        print(f"ar_relay with drafts from the looped model's chains: {about}")
        print(make_speed_table(chosen), end="\n\n")


if __name__ == "__main__":
    command.run(main)
