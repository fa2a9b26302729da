"""Token Recycling: drafts from what the model last predicted after each token.

    table   the   cat .6   dog .3        text        .. the
            cat   sat .8   ran .2        sequences   cat          .6 in all, of which
            dog   ran .5   ate .1                    cat sat      .48
                                                     cat ran      .12
                                                     dog          .3, of which
                                                     dog ran      .15

Every verified node yields the model's most likely tokens after the node's token. The
table keeps the latest of them (Token Recycling, arXiv 2408.08696), with their
probabilities: paths of likely tokens become deep, uncertain ones branch widely. One
table serves all texts of a batch and later ones: it changes what is drafted, never what
is generated.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relay_jax.base import Array, Bool, Float, Int
from relay_jax.config import DraftConfig
from relay_jax.decoding.acceptance import chance_kind
from relay_jax.decoding.draft_tree import END, DraftSequences, concatenate_sequences
from relay_jax.decoding.drafter import DecodedText

NO_LOGITS = (
    "drafts from the model's own logits, and there are none: measure it while a model "
    "decodes (benchmarks/drafters.py), not in a replay"
)


class AdjacencyTable(NamedTuple):
    """The most likely successors of each token of the vocabulary or each tree node."""

    tokens: Int[Array, "*v u"]  # the most likely first; `END` where none is known
    chance: Float[Array, "*v u"]  # the model's probability of each

    @property
    def token_dtype(self) -> np.dtype:
        """The type that the tokens fit into, as an index has it."""
        return np.dtype(np.uint16 if len(self.tokens) < 2**16 else np.uint32)


def init(config: DraftConfig, vocab_size: int) -> AdjacencyTable:
    """The empty table: `Drafter.init`."""
    return empty_table(vocab_size, min(config.num_candidates, vocab_size))


def propose(
    index: Any, state: Any, text: DecodedText, config: DraftConfig
) -> DraftSequences:
    """The most likely paths through the table that begin at the text's last token."""
    del index
    if not state:
        raise ValueError(f"the drafter {config.drafter!r} {NO_LOGITS}")
    root = text.tokens[jnp.arange(len(text.length)), text.length - 1]
    depth = min(config.path_depth, config.depth)
    sequences = draft_paths(
        state,
        root,
        num_paths=config.num_paths,
        depth=depth,
        weight=config.path_weight,
        power=config.path_power,
    )
    longer = ((0, 0), (0, 0), (0, config.depth - depth))
    tokens = jnp.pad(sequences.tokens, longer, constant_values=END)
    return sequences._replace(tokens=tokens)


def observe(
    state: AdjacencyTable,
    tokens: Int[Array, "b q"],
    logits: Float[Array, "b q v"],
    mask: Bool[Array, "b q"],
) -> AdjacencyTable:
    """The table after a forward pass: `Drafter.observe`."""
    candidates = top_candidates(logits, state.tokens.shape[1])
    return update(state, tokens, candidates, mask)


def empty_table(vocab_size: int, num_candidates: int) -> AdjacencyTable:
    """A table without any successor."""
    shape = (vocab_size, num_candidates)
    return AdjacencyTable(jnp.full(shape, END, jnp.int32), jnp.zeros(shape))


def top_candidates(logits: Float[Array, "b q v"], num: int) -> AdjacencyTable:
    """The `num` most likely tokens after each node."""
    score, token = jax.lax.top_k(logits, num)
    total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    return AdjacencyTable(token.astype(jnp.int32), jnp.exp(score - total))


def update(
    table: AdjacencyTable,
    tokens: Int[Array, "b q"],
    candidates: AdjacencyTable,
    mask: Bool[Array, "b q"],
) -> AdjacencyTable:
    """The table with new candidates of some tokens, where the mask holds.

    If a token occurs several times, the last occurrence wins; ties go to the later batch
    row.
    """
    vocab_size, num = table.tokens.shape
    # Transposed, so that later positions come later in memory in all rows.
    token, is_new, *new = (x.swapaxes(0, 1) for x in (tokens, mask, *candidates))
    token, is_new = token.ravel(), is_new.ravel()
    turn = jnp.arange(len(token))
    last = jnp.full(vocab_size, -1).at[token].max(jnp.where(is_new, turn, -1))
    # The others go to distinct rows outside the table, where they are dropped.
    row = jnp.where(is_new & (last[token] == turn), token, vocab_size + turn)

    def put(old, new):
        new = new.reshape(-1, num)
        return old.at[row].set(new, mode="drop", unique_indices=True)

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
    """The most likely paths, weighted so that their trie has the right node weights.

    The weight of a node is `weight` times the probability of the path to it, rounded
    down, or the total weight of the nodes below it if that is larger.

    Args:
      root: the token that the paths follow.
      num_paths: the number of paths that are kept at each depth: the most likely ones.
      depth: the length of the longest path.
      weight: the weight of a path with probability 1.
      power: the exponent of each candidate's probability, which the model predicted in
        another context: below 1, it counts as less certain than it was there.
    """
    batch_size, num = len(root), table.tokens.shape[1]
    pick = jnp.arange(batch_size)[:, None]
    last, chance = root[:, None], jnp.ones((batch_size, 1))
    paths = jnp.full((batch_size, 1, depth), END, jnp.int32)
    path_weight = jnp.zeros((batch_size, 1), jnp.int32)
    path_chance = chance
    parts = []
    for level in range(depth):
        tokens, share = (part[jnp.maximum(last, 0)] for part in table)
        share = jnp.where(last[..., None] == END, 0.0, share**power)
        likely = (chance[..., None] * share).reshape(batch_size, -1)
        chance, at = jax.lax.top_k(likely, min(num_paths, likely.shape[1]))
        above = at // num
        tokens = jnp.take_along_axis(tokens.reshape(batch_size, -1), at, axis=1)
        last = jnp.where(chance > 0, tokens, END)
        node_weight = (chance * weight).astype(jnp.int32)
        # A sequence also counts for its prefixes, so a prefix keeps only the remainder.
        rest = jnp.maximum(path_weight.at[pick, above].add(-node_weight), 0)
        parts.append(DraftSequences(paths, rest, chance_kind("table", path_chance)))
        paths, path_weight = paths[pick, above].at[..., level].set(last), node_weight
        path_chance = chance
    parts.append(DraftSequences(paths, path_weight, chance_kind("table", chance)))
    return concatenate_sequences(parts)
