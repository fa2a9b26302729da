"""Retrieval: where in a datastore does the text end like this, and how does it go on?

A query is the last 16 tokens of a text, the latest first. The store's places are sorted
by the same reading, so one search finds the query's own place, and the best matches
of every length stand around it:

    query  cat the on        (".. on the cat", read backwards)
    order  cat a  on  ...        match 1
           cat the in ...        match 2
           cat the on ...        match 3    <- first place that is not before the query
           cat the up ...        match 2

The same few lines search whatever `index` there is: on the device, inside a jitted
loop, spread over the devices of a mesh, or in the memory-mapped files.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from relay_jax.base import Array, Host, Int
from relay_jax.decoding.draft_tree import END
from relay_jax.models.sharding import AXIS_RULES
from relay_jax.rest.datastore import Shard
from relay_jax.rest.index import SPREAD, AnyIndex, HostIndex, MeshIndex

LONGEST_MATCH = 16
SHORTEST_PAPER_MATCH = 2
WIDENING = 1.03  # of the strides between the nearest rows, outwards
FURTHEST = 2**29  # rows away from the query's place
NO_TEXT, NO_CORPUS = -1, -2  # before the start of the text, of the shard: never equal


class Matches(NamedTuple):
    """How the corpus goes on at places that match."""

    tokens: Int[Array, "b r s"]  # `END` after the end of a document
    length: Int[Array, "b r"]  # of the match; 0 where there is none


def nearest(
    index: AnyIndex, query: Int[Array, "b k"], num_rows: int, depth: int
) -> Matches:
    """`num_rows` places around the query's own: matches of all lengths.

    They are dense at the query's place and ever further apart away from it: all of few
    long matches are found, and of many short ones a sample. Of several shards, the
    longest matches of all.
    """
    return _search(_nearest, index, query, num_rows, depth)


def longest(
    index: AnyIndex, query: Int[Array, "b k"], num_rows: int, depth: int
) -> Matches:
    """The paper's policy: only places that match as long as any does, 16 tokens down to
    2; of more than `num_rows` of them, evenly spread ones (section 3.1)."""
    found = _search(_longest, index, query, num_rows, depth)
    best = found.length.max(axis=1, keepdims=True)
    return Matches(found.tokens, jnp.where(found.length == best, found.length, 0))


def last_tokens(
    tokens: Int[Array, "b m"], length: Int[Array, " b"]
) -> Int[Array, "b k"]:
    """The query: a text's last 16 tokens, the latest first."""
    place = length[:, None] - 1 - jnp.arange(LONGEST_MATCH)[None]
    held = jnp.take_along_axis(tokens, jnp.maximum(place, 0), axis=1)
    return jnp.where(place >= 0, held, NO_TEXT).astype(jnp.int32)


def _search(find, index, query, num_rows, depth) -> Matches:
    def on_device(index, query):
        def one(tokens, order, size):
            shard = Shard(tokens, order)
            return find(jnp, shard, size, query, num_rows, depth, index.eos_id)

        return jax.vmap(one)(*index[:3])

    def on_its_device(index, query):
        found = on_device(index, query)
        return jax.lax.all_gather(found, AXIS_RULES["shards"], tiled=True)

    if isinstance(index, HostIndex):
        found = _on_host(find, index, query, num_rows, depth)
    elif isinstance(index, MeshIndex):
        found = jax.shard_map(
            on_its_device,
            mesh=index.mesh,
            in_specs=(SPREAD, P()),
            out_specs=P(),
            check_vma=False,
        )(index.parts, query)
    else:
        found = on_device(index, query)
    return _best(found, num_rows)


def _on_host(find, index: HostIndex, query, num_rows: int, depth: int) -> Matches:
    def search(query):
        parts = [
            find(
                *(np, shard, len(shard.tokens), np.asarray(query)),
                *(num_rows, depth, index.store.eos_id),
            )
            for shard in index.store.shards
        ]
        return tuple(np.stack(part).astype(np.int32) for part in zip(*parts))

    shape = (len(index.store.shards), len(query), num_rows)
    kinds = [jax.ShapeDtypeStruct(s, jnp.int32) for s in ((*shape, depth), shape)]
    return Matches(*jax.pure_callback(search, tuple(kinds), query))


def _best(found: Matches, num_rows: int) -> Matches:
    """Of every shard's rows, those that match longest; of equals, some of each shard."""
    num_shards, batch_size = found.length.shape[:2]
    if num_shards == 1:
        return Matches(found.tokens[0], found.length[0])
    length = jnp.moveaxis(found.length, 0, -1).reshape(batch_size, -1)
    tokens = jnp.moveaxis(found.tokens, 0, 2).reshape(*length.shape, -1)
    length, row = jax.lax.top_k(length, num_rows)
    return Matches(jnp.take_along_axis(tokens, row[..., None], axis=1), length)


# The search itself, on one shard: `xp` is jax.numpy or numpy.


def _nearest(xp: Any, shard, size, query, num_rows, depth, eos_id) -> Matches:
    place = _first_after(xp, shard, size, query, LONGEST_MATCH, False)
    row = place[:, None] + _offsets(num_rows)[None]
    found = (row >= 0) & (row < size)
    return _read(xp, shard, size, query, row, found, depth, eos_id)


def _offsets(num_rows: int) -> Int[Host, " r"]:
    """How far from the query's place the nearest rows stand.

    `num_rows` = 8, were strides to widen by 1.5:  -7 -4 -2 -1  0  1  3  6
    """
    half = num_rows // 2
    stride = np.floor(WIDENING ** np.arange(num_rows - half))
    reach = np.minimum(np.cumsum(stride) - 1, FURTHEST).astype(np.int32)
    return np.concatenate([-1 - reach[:half][::-1], reach])


def _longest(xp: Any, shard, size, query, num_rows, depth, eos_id) -> Matches:
    place = _first_after(xp, shard, size, query, LONGEST_MATCH, False)
    row = (
        place[:, None] + xp.arange(-1, 1, dtype=np.int32)[None]
    )  # the best matches' rows
    found = (row >= 0) & (row < size)
    match = _read(xp, shard, size, query, row, found, 0, eos_id).length
    length = match.max(axis=1)
    start = _first_after(xp, shard, size, query, length, False)
    num = _first_after(xp, shard, size, query, length, True) - start
    place = xp.arange(num_rows, dtype=np.int32)[None]
    # floor(place * num / num_rows), without leaving 32 bits
    whole, rest = num // num_rows, num % num_rows
    spread = place * whole[:, None] + place * rest[:, None] // num_rows
    row = start[:, None] + xp.where(num[:, None] > num_rows, spread, place)
    found = (row < (start + num)[:, None]) & (length >= SHORTEST_PAPER_MATCH)[:, None]
    return _read(xp, shard, size, query, row, found, depth, eos_id)


def _first_after(xp: Any, shard, size, query, length, after_equals: bool):
    """How many places of the order stand before the query, by the last `length` tokens.

    Those that equal it count too if `after_equals`. Bisection: the number of steps is
    that of the widest shard, so there is no loop whose length depends on data.
    """

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        side = _compare(xp, shard, _take(xp, shard.suffix_array, middle), query, length)
        before = (side < 0) | ((side == 0) & after_equals)
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


def _compare(xp: Any, shard, place, query, length):
    """Below 0 where the text before a place sorts before the query; 0 if they agree.

    The sign of the first difference, as one sum: digits -1, 0, 1 of a number to base 3.
    """
    step = xp.arange(LONGEST_MATCH, dtype=np.int32)[None]
    text = _before(xp, shard, place[:, None] - 1 - step)
    compared = step < xp.asarray(length, np.int32).reshape(-1, 1)
    digit = xp.where(compared, xp.sign(text - query), 0)
    return xp.sum(digit * 3 ** (LONGEST_MATCH - 1 - step), axis=1)


def _read(xp: Any, shard, size, query, row, found, depth, eos_id) -> Matches:
    """The continuations at some rows of the order, and how long their places match."""
    place = _take(xp, shard.suffix_array, row)[..., None]
    text = _before(
        xp, shard, place - 1 - xp.arange(LONGEST_MATCH, dtype=np.int32)[None, None]
    )
    same = xp.cumprod((text == query[:, None]).astype(np.int32), axis=-1)
    length = xp.where(found, xp.sum(same, axis=-1), 0)
    ahead = place + xp.arange(depth, dtype=np.int32)[None, None]
    tokens = _take(xp, shard.tokens, ahead).astype(np.int32)
    ends = (tokens == eos_id).astype(np.int32)
    inside = (ahead < size) & (xp.cumsum(ends, axis=-1) - ends == 0)
    return Matches(xp.where(inside, tokens, END), length)


def _before(xp: Any, shard, place):
    tokens = _take(xp, shard.tokens, place).astype(np.int32)
    return xp.where(place >= 0, tokens, NO_CORPUS)


def _take(xp: Any, array, place):
    return xp.take(array, place, mode="clip")


def own_text(
    tokens: Int[Array, "b m"],
    length: Int[Array, " b"],
    query: Int[Array, "b k"],
    num_rows: int,
    depth: int,
    near: Int[Array, " b"] | None = None,
) -> Matches:
    """Places of the text itself that match its end: the longest, then the latest.

    The length of a match is -1 where there is no place.

    Args:
      near: of equal matches, those nearest to this place come first instead.
    """
    too_few = max(num_rows - tokens.shape[1], 0)
    tokens = jnp.pad(tokens, ((0, 0), (0, too_few)))
    batch_size, size = tokens.shape
    place = jnp.arange(size)[None]
    padded = jnp.pad(
        tokens, ((0, 0), (LONGEST_MATCH, depth)), constant_values=NO_CORPUS
    )
    match = jnp.zeros((batch_size, size), jnp.int32)
    agree = jnp.ones((batch_size, size), bool)
    for step in range(LONGEST_MATCH):
        first = LONGEST_MATCH - 1 - step
        agree = agree & (padded[:, first : first + size] == query[:, step, None])
        match += agree
    match = jnp.where(place < length[:, None], match, -1)
    rank = place
    if near is not None:
        rank = jnp.maximum(size - 1 - jnp.abs(place - near[:, None]), 0)
    _, row = jax.lax.top_k((match * size + rank).astype(jnp.float32), num_rows)
    found = jnp.take_along_axis(match, row, axis=1)
    ahead = row[..., None] + jnp.arange(depth)[None, None]
    told = padded[jnp.arange(batch_size)[:, None, None], ahead + LONGEST_MATCH]
    inside = ahead < length[:, None, None]
    return Matches(jnp.where(inside, told, END), found)
