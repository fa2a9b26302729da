"""The papers' figures, drawn from records alone; and one of a draft tree.

accuracy_by_length   Figures 2 and 4 (answers), Figure 7 (tokens)
hit_matrices         Figures 5 and 6 (round x place)
speed_by_drafter     REST: speed-up and tokens a step, drafter by drafter
draft_tree           REST: a tree of drafts, and the mask under which it is verified
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from relay_jax.base import Float, Host
from relay_jax.decoding.draft_tree import Tree
from relay_jax.files import is_main_process

TITLES = {
    "answer_accuracy": "final answers that are right",
    "chain_accuracy": "whole chains that are right",
    "token_accuracy": "tokens of the chain that are right",
}
LABELS = {
    "ar": "AR-CoT",
    "looped_vanilla": "looped, answer loss only",
    "looped_aligned": "looped, aligned (RELAY)",
    "looped_aligned_2000": "the same after 2,000 steps",
    "ar_relay": "AR-CoT + RELAY chains",
    "ar_control": "AR-CoT, trained on (control)",
    "ar_self_loop": "AR-CoT + own chains, looped answers",
    "ar_self_oracle": "AR-CoT + own chains, true answers",
}
LETTER = 0.065  # inches, at 8 points
PHASE = re.compile(r"(ar_self_\w+)_(\d+)")


def accuracy_by_length(
    lines: Sequence[dict[str, Any]],
    metric: str,
    path: epath.PathLike,
    train_lengths: dict[str, tuple[int, int]] | None = None,
) -> None:
    """A panel a task, a curve a model; the band spans the seeds, the line is their mean.

    Lengths that were trained on are shaded.

    Raises:
      ValueError: no record has this metric.
    """
    lines = [line for line in lines if line["metric"] == metric]
    if not lines:
        raise ValueError(f"no record has the metric {metric!r}")
    tasks = list(dict.fromkeys(line["task"] for line in lines))
    figure = Figure(figsize=(5.4 * len(tasks), 3.8), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    models, curves = _shown(dict.fromkeys(line["model"] for line in lines)), {}
    for panel, task in zip(panels, tasks, strict=True):
        chosen = [line for line in lines if line["task"] == task]
        for color, model in enumerate(models):  # the same in every panel
            own = [line for line in chosen if line["model"] == model]
            if own:
                curves[_label(model)] = _curve(panel, own, model, f"C{color % 10}")
        if train_lengths and task in train_lengths:
            shortest, longest = train_lengths[task]
            panel.axvspan(shortest - 0.3, longest + 0.3, color="0.93", zorder=0)
        panel.set(xlabel=f"{task}: length", ylim=(-0.03, 1.03), ylabel=TITLES[metric])
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.3)
    widest = LETTER * (max(map(len, curves)) + 7)  # with the line before the name
    columns = max(1, int(figure.get_figwidth() / widest))
    place = {"loc": "outside upper center", "ncols": columns}
    figure.legend(list(curves.values()), list(curves), fontsize=8, **place)
    _save(figure, path)


def _curve(panel, lines, model, color):
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


def _shown(models: Iterable[str]) -> list[str]:
    """All models; of those that learn in phases (section 4.3), the last phase."""
    last: dict[str, str] = {}
    for model in models:
        phase = PHASE.fullmatch(model)
        kind = phase[1] if phase else model
        held = PHASE.fullmatch(last.get(kind, ""))
        if not (phase and held and int(held[2]) > int(phase[2])):
            last[kind] = model
    return list(last.values())


def hit_matrices(
    lines: Sequence[dict[str, Any]], task: str, length: int, path: epath.PathLike
) -> None:
    """A panel a model: the accuracy of each place of each round, at one length; the
    share of all examples of several seeds.

    Raises:
      ValueError: no `hit_accuracy` record of this task and length.
    """
    lines = [
        line
        for line in lines
        if (line["metric"], line["task"], line["length"])
        == ("hit_accuracy", task, length)
    ]
    if not lines:
        raise ValueError(f"no hit_accuracy record of {task} at length {length}")
    models = list(dict.fromkeys(line["model"] for line in lines))
    rounds = 1 + max(line["round"] for line in lines)
    places = 1 + max(line["position"] for line in lines)
    figure = Figure(figsize=(0.9 + 3.6 * len(models), 3.6), layout="constrained")
    panels = figure.subplots(1, len(models), squeeze=False)[0]
    images = []
    for panel, model in zip(panels, models, strict=True):
        own = [line for line in lines if line["model"] == model]
        matrix = _shares(own, rounds, places)
        extent = (-places + 0.5, 0.5, rounds + 0.5, 0.5)
        images.append(
            panel.imshow(
                matrix, vmin=0, vmax=1, cmap="viridis", aspect="auto", extent=extent
            )
        )
        panel.set(title=_label(model), xlabel="place, from the right")
        panel.yaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel(f"round ({task}, length {length})")
    figure.colorbar(images[0], ax=panels, label="accuracy")
    _save(figure, path)


def longest_hit_matrices(lines: Iterable[dict[str, Any]], name: epath.PathLike) -> None:
    """Draws NAME_TASK_LENGTH.png of every task, at the longest length that has
    `hit_accuracy` records; none where there are no such records."""
    longest: dict[str, int] = {}
    hits = [line for line in lines if line["metric"] == "hit_accuracy"]
    for line in hits:
        longest[line["task"]] = max(line["length"], longest.get(line["task"], 0))
    for task, length in longest.items():
        hit_matrices(hits, task, length, f"{name}_{task}_{length}.png")


def _shares(lines, rounds: int, places: int) -> Float[Host, "t r"]:
    """Right tokens of each place among all examples that have one; NaN where none has.
    The last token of a round stands in the last column."""
    right, count = np.zeros((2, rounds, places))
    for line in lines:
        place = line["round"], places - 1 - line["position"]
        right[place] += line["value"] * line["count"]
        count[place] += line["count"]
    return np.where(count > 0, right / np.maximum(count, 1), np.nan)


def speed_by_drafter(lines: Sequence[dict[str, Any]], path: epath.PathLike) -> None:
    """Speed-up and M as bars, a row of panels for each model, prompts and batch size.

    Of lines that tell of the same, the last counts.

    Raises:
      ValueError: there is no line.
    """
    if not lines:
        raise ValueError("there is no record of speed to draw")
    settings: dict[tuple, dict[str, dict]] = {}
    for line in lines:
        nodes = f" {line['num_draft']}" if line["num_draft"] else ""
        auto = " (auto: plain)" if not nodes else " (auto)"
        name = line["drafter"] + nodes + (auto if line["autotuned"] else "")
        key = (line["model"], line["prompts"], line["length"], line["batch_size"])
        settings.setdefault(key, {})[name] = line
    most = max(map(len, settings.values()))
    size = (9, len(settings) * (1.2 + 0.32 * most))
    figure = Figure(figsize=size, layout="constrained")
    rows = figure.subplots(len(settings), 2, squeeze=False, sharey="row")
    for panels, (key, named) in zip(rows, settings.items(), strict=True):
        model, prompts, _, batch_size = key
        names = list(named)
        for panel, field in zip(panels, ("speed_up", "M"), strict=True):
            values = [named[name][field] for name in names]
            bars = panel.barh(names, values, color="C0" if field == "M" else "C2")
            panel.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
            panel.axvline(1, color="0.4", lw=0.8)
            panel.margins(x=0.15)
        panels[0].invert_yaxis()
        what = epath.Path(prompts).name
        panels[0].set(
            title=f"{model}, {what}, batch size {batch_size}",
            xlabel="times as fast as plain decoding",
        )
        panels[1].set(xlabel="tokens a step (M)")
    _save(figure, path)


def draft_tree(tree: Tree, words: Sequence[str], path: epath.PathLike) -> None:
    """The first tree of a batch beside its attention mask: a row sees the dark columns.

    Args:
      words: of the root and of every node.
    """
    nodes = [0, *(np.flatnonzero(np.asarray(tree.valid[0])) + 1).tolist()]
    parent = {i: int(tree.parent[0, i - 1]) for i in nodes[1:]}
    depth = {0: 0} | {i: int(tree.depth[0, i - 1]) for i in parent}
    height = _heights(parent)
    # As text in a program: white space is seen.
    shown = {i: f"{i}  {words[i].encode('unicode_escape').decode()}" for i in nodes}
    widths = 0.9 * max(depth.values()) + 1.0, 0.25 * len(nodes) + 1.0
    size = (sum(widths), widths[1])
    figure = Figure(figsize=size, layout="constrained")
    drawn, mask = figure.subplots(1, 2, width_ratios=widths)
    font = {"family": "monospace", "size": 8, "parse_math": False}
    for i in nodes:
        if i:
            ends = parent[i], i
            x, y = [[place[end] for end in ends] for place in (depth, height)]
            drawn.plot(x, y, color="0.7", lw=1, zorder=0)
        box = {"boxstyle": "round,pad=0.2", "fc": "0.85" if i == 0 else "w", "ec": "C0"}
        drawn.text(depth[i], height[i], shown[i], va="center", bbox=box, **font)
    drawn.set(xlim=(-0.2, max(depth.values()) + 0.9), title="draft tree", yticks=[])
    drawn.set(ylim=(max(height.values()) + 0.7, -0.7), xlabel="tokens ahead")
    drawn.xaxis.get_major_locator().set_params(integer=True)
    seen = np.asarray(tree.ancestors[0])[np.ix_(nodes, nodes)]
    mask.imshow(seen, cmap="Blues", vmin=0, vmax=1.4)
    mask.set_yticks(range(len(nodes)), [shown[i] for i in nodes], **font)
    mask.set_xticks(range(len(nodes)), nodes, size=8)
    mask.set(title="tree attention", xlabel="seen")
    _save(figure, path)


def _heights(parent: dict[int, int]) -> dict[int, float]:
    """Leaves stand evenly below one another, and a parent in the middle of its children.

    Args:
      parent: of every node but the root, 0; smaller than the node.
    """
    height: dict[int, float] = {}
    num_leaves = 0

    def place(node: int) -> None:
        nonlocal num_leaves
        children = [child for child, above in parent.items() if above == node]
        for child in children:
            place(child)
        if children:
            height[node] = (height[children[0]] + height[children[-1]]) / 2
        else:
            height[node] = float(num_leaves)
            num_leaves += 1

    place(0)
    return height


def _save(figure: Figure, path: epath.PathLike) -> None:
    if not is_main_process():
        return
    FigureCanvasAgg(figure)
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        figure.savefig(stream, dpi=140, format="png")
