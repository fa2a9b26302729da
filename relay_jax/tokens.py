"""Tokenizers: a closed one for the RELAY tasks; those of text are in `subwords`.

The RELAY tasks share one vocabulary in which every number is one token:

    id      0      1      2      3     4     5   6 7 8 9 10 11-14  15-40  41, 42, ...
    token   <pad>  <eos>  [ARI]  [ED]  [LIS] <sep> | , = (  )  +-*/  a-z    0,  1, ...

Numbers come last, so a vocabulary with fewer of them is a prefix of a larger one.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, SupportsInt, runtime_checkable

from etils import epath

from relay_jax.base import Host, Integer
from relay_jax.subwords import (
    ADDED,
    SETTINGS,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
)

PAD, EOS, ARI, ED, LIS, SEP, BAR, COMMA, EQUALS, OPEN, CLOSE = range(11)
PLUS, MINUS, TIMES, DIVIDE = range(11, 15)
FIRST_LETTER = 15
NUM_LETTERS = 26
FIRST_NUMBER = FIRST_LETTER + NUM_LETTERS
RUN_TOKENIZER = "tokenizer.model"  # in a run directory
# Of a model's folder; the first two are tokenizers by themselves.
TOKENIZER_FILES = (
    *(RUN_TOKENIZER, "tokenizer.json"),
    *(SETTINGS, ADDED, "special_tokens_map.json"),
)

UNFINISHED = "\ufffd"  # how the first bytes of a character look

_SYMBOLS = (
    *("<pad>", "<eos>", "[ARI]", "[ED]", "[LIS]", "<sep>"),
    *"|,=()+-*/",
    *"abcdefghijklmnopqrstuvwxyz",
)
_TOKEN = re.compile(r"<[a-z]+>|\[[A-Z]+\]|\d+|\S")


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


class TaskTokenizer(NamedTuple):
    """The closed vocabulary of the RELAY tasks, with the numbers 0..num_numbers - 1."""

    num_numbers: int = 256

    @property
    def vocab_size(self) -> int:
        return FIRST_NUMBER + self.num_numbers

    @property
    def identity(self) -> str:
        return f"relay-tasks-v1-{self.num_numbers}"

    @property
    def eos_id(self) -> int:
        return EOS

    def encode(self, text: str) -> list[int]:
        """`"[ARI] 3*2="` -> ids. Raises ValueError at a word outside the vocabulary."""
        return [self._id(word) for word in _TOKEN.findall(text)]

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """Ids -> text; spaces stand only where two words would run together."""
        words = [self._word(int(i)) for i in ids]
        text = ""
        for word in words:
            glued = not text or not (text[-1].isalnum() and word[0].isalnum())
            letters = len(word) == 1 and word.isalpha() and text[-1:].isalpha()
            text += word if glued or letters else f" {word}"
        return text

    def _id(self, word: str) -> int:
        if word.isdecimal():
            if int(word) >= self.num_numbers:
                raise ValueError(
                    f"the number {word} is not in the vocabulary, which ends at "
                    f"{self.num_numbers - 1}; raise `num_numbers` in the model's config"
                )
            return FIRST_NUMBER + int(word)
        if word not in _SYMBOLS:
            raise ValueError(
                f"{word!r} is not in the closed task vocabulary; it holds numbers and "
                f"{' '.join(_SYMBOLS)}"
            )
        return _SYMBOLS.index(word)

    def _word(self, index: int) -> str:
        if not 0 <= index < self.vocab_size:
            raise ValueError(
                f"token id {index} is outside this vocabulary of {self.vocab_size}"
            )
        if index >= FIRST_NUMBER:
            return str(index - FIRST_NUMBER)
        return _SYMBOLS[index]


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
