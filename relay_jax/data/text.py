"""Text for a language model: windows of a token array, at random positions.

tokens    ... the cat sat <eos> a dog ran <eos> ...
window        cat sat <eos> a dog                  input: all but its last token
                                                   targets: all but its first
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from etils import epath

from relay_jax.base import DecoderBatch, Host, Int, Integer
from relay_jax.files import open_tokens

WINDOW_CHOICE = 4  # a purpose of random numbers, see `sources.PURPOSES`


@dataclasses.dataclass(frozen=True)
class Text:
    """Takes the place of a task in steps that train on text."""

    name: str = "text"


class Windows(NamedTuple):
    """A memory-mapped token array from which windows are read."""

    tokens: Integer[Host, " n"]
    size: int  # input tokens of a window; it has one more, the last target
    seed: int = 0

    def sample(
        self, step: int, batch_size: int, rows: Int[Host, " b"] | None = None
    ) -> DecoderBatch:
        """The batch of a step, or some of its rows: a function of (seed, step)."""
        rng = np.random.default_rng([self.seed, WINDOW_CHOICE, step])
        starts = rng.integers(len(self.tokens) - self.size, size=batch_size)
        return self._read(starts if rows is None else starts[rows])

    def evenly_spaced(self, count: int) -> DecoderBatch:
        """`count` windows at equal distances, fewer if they would overlap."""
        count = min(count, (len(self.tokens) - 1) // self.size)
        starts = np.linspace(0, len(self.tokens) - 1 - self.size, count)
        return self._read(starts.astype(np.int64))

    def _read(self, starts: Int[Host, " b"]) -> DecoderBatch:
        tokens = self.tokens[starts[:, None] + np.arange(self.size + 1)[None]]
        trained = np.ones(tokens.shape, bool)
        trained[:, 0] = False
        return DecoderBatch(tokens.astype(np.int32), trained)


def open_windows(
    file: epath.PathLike, size: int, vocab_size: int, seed: int = 0
) -> Windows:
    """Opens a .npy file of token ids.

    Args:
      size: the number of input tokens of a window.

    Raises:
      ValueError: the file is missing, has other contents, has ids outside a vocabulary
        of `vocab_size` tokens, or has fewer tokens than one window.
    """
    remedy = "python -m experiments.train creates it from a corpus"
    tokens = open_tokens(file, remedy)
    if size < 1 or len(tokens) <= size:
        raise ValueError(
            f"{file} has {len(tokens)} tokens: too few for a window of {size} and "
            "the token after it"
        )
    if tokens.max() >= vocab_size or tokens.min() < 0:
        raise ValueError(
            f"{file} has token ids from {tokens.min()} to {tokens.max()}, but the "
            f"model's vocabulary has {vocab_size} tokens; set model.text_vocab_size"
        )
    return Windows(tokens, size, seed)
