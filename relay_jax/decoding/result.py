"""The results of a decode: the new tokens, and tokens per step."""

from collections.abc import Sequence

import numpy as np

from relay_jax.base import Host, Int
from relay_jax.decoding.state import DecodeState


def new_tokens(
    state: DecodeState, prompt_lengths: Sequence[int] | Int[Host, " b"]
) -> list[Int[Host, "_"]]:
    """The generated tokens of every row."""
    tokens, length = np.asarray(state.tokens), np.asarray(state.length)
    return [row[a:b] for row, a, b in zip(tokens, prompt_lengths, length)]


def tokens_per_step(
    state: DecodeState, prompt_lengths: Sequence[int] | Int[Host, " b"]
) -> float:
    """M of REST (section 4): generated tokens per forward pass, over all rows."""
    new = np.asarray(state.length) - np.asarray(prompt_lengths)
    return float(new.sum() / max(np.asarray(state.steps).sum(), 1))
