"""Figures: what is drawn, and where."""

import jax
import jax.numpy as jnp
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from relay_jax.decoding.draft_tree import END, DraftSequences, empty_tree, make_tree
from relay_jax.evaluation import figures, tree_figure


def test_a_draft_tree_is_drawn_with_its_mask(tmp_path, monkeypatch):
    rows = [[3, 4, 5], [3, 4, 6], [7, END, END]]
    rows = DraftSequences(
        jnp.array([rows], jnp.int32), jnp.array([[3, 2, 1]], jnp.int32)
    )
    tree = jax.jit(make_tree, static_argnums=1)(rows, 8)  # only five are used
    tokens = ["root", " a", "b", "$c", "d$", "\n", *["none"] * 3]
    texts, masks, edges = [], [], []
    draw, show, text = Axes.plot, Axes.imshow, Axes.text
    patch = monkeypatch.setattr
    patch(Axes, "plot", lambda *a, **k: (edges.append(a[1:]), draw(*a, **k))[1])
    patch(Axes, "imshow", lambda *a, **k: (masks.append(a[1]), show(*a, **k))[1])
    patch(Axes, "text", lambda *a, **k: (texts.append(a[3]), text(*a, **k))[1])
    tree_figure.draw_tree(tree, tokens, tmp_path / "tree.png")
    assert (tmp_path / "tree.png").read_bytes().startswith(b"\x89PNG")
    assert texts == ["0  root", "1   a", "2  b", "3  $c", "4  d$", r"5  \n"]
    assert edges[1:3] == [([1, 2], [0.5, 0.5]), ([2, 3], [0.5, 0])]
    assert masks[0].astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 1, 0],
        [1, 0, 0, 0, 0, 1],
    ]
    tree_figure.draw_tree(empty_tree(1), ["root"], tmp_path / "root.png")


def test_a_model_has_one_color_and_one_label_in_all_panels(tmp_path, monkeypatch):
    colors, labels = [], []
    draw, name = Axes.plot, Figure.legend
    patch = monkeypatch.setattr
    patch(Axes, "plot", lambda *a, **k: (colors.append(k["color"]), draw(*a, **k))[1])
    patch(Figure, "legend", lambda *a, **k: (labels.extend(a[2]), name(*a, **k))[1])
    line = {"metric": "answer_accuracy", "value": 0.5, "seed": 0, "length": 3}
    pairs = [("lis", "ar"), ("lis", "other"), ("arithmetic", "other")]
    lines = [line | {"task": task, "model": model} for task, model in pairs]
    figures.accuracy_by_length(lines, "answer_accuracy", tmp_path / "figure.png")
    assert colors == ["C0", "C1", "C1"] and labels == ["AR-CoT", "other"]


def test_the_legend_names_models_that_are_not_trained_to_the_end(tmp_path, monkeypatch):
    accuracies = {  # of two seeds, at 1, 2 (training lengths) and 3
        "ar": [(1.0, 1.0), (0.985, 0.996), (0.3, 0.3)],  # 0.9905 in the mean
        "looped_aligned": [(1.0, 1.0), (0.985, 0.993), (0.9, 0.9)],
        "looped_vanilla": [(0.96, 0.96), (0.96, 0.95), (0.9, 0.9)],
        "other": [(0.96, 0.96), (0.96, 0.95), (0.9, 0.9)],
    }
    lines = [
        {"metric": metric, "task": "lis", "length": length, "seed": seed}
        | {"model": model, "value": value if metric == "answer_accuracy" else 0.1}
        for metric in ("chain_accuracy", "answer_accuracy")
        for model, by_length in accuracies.items()
        for length, values in enumerate(by_length, start=1)
        for seed, value in enumerate(values)
    ]
    labels, draw = [], Figure.legend
    patch = monkeypatch.setattr
    patch(Figure, "legend", lambda *a, **k: (labels.append(a[2]), draw(*a, **k))[1])
    for metric in ("answer_accuracy", "chain_accuracy"):
        figures.accuracy_by_length(lines, metric, tmp_path / "a.png", {"lis": (1, 2)})
    notes = [label.partition("\n")[2] for label in labels[0]]
    assert notes == ["", "not trained to the end: 0.989 at 2", "", notes[3], ""]
    assert notes[3] == "not trained to the end: 0.955 at 2"
    assert labels[0] == labels[1]
    several = {"lis": (1, 2), "arithmetic": (1, 4)}
    assert figures.untrained(lines, several)["looped_aligned"] == [
        "not trained to the end: lis 0.989 at 2"
    ]
    assert not figures.untrained(lines, {})


def test_a_parent_is_in_the_middle_of_its_children():
    assert tree_figure._heights({}) == {0: 0}
    parent = {1: 0, 2: 1, 3: 1, 4: 0, 5: 1}
    assert tree_figure._heights(parent) == {2: 0, 3: 1, 5: 2, 1: 1, 4: 3, 0: 2}


def test_names_are_no_formulas(tmp_path):
    for name in (r"$\bad$", "a$b$c", "half \ud83d", "_private", "$$$"):
        where = {"run": name, "model": name, "task": "lis", "seed": 0, "count": 1}
        line = {"metric": "answer_accuracy", "length": 1, "value": 0.5} | where
        figures.accuracy_by_length([line], line["metric"], tmp_path / "a.png", {})
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "a.png").unlink()
