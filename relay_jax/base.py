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
    "Float",
    "Host",
    "Int",
    "Integer",
    "Key",
    "PyTree",
    "Shaped",
]
