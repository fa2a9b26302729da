"""The tables of the RELAY paper, as text: `reproduce.py` prints them.

settings     Tables 1 and 2: of a recipe, beside those of `configs/paper.py`
samples      Tables 3 and 4: as the paper has them, as planned, as made
rounds       below a hit matrix: how many rounds are right
"""

from collections.abc import Iterable, Sequence
from typing import Any

from experiments.configs import paper, relay_recipe
from relay_jax import config as configs
from relay_jax import config_io

RUNS = {
    "table_1": ("looped_aligned", "ar", "looped_vanilla"),
    "table_2": ("ar_relay", "ar_self_oracle_1"),
}


def settings(name: str, config: configs.RelayConfig, recipe_name: str) -> str:
    """Table 1 or 2: a row a setting, two columns a run."""
    values = paper.get_config(relay_recipe.MULTITASK).to_dict()
    theirs = config_io.build(configs.RelayConfig, values)
    head, under, columns = ["multitask"], [""], []
    for run in RUNS[name]:
        for who, held in (("paper", theirs), (recipe_name, config)):
            head.append(run if who == "paper" else "")
            under.append(who)
            columns.append(_settings(held.runs[run]))
    rows = [head, under]
    rows += [[row, *(column[row] for column in columns)] for row in columns[0]]
    return _align(rows)


def _settings(run: configs.TrainConfig) -> dict[str, str]:
    """What the paper tells of a run, and what else is not alike here."""
    model, optimizer, loss = run.model, run.optimizer, run.loss
    shares = loss.task_weights
    weights = " / ".join(f"{shares.get(task, 1.0):g}" for task in paper.PLANS)
    return {
        "layers": f"{model.num_layers}",
        "width": f"{model.dim}",
        "heads": f"{model.num_heads}",
        "places": model.position.scheme,
        "dropout": f"{model.dropout:g}",
        "a loop sees": model.input_injection if model.kind == "looped" else "-",
        "optimizer": optimizer.kind,
        "learning rate": f"{optimizer.learning_rate:g}",
        "warm-up share": f"{optimizer.warmup_share:g}",
        "weight decay": f"{optimizer.weight_decay:g}",
        "batch": f"{run.data.batch_size}",
        "steps": f"{run.num_steps:,}",
        "samples seen": f"{run.num_steps * run.data.batch_size:,}",
        "ARI / ED / LIS": weights,
    }


def samples(
    name: str, config: configs.RelayConfig, lines: Sequence[dict[str, Any]]
) -> str:
    """Table 3 or 4: samples of each length that models wrote; of the paper's samples
    within the training lengths, the share of the batches stands for the number."""
    values = paper.get_config(relay_recipe.MULTITASK).to_dict()
    theirs = config_io.build(configs.RelayConfig, values).chains
    made = {
        (line["run"], line["length"]): int(line["value"])
        for line in lines
        if line["metric"] == "samples"
    }
    if name == "table_3":
        return _merged(config, theirs, made)
    rows = [["phase", "task", "length", "paper", "planned", "loop", "oracle"]]
    for phase in range(1, 6):
        for task in paper.PLANS:
            loop, oracle = (
                f"chains_self_{kind}_{phase}_{task}" for kind in ("loop", "oracle")
            )
            ((length, planned),) = config.chains[loop].counts.items()
            (count,) = theirs[loop].counts.values()
            own = [made[name, int(length)] for name in (loop, oracle)]
            rows.append([str(phase), task, length, *map(str, (count, planned, *own))])
    return _align(rows)


def _merged(config: configs.RelayConfig, theirs, made) -> str:
    rows = [["task", "length", "paper", "planned", "made"]]
    buckets = config.runs["ar_relay"].data.buckets
    for task in paper.PLANS:
        name = f"chains_{task}"
        planned, published = config.chains[name].counts, theirs[name].counts
        share = buckets[task].weight * len(paper.PLANS)
        total = sum(planned.values())
        within = round(share * total / (1 - share))
        longest = f"<= {buckets[task].lengths[1]}"
        rows.append(
            [task, longest, str(paper.PLANS[task].num_originals), str(within), "drawn"]
        )
        for length in sorted({*planned, *published}, key=int):
            counts = (published.get(length), planned.get(length))
            counts = *counts, made.get((name, int(length)))
            shown = ["-" if count is None else str(count) for count in counts]
            rows.append([task, length, *shown])
    return _align(rows)


def rounds(lines: Iterable[dict[str, Any]], length: int) -> str:
    """The share of right rounds of each model."""
    found: dict[str, list[str]] = {}
    for line in lines:
        if (line["metric"], line["length"]) == ("round_accuracy", length):
            found.setdefault(line["model"], []).append(f"{line['value']:.3f}")
    most = max(map(len, found.values()), default=0)
    head = [f"lis, length {length}: round", *(str(t + 1) for t in range(most))]
    return _align([head, *([model, *values] for model, values in found.items())])


def _align(rows: list[list[str]]) -> str:
    """Columns: the first one to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for first, *rest in rows:
        cells = [cell.rjust(w + 2) for cell, w in zip(rest, widths[1:], strict=True)]
        lines.append((first.ljust(widths[0]) + "".join(cells)).rstrip())
    return "\n".join(lines)
