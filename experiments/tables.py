"""The tables of the RELAY paper as text, beside the numbers planned and generated here.

settings            Tables 1 and 2: hyper-parameters of a recipe and of `configs/paper.py`
sample_counts       Tables 3 and 4: the paper's, planned and generated numbers of samples
round_accuracies    beside a hit matrix: the accuracy of each round
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.configs import paper, relay_recipe
from relay_jax import config_io
from relay_jax.config import ChainsConfig, RelayConfig, TrainConfig
from relay_jax.evaluation.report import align_columns

RUNS = {
    "table_1": ("looped_aligned", "ar", "looped_vanilla"),
    "table_2": ("ar_relay", "ar_self_oracle_1"),
}


def paper_experiment() -> RelayConfig:
    """The paper's own multitask experiment."""
    values = paper.get_config(relay_recipe.MULTITASK).to_dict()
    return config_io.build(RelayConfig, values)


def settings(name: str, experiment: RelayConfig, recipe: str) -> str:
    """Table 1 or 2: a row for each setting; two columns for each run, the paper's value
    and the one of `experiment`.

    Args:
      name: "table_1" or "table_2".
      recipe: the name of the experiment's recipe.
    """
    published = paper_experiment()
    head, subhead, columns = ["multitask"], [""], []
    for run in RUNS[name]:
        head += [run, ""]
        subhead += ["paper", recipe]
        columns += [_settings(published.runs[run]), _settings(experiment.runs[run])]
    rows = [[row, *(column[row] for column in columns)] for row in columns[0]]
    return align_columns([head, subhead, *rows])


def _settings(run: TrainConfig) -> dict[str, str]:
    """The settings that the paper states, and others in which recipes differ."""
    model, optimizer, weights = run.model, run.optimizer, run.loss.task_weights
    task_weights = " / ".join(f"{weights.get(task, 1.0):g}" for task in paper.PLANS)
    is_looped = model.kind == "looped"
    return {
        "layers": f"{model.num_layers}",
        "width": f"{model.dim}",
        "heads": f"{model.num_heads}",
        "positions": model.position.scheme,
        "dropout": f"{model.dropout:g}",
        "input injection": model.input_injection if is_looped else "-",
        "optimizer": optimizer.kind,
        "learning rate": f"{optimizer.learning_rate:g}",
        "warm-up share": f"{optimizer.warmup_share:g}",
        "weight decay": f"{optimizer.weight_decay:g}",
        "batch size": f"{run.data.batch_size}",
        "steps": f"{run.num_steps:,}",
        "samples seen": f"{run.num_steps * run.data.batch_size:,}",
        "ARI / ED / LIS": task_weights,
    }


def sample_counts(
    name: str, experiment: RelayConfig, lines: Sequence[Mapping[str, Any]]
) -> str:
    """Table 3 or 4: the numbers of generated samples of each length.

    Args:
      name: "table_3" or "table_4".
      lines: records with the metric `samples`.
    """
    published = paper_experiment().chains
    generated = {
        (line["run"], line["length"]): int(line["value"])
        for line in lines
        if line["metric"] == "samples"
    }
    if name == "table_3":
        return _merged_samples(experiment, published, generated)
    rows = [["phase", "task", "length", "paper", "planned", "loop", "oracle"]]
    for phase in range(1, 6):
        for task in paper.PLANS:
            loop, oracle = (
                f"chains_self_{kind}_{phase}_{task}" for kind in ("loop", "oracle")
            )
            ((length, planned),) = experiment.chains[loop].counts.items()
            (count,) = published[loop].counts.values()
            counts = [generated[run, int(length)] for run in (loop, oracle)]
            row = [str(phase), task, length, *map(str, (count, planned, *counts))]
            rows.append(row)
    return align_columns(rows)


def _merged_samples(
    experiment: RelayConfig,
    published: Mapping[str, ChainsConfig],
    generated: Mapping[tuple[str, int], int],
) -> str:
    """Table 3. Samples of the training lengths are not stored here but sampled anew for
    each batch, with a weight that corresponds to the planned number."""
    rows = [["task", "length", "paper", "planned", "made"]]
    buckets = experiment.runs["ar_relay"].data.buckets
    for task in paper.PLANS:
        name = f"chains_{task}"
        planned, original = experiment.chains[name].counts, published[name].counts
        weight = buckets[task].weight * len(paper.PLANS)
        total = sum(planned.values())
        num_originals = round(weight * total / (1 - weight))
        lengths = f"<= {buckets[task].lengths[1]}"
        counts = [str(paper.PLANS[task].num_originals), str(num_originals), "drawn"]
        rows.append([task, lengths, *counts])
        for length in sorted({*planned, *original}, key=int):
            count = generated.get((name, int(length)))
            counts = original.get(length), planned.get(length), count
            shown = ["-" if count is None else str(count) for count in counts]
            rows.append([task, length, *shown])
    return align_columns(rows)


def round_accuracies(lines: Iterable[Mapping[str, Any]], length: int) -> str:
    """The accuracy of each round, a row for each model."""
    values: dict[str, list[str]] = {}
    for line in lines:
        if (line["metric"], line["length"]) == ("round_accuracy", length):
            values.setdefault(line["model"], []).append(f"{line['value']:.3f}")
    num_rounds = max(map(len, values.values()), default=0)
    head = [f"lis, length {length}: round", *(str(t + 1) for t in range(num_rounds))]
    rows = [[model, *row] for model, row in values.items()]
    return align_columns([head, *rows])
