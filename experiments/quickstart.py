r"""The whole RELAY method with one command: five models, chains, tables and figures.

    python -m experiments.quickstart
    python -m experiments.quickstart --seed=1 --workdir=runs/quickstart1
    python -m experiments.quickstart --config=experiments/configs/quickstart.py:lis \\
        --workdir=runs/lis

Tasks of the quickstart: arithmetic (the default), edit_distance, lis, multitask, and the
paper's self-made-chain baselines, self_made. At the end, REST: the AR model decodes with
drafts from the chains that it was trained on. When interrupted and started again, every
stage resumes.
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
from experiments.configs import relay_recipe
from relay_jax import config as configs
from relay_jax import files
from relay_jax.evaluation import figures
from relay_jax.evaluation.report import make_speed_table, report, trained_metrics
from relay_jax.relay import chain_datastore, stages
from relay_jax.relay.stage_checks import check_stages

HIT_MATRIX_RUNS = ("looped_aligned", "ar", "ar_relay")
_DEFAULT = pathlib.Path(__file__).parent / "configs" / "quickstart.py"
with command.one_line_errors():  # the default config and its overrides are read here
    command.check_config(sys.argv, str(_DEFAULT))
    _CONFIG = config_flags.DEFINE_config_file(
        "config", str(_DEFAULT), "The experiment."
    )
_WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "The work directory.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of every stage.", 0, configs.MAX_SEED)
_JOBS = flags.DEFINE_integer(
    "jobs", min(2, os.cpu_count() or 1), "Parallel stages; use 1 on an accelerator.", 1
)


def main() -> None:
    call, start = command.describe(), time.monotonic()
    values = relay_recipe.with_seed(_CONFIG.value.to_dict(), _SEED.value)
    config = command.build(configs.RelayConfig, values)
    path = epath.Path(_WORKDIR.value).absolute()
    all_stages = stages.all_stages(config)
    check_stages(all_stages, path)
    command.make_folder(path)
    stages.run_stages(all_stages, path, _JOBS.value)
    accuracies, hits = collect_records(config, path)
    tables = report(accuracies + hits, path / "figures", config.trained_lengths)
    print(f"\n{tables}\n")
    report_speed(config, path)
    minutes = (time.monotonic() - start) / 60
    call |= {"minutes": round(minutes, 1), "seed": _SEED.value}
    call |= {"trained": config.trained_lengths}
    files.append_lines(path / "run.jsonl", [call])
    print(f"figures: {path / 'figures'}\nrecords: {path / 'records.jsonl'}")
    print(f"this call took {minutes:.1f} minutes")


def collect_records(
    config: configs.RelayConfig, path: epath.Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Writes records.jsonl and hit_records.jsonl of all runs, and returns both."""
    accuracies = []
    for name, run in config.runs.items():
        lines = files.read_json(path / name / "summary.json")["final"]
        accuracies += trained_metrics(lines, run)
    hits = list(hit_records(config, path))
    files.write_lines(path / "records.jsonl", accuracies)
    files.write_lines(path / "hit_records.jsonl", hits)
    return accuracies, hits


def hit_records(
    config: configs.RelayConfig, path: epath.Path
) -> Iterator[dict[str, Any]]:
    """The accuracies of each position of each round, of `HIT_MATRIX_RUNS`."""
    for name in HIT_MATRIX_RUNS:
        if name in config.runs:
            lines = files.read_lines(path / name / "records.jsonl")
            yield from (line for line in lines if line["metric"] == "hit_accuracy")


def report_speed(config: configs.RelayConfig, path: epath.Path) -> None:
    """Compares plain decoding of `ar_relay` with drafts from its chains."""
    lines = chain_datastore.compare_speed(config, path)
    if lines:
        figures.speed_by_drafter(lines, path / "figures" / "rest_speed.png")
    for task in dict.fromkeys(line["prompts"] for line in lines):
        shown = [line for line in lines if line["prompts"] == task]
        problems = f"{shown[0]['texts']} problems of length {shown[0]['length']}"
        print(
            f"ar_relay with drafts from the looped model's chains: {task}, {problems}"
        )
        print(make_speed_table(shown), end="\n\n")


if __name__ == "__main__":
    command.run(main)
