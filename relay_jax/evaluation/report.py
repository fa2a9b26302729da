"""Records as tables, and the report of a set of runs: tables and figures."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from relay_jax.config import TrainConfig
from relay_jax.evaluation import figures

Record = dict[str, Any]
TABLES = ("answer_accuracy", "chain_accuracy")


def trained_metrics(lines: Iterable[Record], config: TrainConfig) -> list[Record]:
    """The records of what a model is trained for.

    These are the answers only if its loss does not include rounds.
    """
    return [
        line
        for line in lines
        if config.supervises_rounds or line["metric"] == "answer_accuracy"
    ]


def report(
    lines: Sequence[Record],
    folder: epath.PathLike,
    trained_lengths: Mapping[str, tuple[int, int]] | None = None,
    prefix: str = "",
) -> str:
    """Draws all figures that the records permit and returns the tables as text.

    Args:
      lines: records of runs (`relay_jax.evaluation.evaluate`), of one seed or several.
      folder: where FOLDER/[PREFIX_]METRIC.png and FOLDER/[PREFIX_]hit_matrix_*.png go.
      trained_lengths: of each task, the first and last length in training.
    """
    start = f"{folder}/{prefix}_" if prefix else f"{folder}/"
    texts = [line for line in lines if line["task"] == "text"]
    lines = [line for line in lines if line["task"] != "text"]
    trained_lengths = dict(trained_lengths or {})
    metrics = {line["metric"] for line in lines}
    for metric in figures.TITLES:
        if metric in metrics:
            file = f"{start}{metric}.png"
            figures.accuracy_by_length(lines, metric, file, trained_lengths)
    figures.longest_hit_matrices(lines, f"{start}hit_matrix")
    parts = [
        f"{line['run']}: {line['metric']} {line['value']:.4f} on held-out text"
        for line in texts
    ]
    for task in dict.fromkeys(line["task"] for line in lines):
        parts += _task_tables(lines, task)
        if task in trained_lengths:
            first, last = trained_lengths[task]
            parts.append(
                f"trained on lengths {first} to {last}, tested on all of these"
            )
    return "\n\n".join(parts)


def _task_tables(lines: Sequence[Record], task: str) -> list[str]:
    """The tables of a task; of several seeds, their mean and their minimum."""
    lines = [line for line in lines if line["task"] == task]
    num_seeds = len({line["seed"] for line in lines})
    tables = []
    for metric in TABLES:
        if not any(line["metric"] == metric for line in lines):
            continue
        if num_seeds == 1:
            tables.append(make_table(lines, task, metric))
            continue
        for name, over_seeds in (("mean", statistics.mean), ("minimum", min)):
            table = make_table(lines, task, metric, over_seeds)
            tables.append(f"{name} over all available seeds\n{table}")
    return tables


def make_table(
    lines: Iterable[Record],
    task: str,
    metric: str,
    over_seeds: Callable[[list[float]], float] = statistics.mean,
) -> str:
    """A table with a row for each model and a column for each length.

    Args:
      over_seeds: combines the values of several seeds into one.
    """
    cells: dict[str, dict[int, list[float]]] = {}
    for line in lines:
        if line["task"] == task and line["metric"] == metric:
            row = cells.setdefault(line["model"], {})
            row.setdefault(line["length"], []).append(line["value"])
    lengths = sorted({length for row in cells.values() for length in row})
    rows = [["", *map(str, lengths)]]
    for model, row in cells.items():
        values = [f"{over_seeds(row[n]):.3f}" if n in row else "-" for n in lengths]
        rows.append([model, *values])
    return f"{metric} on {task}, by length\n{align_columns(rows, min_width=7)}"


def make_speed_table(lines: Iterable[Record]) -> str:
    """A table with a row for each drafter.

    Its columns are the number of draft tokens, M (mean new tokens per step),
    tokens per second, and the speed-up over plain decoding.
    """
    rows = [f"{'drafter':<11}{'nodes':>15}{'M':>7}{'tokens/s':>10}{'speed-up':>10}"]
    for line in lines:
        nodes = str(line["num_draft"])
        if line["autotuned"]:
            nodes = f"{nodes if line['num_draft'] else 'plain'} (chosen)"
        rows.append(
            f"{line['drafter']:<11}{nodes:>15}{line['M']:>7.2f}"
            f"{line['tokens_per_second']:>10.0f}{line['speed_up']:>10.2f}"
        )
    return "\n".join(rows)


def align_columns(rows: Sequence[Sequence[str]], min_width: int = 0) -> str:
    """Rows as text: the first column left-aligned, the others right-aligned.

    Args:
      min_width: the minimum width of all columns but the first, including two spaces.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    widths = [widths[0], *(max(width + 2, min_width) for width in widths[1:])]
    lines = []
    for first, *rest in rows:
        cells = [cell.rjust(w) for cell, w in zip(rest, widths[1:], strict=True)]
        lines.append((first.ljust(widths[0]) + "".join(cells)).rstrip())
    return "\n".join(lines)
