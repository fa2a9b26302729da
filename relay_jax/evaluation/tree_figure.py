"""Draws a draft tree and the attention mask under which it is verified (REST)."""

from collections.abc import Sequence

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from relay_jax.decoding.draft_tree import DraftTree
from relay_jax.evaluation.figures import save


def draw_tree(tree: DraftTree, texts: Sequence[str], path: epath.PathLike) -> None:
    """Draws the first tree of a batch, and its mask: a row attends to dark columns.

    Args:
      texts: the texts of the root's token and of every node's token.
    """
    nodes = [0, *(np.flatnonzero(np.asarray(tree.valid[0])) + 1).tolist()]
    parent = {i: int(tree.parent[0, i - 1]) for i in nodes[1:]}
    depth = {0: 0} | {i: int(tree.depth[0, i - 1]) for i in parent}
    height = _heights(parent)
    # Escaped as in a program, so that white space is visible.
    labels = {i: f"{i}  {texts[i].encode('unicode_escape').decode()}" for i in nodes}
    widths = 0.9 * max(depth.values()) + 1.0, 0.25 * len(nodes) + 1.0
    size = (sum(widths), widths[1])
    figure = Figure(figsize=size, layout="constrained")
    branches, mask = figure.subplots(1, 2, width_ratios=widths)
    font = {"family": "monospace", "size": 8, "parse_math": False}
    for i in nodes:
        if i:
            ends = parent[i], i
            x, y = [[axis[end] for end in ends] for axis in (depth, height)]
            branches.plot(x, y, color="0.7", lw=1, zorder=0)
        box = {"boxstyle": "round,pad=0.2", "fc": "0.85" if i == 0 else "w", "ec": "C0"}
        branches.text(depth[i], height[i], labels[i], va="center", bbox=box, **font)
    branches.set(xlim=(-0.2, max(depth.values()) + 0.9), title="draft tree", yticks=[])
    branches.set(
        ylim=(max(height.values()) + 0.7, -0.7), xlabel="depth in the draft (tokens)"
    )
    branches.xaxis.get_major_locator().set_params(integer=True)
    visible = np.asarray(tree.ancestors[0])[np.ix_(nodes, nodes)]
    mask.imshow(visible, cmap="Blues", vmin=0, vmax=1.4)
    mask.set_yticks(range(len(nodes)), [labels[i] for i in nodes], **font)
    mask.set_xticks(range(len(nodes)), nodes, size=8)
    mask.set(title="tree attention mask", xlabel="visible node")
    save(figure, path)


def _heights(parent: dict[int, int]) -> dict[int, float]:
    """The vertical position of each node.

    Leaves are evenly spaced, and a parent is in the middle of its children.

    Args:
      parent: the parent of every node except the root, which is 0.
    """
    height: dict[int, float] = {}
    num_leaves = 0

    def visit(node: int) -> None:
        nonlocal num_leaves
        children = [child for child, above in parent.items() if above == node]
        for child in children:
            visit(child)
        if children:
            height[node] = (height[children[0]] + height[children[-1]]) / 2
        else:
            height[node] = float(num_leaves)
            num_leaves += 1

    visit(0)
    return height
