"""Penalties and bans on logits, at every node of a draft tree.

At each node a rule depends on the text up to that node alone, so that drafts do not
change which tokens are generated:

    text   .. a b c     the root is c         node    rules see
    tree   c - d - e                          c       .. a b c
             \\ f                              d       .. a b c d
                                              f       .. a b c f

The rules are those of transformers' `generate`, in its order (`LogitsRules`). A rule that
is off costs nothing, as the config is static.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relay_jax.base import Array, Bool, Float, Int
from relay_jax.decoding.draft_tree import DraftTree
from relay_jax.decoding.state import DecodeState, node_tokens
from relay_jax.logits_config import LogitsRules


class NodeTexts(NamedTuple):
    """The text up to each node of a draft tree: a common beginning, then its branch."""

    tokens: Int[Array, "b m"]  # the beginning, then zeros
    length: Int[Array, " b"]  # of the beginning, whose last token is the root
    nodes: Int[Array, "b q"]  # the nodes' tokens, the root's first
    parent: Int[Array, "b q"]  # the root's is the root
    depth: Int[Array, "b q"]
    ancestors: Bool[Array, "b q q"]  # [i, j]: j is i or an ancestor of i
    num_new: Int[Array, "b q"]  # generated tokens of each text


def node_texts(state: DecodeState, tree: DraftTree) -> NodeTexts:
    """The texts of a tree's nodes."""
    depth = tree.depth_with_root
    return NodeTexts(
        tokens=state.tokens,
        length=state.length,
        nodes=node_tokens(state, tree),
        parent=jnp.pad(tree.parent, ((0, 0), (1, 0))),
        depth=depth,
        ancestors=tree.ancestors,
        num_new=(state.length - state.prompt_length)[:, None] + depth,
    )


def apply_rules(
    logits: Float[Array, "b q v"], texts: NodeTexts, rules: LogitsRules, eos_id: Any
) -> Float[Array, "b q v"]:
    """The logits after each node, as the rules change them; a ban is minus infinity.

    Args:
      eos_id: the token or tokens that end a text; negative ones are none.
    """
    vocab_size = logits.shape[-1]
    if rules.repetition_penalty != 1.0:
        penalty = jnp.float32(rules.repetition_penalty)
        penalized = jnp.where(logits < 0, logits * penalty, logits / penalty)
        logits = jnp.where(_seen(texts, vocab_size), penalized, logits)
    if rules.no_repeat_ngram_size:
        is_repeated = _repeated(texts, rules.no_repeat_ngram_size, vocab_size)
        logits = jnp.where(is_repeated, -jnp.inf, logits)
    if rules.min_new_tokens:
        is_end = jnp.isin(jnp.arange(vocab_size), jnp.asarray(eos_id, jnp.int32))
        is_short = texts.num_new < rules.min_new_tokens
        logits = jnp.where(is_short[..., None] & is_end[None, None], -jnp.inf, logits)
    if rules.suppress_tokens:
        is_banned = np.isin(np.arange(vocab_size), rules.suppress_tokens)
        logits = jnp.where(is_banned[None, None], -jnp.inf, logits)
    return logits


def _seen(texts: NodeTexts, vocab_size: int) -> Bool[Array, "b q v"]:
    """Which tokens the text up to each node contains."""
    in_beginning = jnp.arange(texts.tokens.shape[1])[None] < texts.length[:, None]
    common = _mark(texts.tokens[:, None], in_beginning[:, None], vocab_size)
    return common | _mark(texts.nodes[:, None], texts.ancestors, vocab_size)


def _repeated(texts: NodeTexts, size: int, vocab_size: int) -> Bool[Array, "b q v"]:
    """Which tokens would end an n-gram that the text up to the node has already.

    Each n-gram of a text is found by its last token, before which the same n - 1 tokens
    stand as at the end of the text.
    """
    last = _last_tokens(texts, size - 1)
    position = jnp.arange(texts.tokens.shape[1])[None]
    ends = (position >= size - 1) & (position < texts.length[:, None])
    ends = jnp.broadcast_to(ends[:, None], (*texts.nodes.shape, ends.shape[1]))

    def compare(is_same, step):
        back, token = step
        before = jnp.roll(texts.tokens, back, axis=1)
        return is_same & (before[:, None] == token[..., None]), None

    ends, _ = jax.lax.scan(compare, ends, (jnp.arange(1, size), last))
    # The last token of an n-gram may also be a node, though not the root.
    row = jnp.arange(len(texts.nodes))[:, None]
    before_node = last[:, row, texts.parent]
    is_same = jnp.all(before_node[:, :, None] == last[..., None], axis=0)
    node_ends = texts.ancestors & is_same & (texts.depth > 0)[:, None]
    found = _mark(texts.tokens[:, None], ends, vocab_size)
    found |= _mark(texts.nodes[:, None], node_ends, vocab_size)
    return found & jnp.all(last >= 0, axis=0)[..., None]


def _last_tokens(texts: NodeTexts, num: int) -> Int[Array, "n b q"]:
    """The last tokens of the text up to each node, backwards; -1 before its beginning."""
    row = jnp.arange(len(texts.nodes))[:, None]

    def step(node, back):
        level = texts.depth - back  # 0 and below: in the common beginning
        position = texts.length[:, None] - 1 + level
        common = texts.tokens[row, jnp.clip(position, 0)]
        tokens = jnp.where(level > 0, texts.nodes[row, node], common)
        return texts.parent[row, node], jnp.where(position >= 0, tokens, -1)

    nodes = jnp.broadcast_to(jnp.arange(texts.nodes.shape[1])[None], texts.nodes.shape)
    _, tokens = jax.lax.scan(step, nodes, jnp.arange(num))
    return tokens


def _mark(tokens, mask: Bool[Array, "b n k"], size: int) -> Bool[Array, "b n v"]:
    """Which of `size` tokens are among those of the last axis that the mask has."""
    column = jnp.where(mask, tokens, size)  # no column: dropped
    row = jnp.arange(mask.shape[0])[:, None, None]
    node = jnp.arange(mask.shape[1])[None, :, None]
    marks = jnp.zeros((*mask.shape[:2], size), bool)
    return marks.at[row, node, column].set(True, mode="drop")
