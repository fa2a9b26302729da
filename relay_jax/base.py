"""Axis letters of array shapes, and the batch types that several layers share.

    b   examples in a batch
    n   positions of the loop (its width), or of a decoder's input
    p   tokens of a problem, before alignment
    t   rounds of a chain, which are the iterations of the looped model
    r   tokens of one round, or its columns in the loop; or draft sequences
    m   positions of a key-value cache, or of the texts that are decoded
    q   query positions of attention
    k   key positions of attention; or samples, or tokens of a query
    l   layers
    h   attention heads        g   key-value heads (h = g without grouping)
    d   width of the model     e   width of one head
    f   width of the feed-forward layer
    v   tokens of the vocabulary
    u   likely successors of one token
    c   nodes of a draft tree below its root
    s   tokens along a branch of a draft tree
    w   shards of a datastore

A function that uses a letter in another sense explains it in its docstring. jaxtyping
checks the annotations at run time, in the tests only.
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
    """Solved problems as tokens, padded on the right with `<pad>`."""

    problem: Int[Host, "b p"]  # task token, problem, end mark
    rounds: Int[Host, "b t r"]  # round t of the chain; empty after the last round
    num_rounds: Int[Host, " b"]  # T, the number of rounds of each chain
    answer: Int[Host, " b"]  # the final answer, one token
    length: Int[Host, " b"]  # of the problem, in the unit of the task


class Scratchpad(NamedTuple):
    """What a looped model with round feedback reads and writes (not in the paper).

    These index arrays are computed by the task, not learned. Loop t reads the memory;
    the round that it predicts, right-aligned as in the paper, is then written back:

        memory[j] <- constants[t, j]             where constants[t, j] is not -1
                  <- round_t[copy_from[t, j]]    where copy_from[t, j] is not -1
                  <- memory[j]                   elsewhere
    """

    initial: Int[Array, "b n"]  # the memory before the first loop
    copy_from: Int[Array, "t b n"]  # the column of round t to copy, or -1
    constants: Int[Array, "t b n"]  # a token that is written in any case, or -1
    pointers: Int[Array, "t b n 2"]  # what to read (0) and where to predict it (1)
    shows_problem: bool  # whether loops see the problem beside the memory
    has_differences: bool  # whether memory numbers can be read as differences


class LoopedBatch(NamedTuple):
    """A training batch of the looped model."""

    problem: Int[AnyArray, "b n"]
    rounds: Int[AnyArray, "t b r"]  # z~_t, the last r columns of the loop's width
    # M_t (RELAY, section 3.2); False after the T rounds of an example
    mask: Bool[AnyArray, "t b r"]
    answer: Int[AnyArray, " b"]  # `<pad>` if the chain was cut before the answer
    num_rounds: Int[AnyArray, " b"]  # T


class DecoderBatch(NamedTuple):
    """A training batch of the decoder."""

    tokens: Int[AnyArray, "b n"]
    trained: Bool[AnyArray, "b n"]  # whether a token is a target: chain and answer
