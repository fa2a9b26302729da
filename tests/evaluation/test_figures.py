"""Figures that are not drawn from records."""

import jax
import jax.numpy as jnp
from matplotlib.axes import Axes

from relay_jax.evaluation import figures
from relay_jax.rest.tree import END, Rows, empty_tree, make_tree


def test_a_draft_tree_is_drawn_with_its_mask(tmp_path, monkeypatch):
    rows = [[3, 4, 5], [3, 4, 6], [7, END, END]]
    rows = Rows(jnp.array([rows], jnp.int32), jnp.array([[3, 2, 1]], jnp.int32))
    tree = jax.jit(make_tree, static_argnums=1)(rows, 8)  # there are only five
    words = ["root", " a", "b", "$c", "d$", "\n", *["none"] * 3]
    texts, masks, edges = [], [], []
    draw, show, text = Axes.plot, Axes.imshow, Axes.text
    note = monkeypatch.setattr
    note(Axes, "plot", lambda *a, **k: (edges.append(a[1:]), draw(*a, **k))[1])
    note(Axes, "imshow", lambda *a, **k: (masks.append(a[1]), show(*a, **k))[1])
    note(Axes, "text", lambda *a, **k: (texts.append(a[3]), text(*a, **k))[1])
    figures.draft_tree(tree, words, tmp_path / "tree.png")
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
    figures.draft_tree(empty_tree(1), ["root"], tmp_path / "root.png")


def test_a_parent_stands_in_the_middle_of_its_children():
    assert figures._heights({}) == {0: 0}
    parent = {1: 0, 2: 1, 3: 1, 4: 0, 5: 1}
    assert figures._heights(parent) == {2: 0, 3: 1, 5: 2, 1: 1, 4: 3, 0: 2}
