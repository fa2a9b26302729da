"""The results of a decode: the new tokens, tokens per step, and accepted drafts."""

from collections.abc import Callable, Sequence

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


def mark_accepted(
    state: DecodeState,
    row: int,
    first: int,
    decode_spans: Callable[[Int[Host, "_"], Sequence[int]], list[str]],
) -> str:
    """A row's text from token `first` on, with accepted drafts in quotes: «like this».

    Args:
      decode_spans: a function (ids of a whole text, indices into them) -> the text
        between neighbouring indices, such as `tokenizers.decode_spans` of a tokenizer.
    """
    tokens, drafted = np.asarray(state.tokens[row]), np.asarray(state.drafted[row])
    length = int(state.length[row])
    changes = np.flatnonzero(np.diff(drafted[first:length])) + first + 1
    cuts = [first, *changes.tolist(), length]
    marked = zip(decode_spans(tokens, cuts), cuts)
    return "".join(f"«{text}»" if drafted[cut] else text for text, cut in marked)
