"""The table by problem length, from records alone."""

import statistics
from collections.abc import Callable, Iterable
from typing import Any


def make_table(
    lines: Iterable[dict[str, Any]],
    task: str,
    metric: str,
    over_seeds: Callable[[list[float]], float] = statistics.mean,
) -> str:
    """One row a model, one column a length; several seeds become one number."""
    cells: dict[str, dict[int, list[float]]] = {}
    for line in lines:
        if line["task"] == task and line["metric"] == metric:
            row = cells.setdefault(line["model"], {})
            row.setdefault(line["length"], []).append(line["value"])
    lengths = sorted({length for row in cells.values() for length in row})
    width = max((len(model) for model in cells), default=0)
    head = f"{metric} on {task}, by length"
    rows = [head, " " * width + "".join(f"{length:>7}" for length in lengths)]
    for model, row in cells.items():
        shown = [
            f"{over_seeds(row[n]):7.3f}" if n in row else "      -" for n in lengths
        ]
        rows.append(model.ljust(width) + "".join(shown))
    return "\n".join(rows)


def make_speed_table(lines: Iterable[dict[str, Any]]) -> str:
    """One row a drafter: the size of its trees, M, and speed against plain decoding."""
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
