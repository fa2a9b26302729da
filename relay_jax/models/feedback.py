"""The memory of a looped model that hears its rounds: what each of them writes into it.

The rules (`Scratchpad`) are index arrays, so that the memory before any round is known from
the true rounds before it, without the model: a round can be trained by itself.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from relay_jax.base import AnyArray, Array, Int, Key, Scratchpad, Shaped
from relay_jax.vocabulary import FIRST_NUMBER, PAD


def read_round(said: Int[Array, "b n"]) -> Int[Array, "b n"]:
    """A right-aligned round ends, on its left, at the boundary pad: whatever stands
    further left was never trained and becomes `<pad>`."""
    open_ = jnp.cumprod(said[:, ::-1] != PAD, axis=1)[:, ::-1]
    return jnp.where(open_ == 1, said, PAD)


def write_memory(
    memory: Int[Array, "b n"],
    said: Int[Array, "b r"],
    source: Int[Array, "b n"],
    given: Int[Array, "b n"],
) -> Int[Array, "b n"]:
    """The memory after a round that was said in the last r columns (`Scratchpad`)."""
    return move(said, memory, given, source, given)


def move(told, kept, written, source, given):
    """`kept` with what was told, or is written without being said, in its places.

    Args:
      told: `[b, r]`, or vectors `[b, r, d]`, in the last r columns; `kept` and `written`
        have all n.
    """
    room = kept.shape[1] - told.shape[1]  # nothing is said in the columns before
    told = jnp.pad(told, ((0, 0), (room, 0), *[(0, 0)] * (told.ndim - 2)))
    copied = jnp.take_along_axis(told, match_rank(jnp.maximum(source, 0), told), axis=1)
    kept = jnp.where(match_rank(source >= 0, told), copied, kept)
    return jnp.where(match_rank(given >= 0, told), written, kept)


def match_rank(index, target):
    """Gives `[b, n]` the rank of `target`."""
    return index if target.ndim == 2 else index[..., None]


def before(
    scratchpad: Scratchpad, rounds: Int[AnyArray, "t b r"], drawn: Int[Array, "b k"]
) -> Scratchpad:
    """The scratchpad as each drawn round finds it, the true rounds before it written."""

    def note(memory, inputs):
        return write_memory(memory, *inputs), memory

    per_loop = rounds, scratchpad.copy_from, scratchpad.constants
    _, memory = jax.lax.scan(note, scratchpad.initial, per_loop)
    each = memory, scratchpad.copy_from, scratchpad.constants, scratchpad.pointers
    memory, source, given, marks = (gather_rounds(x, drawn) for x in each)
    return scratchpad._replace(
        initial=memory[0], copy_from=source, constants=given, pointers=marks
    )


def sample_rounds(
    key: Key[Array, ""], num_rounds: Int[AnyArray, " b"], num: int
) -> Int[Array, "b k"]:
    """`num` of the rounds 0..T-1 of each chain: one of each part, if it is cut into
    `num` parts of one size. Every round is as likely as every other."""
    within = jax.random.uniform(key, (len(num_rounds), num))
    place = (jnp.arange(num)[None] + within) / num * num_rounds[:, None]
    return jnp.minimum(place.astype(jnp.int32), num_rounds[:, None] - 1)


def gather_rounds(
    of_rounds: Shaped[AnyArray, "t b *n"], drawn: Int[Array, "b k"]
) -> Shaped[Array, "1 b*k *n"]:
    """What belongs to the drawn rounds, as chains of one round each."""
    chain = jnp.arange(len(drawn))[:, None]
    found = jnp.asarray(of_rounds)[drawn, chain]
    return found.reshape(1, -1, *found.shape[2:])


class ValueOffset(NamedTuple):
    """How the numbers of each chain are raised: values are then met in training that
    only longer problems have."""

    by: Int[Array, " b"]
    least: Int[Array, " b"]  # smaller numbers stay as they are

    def apply(self, tokens: Int[AnyArray, "*t b n"]) -> Int[Array, "*t b n"]:
        """Tokens that are not numbers stay too."""
        tokens = jnp.asarray(tokens)
        outer = tuple(range(tokens.ndim - 2))
        by, least = (jnp.expand_dims(part, (*outer, -1)) for part in self)
        return jnp.where(tokens >= FIRST_NUMBER + least, tokens + by, tokens)
