"""AdjacencyTable: the words that the model last held likely after each word.

    table   the   cat .6   dog .3        text   .. the
            cat   sat .8   ran .2        rows   cat          .6 in all, of which
            dog   ran .5   ate .1               cat sat      .48
                                                cat ran      .12
                                                dog          .3, of which
                                                dog ran      .15

Each verified node tells what the model holds likely after the node's token; the table
keeps what was told last (Token Recycling, arXiv 2408.08696), and how likely it was: a
sure follower is followed deep, an open choice spread wide. One table serves all texts of
a batch, and the texts after them: what it holds changes what is drafted, never what is
written.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from relay_jax.base import Array, Bool, Float, Int
from relay_jax.decoding.draft_tree import END, DraftSequences, concatenate_sequences


class AdjacencyTable(NamedTuple):
    """Of each word of the vocabulary, or of each node of a tree, its likely followers."""

    tokens: Int[Array, "*v u"]  # the likeliest first; `END` where none is known
    chance: Float[Array, "*v u"]  # that the model gave them


def empty_table(vocab_size: int, num: int) -> AdjacencyTable:
    """The table in which nothing is known yet."""
    shape = (vocab_size, num)
    return AdjacencyTable(jnp.full(shape, END, jnp.int32), jnp.zeros(shape))


def top_candidates(logits: Float[Array, "b q v"], num: int) -> AdjacencyTable:
    """The `num` likeliest words after each node."""
    score, token = jax.lax.top_k(logits, num)
    whole = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    return AdjacencyTable(token.astype(jnp.int32), jnp.exp(score - whole))


def update(
    table: AdjacencyTable,
    words: Int[Array, "b q"],
    told: AdjacencyTable,
    counts: Bool[Array, "b q"],
) -> AdjacencyTable:
    """The table after what was told of some words, where it counts.

    Of what is told of one word, the last place counts; of equals the last text.
    """
    vocab_size, num = table.tokens.shape
    # Transposed, so that what is later stands later.
    word, is_told, *new = (x.swapaxes(0, 1) for x in (words, counts, *told))
    word, is_told = word.ravel(), is_told.ravel()
    turn = jnp.arange(len(word))
    last = jnp.full(vocab_size, -1).at[word].max(jnp.where(is_told, turn, -1))
    # Of what does not count, each has a place of its own outside the table.
    place = jnp.where(is_told & (last[word] == turn), word, vocab_size + turn)

    def put(old, new):
        new = new.reshape(-1, num)
        return old.at[place].set(new, mode="drop", unique_indices=True)

    return AdjacencyTable(*map(put, table, new))


def draft_paths(
    table: AdjacencyTable,
    root: Int[Array, " b"],
    *,
    num_paths: int,
    depth: int,
    weight: int,
    power: float = 1.0,
) -> DraftSequences:
    """Rows whose nodes weigh `weight` times the chance of the path to them, rounded down;
    or as much as the nodes below them, if these weigh more.

    Args:
      root: the word that the paths follow.
      num_paths: how many are kept at each depth: the likeliest.
      depth: the length of the longest.
      power: of each follower's chance. It was told in another place of a text: below 1,
        it is taken for less sure than it was there.
    """
    batch_size, num = len(root), table.tokens.shape[1]
    pick = jnp.arange(batch_size)[:, None]
    last, chance = root[:, None], jnp.ones((batch_size, 1))
    paths = jnp.full((batch_size, 1, depth), END, jnp.int32)
    heavy = jnp.zeros((batch_size, 1), jnp.int32)
    rows = []
    for level in range(depth):
        tokens, share = (part[jnp.maximum(last, 0)] for part in table)
        share = jnp.where(last[..., None] == END, 0.0, share**power)
        likely = (chance[..., None] * share).reshape(batch_size, -1)
        chance, at = jax.lax.top_k(likely, min(num_paths, likely.shape[1]))
        above = at // num
        tokens = jnp.take_along_axis(tokens.reshape(batch_size, -1), at, axis=1)
        last = jnp.where(chance > 0, tokens, END)
        own = (chance * weight).astype(jnp.int32)
        # A row is counted for each of its prefixes: of the shorter one is left the rest.
        rows.append(
            DraftSequences(paths, jnp.maximum(heavy.at[pick, above].add(-own), 0))
        )
        paths, heavy = paths[pick, above].at[..., level].set(last), own
    rows.append(DraftSequences(paths, heavy))
    return concatenate_sequences(rows)
