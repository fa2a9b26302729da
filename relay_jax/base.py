"""The shape vocabulary: what each axis letter means, everywhere in this package.

    b   examples in a batch
    n   positions of the loop (its width), or of a decoder's input
    p   tokens of a problem, before alignment
    t   rounds of a chain, which are loops of the looped model
    r   tokens of one round, or the columns that it is said in; or rows of draft tokens
    m   positions of a key-value cache
    q   query positions of an attention
    k   key positions of an attention; or how many are drawn
    l   layers
    h   attention heads        g   key-value heads (h = g without grouping)
    d   width of the model     e   width of one head
    f   width of the feed-forward layer
    v   words of the vocabulary
    u   likely followers of one word
    c   nodes of a draft tree below its root
    s   tokens along a branch of it
    w   shards of a datastore

Annotations are read by jaxtyping; they are checked at run time in the tests only.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Integer, Key, PyTree, Shaped

Array = jax.Array
Host = np.ndarray  # an array that never leaves the host
AnyArray = jax.Array | np.ndarray

__all__ = [
    "AnyArray",
    "Array",
    "Bool",
    "DecoderBatch",
    "Examples",
    "Float",
    "Host",
    "Int",
    "Integer",
    "Key",
    "LoopedBatch",
    "PyTree",
    "Scratchpad",
    "Shaped",
]


class Examples(NamedTuple):
    """Solved problems, as tokens, padded on the right with `<pad>`."""

    problem: Int[Host, "b p"]  # the task token, the problem, its end mark
    rounds: Int[Host, "b t r"]  # round t of the chain; rounds past the last are empty
    num_rounds: Int[Host, " b"]  # T, the number of rounds of each chain
    answer: Int[Host, " b"]  # the final answer, one token
    length: Int[Host, " b"]  # the problem's length, in the task's own unit


class Scratchpad(NamedTuple):
    """What a looped model with round feedback reads and writes (not in the paper).

    These index arrays are computed by the task, not learnt. Loop t reads the memory; the
    round that it predicts, right-aligned as in the paper, is then written back:

        memory[j] <- constants[t, j]             where constants[t, j] is not -1
                  <- round_t[copy_from[t, j]]    where copy_from[t, j] is not -1
                  <- memory[j]                   elsewhere
    """

    initial: Int[Array, "b n"]  # the memory before the first loop
    copy_from: Int[Array, "t b n"]  # the column of round t to copy, or -1
    constants: Int[Array, "t b n"]  # a token that is written whatever the round, or -1
    pointers: Int[Array, "t b n 2"]  # what to read (0) and where to predict it (1)
    shows_problem: bool  # whether loops see the problem beside the memory
    has_differences: bool  # whether memory numbers can be read as differences


class LoopedBatch(NamedTuple):
    """What the looped model trains on."""

    problem: Int[AnyArray, "b n"]
    rounds: Int[AnyArray, "t b r"]  # z~_t in the last r columns: no round needs more
    mask: Bool[AnyArray, "t b r"]  # M_t; all zero past an example's own T
    answer: Int[AnyArray, " b"]  # `<pad>` where the chain was cut before it
    num_rounds: Int[AnyArray, " b"]  # T


class DecoderBatch(NamedTuple):
    """What the decoder trains on."""

    tokens: Int[AnyArray, "b n"]
    trained: Bool[AnyArray, "b n"]  # the targets: chain and answer
