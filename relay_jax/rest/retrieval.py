"""Retrieval: the positions of a datastore whose left context ends like the text.

A query is the last 16 tokens of a text, the latest first. The suffix array sorts the
positions of the store by their left contexts in the same direction, so one search finds
the query's own row, and the best matches of every length are around it:

    query         cat the on        (".. on the cat", read backwards)
    suffix array  cat a  on  ...        match 1
                  cat the in ...        match 2
                  cat the on ...        match 3    <- first row not before the query
                  cat the up ...        match 2

The same code searches every kind of index: on the device inside a jitted loop, sharded
over a mesh, or in memory-mapped files on the host.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relay_jax.base import Array, Host, Int
from relay_jax.decoding.acceptance import match_kind
from relay_jax.decoding.draft_tree import END, DraftSequences
from relay_jax.rest.index import Matches

MAX_MATCH = 16  # tokens of a query (REST, section 3)
MIN_PAPER_MATCH = 2
WIDENING = 1.03  # factor between the strides of the nearest rows, outwards
MAX_OFFSET = 2**29  # rows between the query's row and another one
NO_TEXT, NO_CORPUS = -1, -2  # before the start of a text or of a shard: never equal


def nearest(index: Any, query: Int[Array, "b k"], num_rows: int, depth: int) -> Matches:
    """`num_rows` rows around the query's own: matches of all lengths.

    They are dense at the query's row and more and more widely spaced away from it: all
    of a few long matches are found, and a sample of many short ones. With several
    shards these are the longest matches of all shards.

    Args:
      index: any kind of index, see `rest.index`.
      num_rows: the number of rows in the result.
      depth: the number of tokens that are read after each match.
    """
    return _longest_of_shards(index.search(_nearest, query, num_rows, depth), num_rows)


def longest(index: Any, query: Int[Array, "b k"], num_rows: int, depth: int) -> Matches:
    """The paper's policy: only the longest matches, of 16 tokens down to 2.

    If there are more than `num_rows` of them, they are an evenly spaced sample of these
    (REST, section 3; the official code takes the first ones).
    """
    found = _longest_of_shards(index.search(_longest, query, num_rows, depth), num_rows)
    best = found.length.max(axis=1, keepdims=True)
    return Matches(found.tokens, jnp.where(found.length == best, found.length, 0))


def last_tokens(
    tokens: Int[Array, "b m"], length: Int[Array, " b"]
) -> Int[Array, "b k"]:
    """The query: a text's last 16 tokens, the latest first."""
    position = length[:, None] - 1 - jnp.arange(MAX_MATCH)[None]
    found = jnp.take_along_axis(tokens, jnp.maximum(position, 0), axis=1)
    return jnp.where(position >= 0, found, NO_TEXT).astype(jnp.int32)


def weigh(found: Matches, weights: tuple[int, ...], source: str) -> DraftSequences:
    """Matches as draft sequences, weighted by the length of the match.

    Args:
      weights: of matches of 0, 1, 2, ... tokens; the last one is that of all longer
        matches. A match of length -1 does not exist and has weight 0.
      source: a name of `acceptance.SOURCES`.
    """
    table = np.pad(np.array((0, *weights), np.int32), (0, MAX_MATCH), mode="edge")
    weight = jnp.asarray(table)[found.length + 1]
    return DraftSequences(found.tokens, weight, match_kind(source, found.length))


def _longest_of_shards(found: Matches, num_rows: int) -> Matches:
    """The longest matches of all shards; among equals, some of each shard."""
    num_shards, batch_size = found.length.shape[:2]
    if num_shards == 1:
        return Matches(found.tokens[0], found.length[0])
    length = jnp.moveaxis(found.length, 0, -1).reshape(batch_size, -1)
    tokens = jnp.moveaxis(found.tokens, 0, 2).reshape(*length.shape, -1)
    length, row = jax.lax.top_k(length, num_rows)
    return Matches(jnp.take_along_axis(tokens, row[..., None], axis=1), length)


# The search of one shard, an `index.Find`: `xp` is jax.numpy or numpy.


def _nearest(xp: Any, shard, size, query, num_rows, depth, eos_id) -> Matches:
    first = _count_before(xp, shard, size, query, MAX_MATCH, False)
    row = first[:, None] + _offsets(num_rows)[None]
    found = (row >= 0) & (row < size)
    return _read(xp, shard, size, query, row, found, depth, eos_id)


def _offsets(num_rows: int) -> Int[Host, " r"]:
    """The rows to read, relative to the query's own.

    For `num_rows` = 8 and strides that widen by 1.5:  -7 -4 -2 -1  0  1  3  6
    """
    half = num_rows // 2
    stride = np.floor(WIDENING ** np.arange(num_rows - half))
    reach = np.minimum(np.cumsum(stride) - 1, MAX_OFFSET).astype(np.int32)
    return np.concatenate([-1 - reach[:half][::-1], reach])


def _longest(xp: Any, shard, size, query, num_rows, depth, eos_id) -> Matches:
    first = _count_before(xp, shard, size, query, MAX_MATCH, False)
    # The best match is in the row before the query's own, or in that row.
    row = first[:, None] + xp.arange(-1, 1, dtype=np.int32)[None]
    found = (row >= 0) & (row < size)
    match = _read(xp, shard, size, query, row, found, 0, eos_id).length
    length = match.max(axis=1)
    start = _count_before(xp, shard, size, query, length, False)
    num = _count_before(xp, shard, size, query, length, True) - start
    number = xp.arange(num_rows, dtype=np.int32)[None]
    # floor(number * num / num_rows), without leaving 32 bits
    whole, rest = num // num_rows, num % num_rows
    spaced = number * whole[:, None] + number * rest[:, None] // num_rows
    row = start[:, None] + xp.where(num[:, None] > num_rows, spaced, number)
    found = (row < (start + num)[:, None]) & (length >= MIN_PAPER_MATCH)[:, None]
    return _read(xp, shard, size, query, row, found, depth, eos_id)


def _count_before(xp: Any, shard, size, query, length, count_equals: bool):
    """The number of rows that sort before the query, compared by `length` tokens.

    Rows that equal it count too if `count_equals`. This is a bisection; its number of
    steps is that of the widest shard, so that it does not depend on data.
    """

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        side = _compare(xp, shard, _take(xp, shard.suffix_array, middle), query, length)
        before = (side < 0) | ((side == 0) & count_equals)
        before &= low < high
        return xp.where(before, middle + 1, low), xp.where(before, high, middle)

    low = xp.zeros(len(query), np.int32)
    num_steps = len(shard.tokens).bit_length()
    repeat = jax.lax.fori_loop if xp is jnp else _repeat
    return repeat(0, num_steps, halve, (low, low + size))[0]


def _repeat(start, stop, body, carry):
    """`jax.lax.fori_loop` on the host."""
    for i in range(start, stop):
        carry = body(i, carry)
    return carry


def _compare(xp: Any, shard, position, query, length):
    """Negative where the text before a position sorts before the query; 0 if they agree.

    The first difference determines the sign of a sum: that of a number in base 3 with
    the digits -1, 0 and 1.
    """
    step = xp.arange(MAX_MATCH, dtype=np.int32)[None]
    text = _tokens_at(xp, shard, position[:, None] - 1 - step)
    compared = step < xp.asarray(length, np.int32).reshape(-1, 1)
    digit = xp.where(compared, xp.sign(text - query), 0)
    return xp.sum(digit * 3 ** (MAX_MATCH - 1 - step), axis=1)


def _read(xp: Any, shard, size, query, row, found, depth, eos_id) -> Matches:
    """The continuations at some rows, and the lengths of the matches before them."""
    position = _take(xp, shard.suffix_array, row)[..., None]
    text = _tokens_at(
        xp, shard, position - 1 - xp.arange(MAX_MATCH, dtype=np.int32)[None, None]
    )
    same = xp.cumprod((text == query[:, None]).astype(np.int32), axis=-1)
    length = xp.where(found, xp.sum(same, axis=-1), 0)
    ahead = position + xp.arange(depth, dtype=np.int32)[None, None]
    tokens = _take(xp, shard.tokens, ahead).astype(np.int32)
    ends = (tokens == eos_id).astype(np.int32)
    inside = (ahead < size) & (xp.cumsum(ends, axis=-1) - ends == 0)
    return Matches(xp.where(inside, tokens, END), length)


def _tokens_at(xp: Any, shard, position):
    """The shard's tokens at some positions; `NO_CORPUS` before its start."""
    tokens = _take(xp, shard.tokens, position).astype(np.int32)
    return xp.where(position >= 0, tokens, NO_CORPUS)


def _take(xp: Any, array, index):
    return xp.take(array, index, mode="clip")
