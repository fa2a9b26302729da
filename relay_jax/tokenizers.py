"""Tokenizers: the interface that the project asks for, and how one is loaded.

The RELAY tasks have a closed vocabulary (`vocabulary.TaskTokenizer`); models of text have
SentencePiece models or `tokenizer.json` files (`subword_tokenizers`).
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, SupportsInt, runtime_checkable

from etils import epath

from relay_jax.base import Host, Integer
from relay_jax.subword_tokenizers import (
    ADDED,
    SETTINGS,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
)
from relay_jax.vocabulary import TaskTokenizer

RUN_TOKENIZER = "tokenizer.model"  # in a run directory
# Of a model's folder; the first two are tokenizers by themselves.
TOKENIZER_FILES = (
    *(RUN_TOKENIZER, "tokenizer.json"),
    *(SETTINGS, ADDED, "special_tokens_map.json"),
)

UNFINISHED = "\ufffd"  # how the first bytes of a character look


@runtime_checkable
class Tokenizer(Protocol):
    """What the rest of the project asks of any tokenizer."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def identity(self) -> str:
        """Names this very vocabulary; stores and checkpoints are matched by it."""
        ...

    @property
    def eos_id(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Iterable[SupportsInt]) -> str: ...


class IdTokenizer(NamedTuple):
    """Stands where a model of text has no tokenizer: ids alone go in and out."""

    folder: str  # of the model
    vocab_size: int

    @property
    def identity(self) -> str:
        return ""

    @property
    def eos_id(self) -> int:
        return -1  # not known

    def encode(self, text: str) -> list[int]:
        """Raises ValueError, as there are no words."""
        raise ValueError(self.refusal())

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """Raises ValueError, as there are no words."""
        raise ValueError(self.refusal())

    def refusal(self) -> str:
        return (
            f"{self.folder} has neither {' nor '.join(TOKENIZER_FILES[:2])}, and its "
            f"model has {self.vocab_size} words of text; name its tokenizer with "
            "--tokenizer, or give and take ids (rest_generate: --prompt_ids --print_ids)"
        )


def check_ids(ids: Integer[Host, "_"], vocab_size: int, where: str, limit: str) -> None:
    """Raises ValueError at the first id outside a vocabulary.

    Args:
      where: what holds the ids, for the message.
      limit: how the message names the vocabulary.
    """
    wrong = ids[(ids < 0) | (ids >= vocab_size)]
    if wrong.size:
        raise ValueError(
            f"{where} holds the token id {wrong[0]}, {limit}; "
            "is it of another tokenizer?"
        )


def decode_spans(
    tokenizer: Tokenizer, ids: Sequence[int] | Integer[Host, "_"], cuts: Sequence[int]
) -> list[str]:
    """What the ids between two cuts add to the text of all before them.

    Decoded alone, a token may lose a space before it, or be a part of a character.
    """
    ends = [len(tokenizer.decode(ids[:cut]).rstrip(UNFINISHED)) for cut in cuts]
    text = tokenizer.decode(ids[: cuts[-1]])
    ends[-1] = len(text)
    return [text[a:b] for a, b in itertools.pairwise(ends)]


def load_tokenizer(name: epath.PathLike) -> Tokenizer:
    """`"relay:64"`, the task vocabulary with 64 numbers; a sentencepiece model; a
    `tokenizer.json`; or the folder of one of them.

    Raises:
      ValueError: none of them.
    """
    if str(name).startswith("relay:"):
        count = str(name).removeprefix("relay:")
        if not count.isdecimal() or int(count) < 1:
            raise ValueError(f"after relay: stands how many numbers, got {name!r}")
        return TaskTokenizer(int(count))
    path = epath.Path(name)
    for file in TOKENIZER_FILES[:2]:
        if (path / file).exists():
            path = path / file
            break
    kind = HuggingFaceTokenizer if path.suffix == ".json" else SentencePieceTokenizer
    return kind(path)


def has_tokenizer(folder: epath.PathLike) -> bool:
    """Whether a tokenizer lies in a folder."""
    return any((epath.Path(folder) / file).exists() for file in TOKENIZER_FILES[:2])


def load_run_tokenizer(
    run: epath.PathLike, num_numbers: int, vocab_size: int = 0
) -> Tokenizer:
    """The tokenizer that lies in a run directory; of a model of the RELAY tasks, which
    has none, the task vocabulary; of a model of text that has none, its ids.

    Args:
      num_numbers, vocab_size: of the model's config.
    """
    if has_tokenizer(run):
        return load_tokenizer(run)
    if vocab_size:
        return IdTokenizer(str(run), vocab_size)
    return TaskTokenizer(num_numbers)
