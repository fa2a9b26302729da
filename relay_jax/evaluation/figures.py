"""The papers' figures, drawn from records alone.

accuracy_by_length   RELAY, Figures 2 and 4 (answers) and Figure 7 (tokens)
hit_matrices         RELAY, Figures 5 and 6 (accuracy by round and column)
speed_by_drafter     REST: speed-up and new tokens per step for each drafter
speed_bars           the same for records and labels of the caller's
"""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from relay_jax.base import Float, Host
from relay_jax.files import is_main_process
from relay_jax.text_files import clean_text

TITLES = {
    "answer_accuracy": "accuracy of the final answer",
    "chain_accuracy": "accuracy of the whole chain",
    "token_accuracy": "token accuracy of the chain",
}
LABELS = {
    "ar": "AR-CoT",
    "looped_vanilla": "vanilla looped (answer loss only)",
    "looped_aligned": "aligned looped (RELAY)",
    "looped_feedback": "aligned looped with round feedback (ours)",
    "looped_aligned_2000": "aligned looped after 2,000 steps",
    "ar_relay": "AR-CoT fine-tuned on RELAY chains",
    "ar_control": "AR-CoT fine-tuned without new chains (control)",
    "ar_self_loop": "AR-CoT fine-tuned on own chains with looped answers",
    "ar_self_oracle": "AR-CoT fine-tuned on own chains with true answers",
}
LENGTHS = {
    "arithmetic": "arithmetic: problem length (operators)",
    "edit_distance": "edit distance: problem length (letters)",
    "lis": "LIS: problem length (numbers)",
}
# The answer accuracy at every training length from which on a model counts as trained.
TRAINED, TRAINED_BY_MODEL = 0.99, {"looped_vanilla": 0.95}
LETTER = 0.065  # inches, at 8 points
PHASE = re.compile(r"(ar_self_\w+)_(\d+)")


def accuracy_by_length(
    lines: Sequence[dict[str, Any]],
    metric: str,
    path: epath.PathLike,
    train_lengths: Mapping[str, tuple[int, int]] | None = None,
) -> None:
    """One panel per task, one curve per model: the mean over seeds, with their range.

    Args:
      train_lengths: the first and last training length of each task, to be shaded. The
        legend names models that are not trained to the end there (`untrained`).

    Raises:
      ValueError: no record has this metric.
    """
    notes = untrained(lines, train_lengths or {})
    lines = [line for line in lines if line["metric"] == metric]
    if not lines:
        raise ValueError(f"no record has the metric {metric!r}")
    tasks = list(dict.fromkeys(line["task"] for line in lines))
    figure = Figure(figsize=(5.4 * len(tasks), 3.8), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    models = _last_phases(dict.fromkeys(line["model"] for line in lines))
    curves = {}
    for panel, task in zip(panels, tasks, strict=True):
        chosen = [line for line in lines if line["task"] == task]
        for color, model in enumerate(models):  # the same in every panel
            of_model = [line for line in chosen if line["model"] == model]
            if of_model:
                label = "\n".join([_label(model), *notes.get(model, [])])
                curves[label] = _draw_curve(panel, of_model, f"C{color % 10}")
        if train_lengths and task in train_lengths:
            shortest, longest = train_lengths[task]
            span = (shortest - 0.3, longest + 0.3)
            shade = panel.axvspan(*span, color="0.93", zorder=0)
            curves["training lengths"] = shade
        xlabel = LENGTHS.get(task, f"{task}: problem length")
        panel.set(xlabel=xlabel, ylim=(-0.03, 1.03), ylabel=TITLES[metric])
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.3)
    longest = max(len(part) for label in curves for part in label.split("\n"))
    widest = LETTER * (longest + 7)  # with the line before the name
    columns = max(1, int(figure.get_figwidth() / widest))
    layout = {"loc": "outside upper center", "ncols": columns}
    figure.legend(list(curves.values()), list(curves), fontsize=8, **layout)
    save(figure, path)


def untrained(
    lines: Iterable[dict[str, Any]], train_lengths: Mapping[str, tuple[int, int]]
) -> dict[str, list[str]]:
    """Notes on models that are not trained to the end, by model and one for each task.

    Such a model's answers are below `TRAINED` (`TRAINED_BY_MODEL`) at some training
    length, in the mean over seeds; the note has the lowest of these means.
    """
    values: dict[tuple[str, str], dict[int, list[float]]] = {}
    for line in lines:
        first, last = train_lengths.get(line["task"], (1, 0))
        if line["metric"] == "answer_accuracy" and first <= line["length"] <= last:
            of_task = values.setdefault((line["model"], line["task"]), {})
            of_task.setdefault(line["length"], []).append(line["value"])
    notes: dict[str, list[str]] = {}
    for (model, task), of_task in values.items():
        lowest, length = min((np.mean(v), -n) for n, v in of_task.items())
        if lowest < TRAINED_BY_MODEL.get(model, TRAINED):
            where = f"{task} " if len(train_lengths) > 1 else ""
            note = f"not trained to the end: {where}{lowest:.3f} at {-length}"
            notes.setdefault(model, []).append(note)
    return notes


def _draw_curve(panel, lines, color):
    lengths = sorted({line["length"] for line in lines})
    values = [[x["value"] for x in lines if x["length"] == n] for n in lengths]
    mean = [np.mean(value) for value in values]
    (line,) = panel.plot(lengths, mean, marker="o", ms=3, color=color)
    if any(len(value) > 1 for value in values):
        low, high = [min(v) for v in values], [max(v) for v in values]
        panel.fill_between(lengths, low, high, color=color, alpha=0.15, lw=0)
    return line


def _label(model: str) -> str:
    phase = PHASE.fullmatch(model)
    if phase and phase[1] in LABELS:
        return f"{LABELS[phase[1]]}, {phase[2]} phases"
    return LABELS.get(model, model)


def _last_phases(models: Iterable[str]) -> list[str]:
    """The models; if trained in phases (RELAY, section 4.3), only the last phase."""
    last: dict[str, str] = {}
    for model in models:
        phase = PHASE.fullmatch(model)
        name = phase[1] if phase else model
        earlier = PHASE.fullmatch(last.get(name, ""))
        if not (phase and earlier and int(earlier[2]) > int(phase[2])):
            last[name] = model
    return list(last.values())


def hit_matrices(
    lines: Sequence[dict[str, Any]], task: str, length: int, path: epath.PathLike
) -> None:
    """One panel per model: the accuracy of each column of each round, at one length.

    Several seeds are merged, each weighted by its examples.

    Raises:
      ValueError: no `hit_accuracy` record of this task and length.
    """
    chosen = {"metric": "hit_accuracy", "task": task, "length": length}
    lines = [line for line in lines if chosen.items() <= line.items()]
    if not lines:
        raise ValueError(f"no hit_accuracy record of {task} at length {length}")
    models = list(dict.fromkeys(line["model"] for line in lines))
    rounds = 1 + max(line["round"] for line in lines)
    columns = 1 + max(line["position"] for line in lines)
    figure = Figure(figsize=(0.9 + 3.6 * len(models), 3.6), layout="constrained")
    panels = figure.subplots(1, len(models), squeeze=False)[0]
    images = []
    for panel, model in zip(panels, models, strict=True):
        of_model = [line for line in lines if line["model"] == model]
        matrix = _hit_matrix(of_model, rounds, columns)
        extent = (-columns + 0.5, 0.5, rounds + 0.5, 0.5)
        images.append(
            panel.imshow(
                matrix, vmin=0, vmax=1, cmap="viridis", aspect="auto", extent=extent
            )
        )
        panel.set_title(textwrap.fill(_label(model), 36), fontsize=9)
        panel.set_xlabel("token, counted from the end of the round")
        for axis in (panel.xaxis, panel.yaxis):
            axis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel(f"round ({task.replace('_', ' ')}, length {length})")
    figure.colorbar(images[0], ax=panels, label="accuracy of the token")
    save(figure, path)


def longest_hit_matrices(lines: Iterable[dict[str, Any]], name: epath.PathLike) -> None:
    """Draws the hit matrices of each task at the longest length with such records.

    Args:
      name: the figures are NAME_TASK_LENGTH.png.
    """
    longest: dict[str, int] = {}
    hits = [line for line in lines if line["metric"] == "hit_accuracy"]
    for line in hits:
        longest[line["task"]] = max(line["length"], longest.get(line["task"], 0))
    for task, length in longest.items():
        hit_matrices(hits, task, length, f"{name}_{task}_{length}.png")


def _hit_matrix(lines, rounds: int, columns: int) -> Float[Host, "t r"]:
    """The fraction of correct tokens among the examples that have the token, or NaN.

    Records count columns from the right, so the last token is in the last column.
    """
    hits, count = np.zeros((2, rounds, columns))
    for line in lines:
        index = line["round"], columns - 1 - line["position"]
        hits[index] += line["value"] * line["count"]
        count[index] += line["count"]
    return np.where(count > 0, hits / np.maximum(count, 1), np.nan)


def speed_by_drafter(lines: Sequence[dict[str, Any]], path: epath.PathLike) -> None:
    """Bars of the speed-up and of M, the mean number of new tokens per step.

    Each model, prompt set and batch size has a row of panels. If a drafter occurs
    several times with the same settings, the last record is drawn.

    Raises:
      ValueError: there is no record.
    """
    if not lines:
        raise ValueError("there is no record of speed to draw")
    settings: dict[tuple, dict[str, dict]] = {}
    for line in lines:
        nodes = f", {line['num_draft']} nodes" if line["num_draft"] else ""
        auto = " (autotuned)" if nodes else " (autotuned: no draft)"
        drafter = "plain decoding" if line["drafter"] == "none" else line["drafter"]
        name = drafter.replace("_", " ") + nodes + (auto if line["autotuned"] else "")
        key = (line["model"], line["prompts"], line["length"], line["batch_size"])
        settings.setdefault(key, {})[name] = line
    rows = []
    for (model, prompts, _, batch_size), named in settings.items():
        title = f"{model}, {epath.Path(prompts).name}, batch size {batch_size}"
        rows.append((title, named))
    speed_bars(rows, path)


def speed_bars(
    rows: Sequence[tuple[str, Mapping[str, Mapping[str, Any]]]], path: epath.PathLike
) -> None:
    """Two panels a row: bars of `speed_up` and of `M`.

    Args:
      rows: the title of each row, and its records by the label of the bar.
    """
    max_bars = max(len(named) for _, named in rows)
    size = (9, len(rows) * (1.2 + 0.32 * max_bars))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), 2, squeeze=False, sharey="row")
    for panels, (title, named) in zip(axes, rows, strict=True):
        for panel, field in zip(panels, ("speed_up", "M"), strict=True):
            values = [record[field] for record in named.values()]
            bars = panel.barh(list(named), values, color="C0" if field == "M" else "C2")
            panel.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
            panel.axvline(1, color="0.4", lw=0.8)
            panel.margins(x=0.15)
        panels[0].invert_yaxis()
        panels[0].set(title=title, xlabel="speed-up over plain decoding")
        panels[1].set(xlabel="M: new tokens per step")
    save(figure, path)


def save(figure: Figure, path: epath.PathLike) -> None:
    """Writes a figure as PNG, from the first process only. Names are no formulas."""
    if not is_main_process():
        return
    FigureCanvasAgg(figure)
    for text in figure.findobj(Text):
        text.set(parse_math=False, text=clean_text(text.get_text()))
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        figure.savefig(stream, dpi=140, format="png")
