"""The interface of all tokenizers, and loading them.

The RELAY tasks have a closed vocabulary (`vocabulary.TaskTokenizer`). Text models have
SentencePiece models (`sentencepiece_tokenizer`) or `tokenizer.json` files (`hf_tokenizer`).
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, SupportsInt, runtime_checkable

from absl import logging
from etils import epath

from relay_jax import gguf_tokenizer
from relay_jax.base import Host, Integer
from relay_jax.gguf_file import is_gguf, read_gguf
from relay_jax.hf_tokenizer import HuggingFaceTokenizer
from relay_jax.sentencepiece_tokenizer import SentencePieceTokenizer
from relay_jax.tokenizer_files import ADDED, SETTINGS, SPECIAL, TokenizerFiles
from relay_jax.vocabulary import TaskTokenizer

RUN_TOKENIZER = "tokenizer.model"  # in a run directory
# In a model's folder; each of the first two is a tokenizer.
TOKENIZER_FILES = (
    *(RUN_TOKENIZER, "tokenizer.json"),
    *(SETTINGS, ADDED, SPECIAL),
)

# Texts that show what is put before a text, and how it is normalized and split.
PROBES = ("", "a", " a", "  a", "\n", "Ab 12  c\n\td.e", "É ﬁ Ａ\u00a0b’")

UNFINISHED = "\ufffd"  # decoded from the first bytes of a character


@runtime_checkable
class Tokenizer(Protocol):
    """The interface of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """The number of tokens; their ids are 0 .. vocab_size - 1."""
        ...

    @property
    def identity(self) -> str:
        """Identifies the vocabulary; that of a datastore must be the model's."""
        ...

    @property
    def eos_id(self) -> int:
        """The token that ends a text; -1 if it is unknown."""
        ...

    @property
    def special_tokens(self) -> dict[str, str]:
        """Special tokens by their role: `bos_token`, `eos_token`, ..."""
        ...

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a text; halves of surrogate pairs are read as U+FFFD.

        Args:
          add_special_tokens: whether to add what begins a text of this tokenizer; a
            text that spells out its special tokens needs no others.
        """
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, as `encode` gives them.

        Where this is much work, other Python threads run meanwhile.
        """
        ...

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """The text of token ids."""
        ...


class IdTokenizer(NamedTuple):
    """Replaces a missing tokenizer: prompts and outputs are token ids."""

    folder: str  # of the model
    vocab_size: int

    @property
    def identity(self) -> str:
        return ""

    @property
    def eos_id(self) -> int:
        return -1  # unknown

    @property
    def special_tokens(self) -> dict[str, str]:
        return {}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Raises ValueError, as the vocabulary is unknown."""
        raise ValueError(self.refusal())

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Raises ValueError, as the vocabulary is unknown."""
        raise ValueError(self.refusal())

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """Raises ValueError, as the vocabulary is unknown."""
        raise ValueError(self.refusal())

    def refusal(self) -> str:
        """The error message, with the remedies."""
        return (
            f"{self.folder} has neither {' nor '.join(TOKENIZER_FILES[:2])}, and its "
            f"model has {self.vocab_size} text tokens; name its tokenizer (--tokenizer, "
            "tokenizer=), or use token ids (experiments/generate.py: --prompt_ids "
            "--print_ids)"
        )


def check_ids(ids: Integer[Host, "_"], vocab_size: int, where: str, limit: str) -> None:
    """Checks that all ids are in a vocabulary.

    Args:
      where: what contains the ids, for the error message.
      limit: the vocabulary, for the error message.

    Raises:
      ValueError: an id is not; the message names the first one.
    """
    wrong = ids[(ids < 0) | (ids >= vocab_size)]
    if wrong.size:
        raise ValueError(
            f"{where} contains the token id {wrong[0]}, {limit}; "
            "is it of another tokenizer?"
        )


def decode_spans(
    tokenizer: Tokenizer, ids: Sequence[int] | Integer[Host, "_"], cuts: Sequence[int]
) -> list[str]:
    """The texts of spans of token ids: what each span adds to the text before it.

    Decoded alone, a token may lose the space before it or be part of a character.

    Args:
      cuts: the boundaries of the spans, one more than there are spans.
    """
    ends = [len(tokenizer.decode(ids[:cut]).rstrip(UNFINISHED)) for cut in cuts]
    text = tokenizer.decode(ids[: cuts[-1]])
    ends[-1] = len(text)
    return [text[a:b] for a, b in itertools.pairwise(ends)]


def load_tokenizer(name: epath.PathLike) -> Tokenizer:
    """The tokenizer that a name or path stands for.

    Args:
      name: `"relay:64"` for the task vocabulary with 64 numbers; a SentencePiece model;
        a `tokenizer.json`; the folder of one of these; or a GGUF file.

    Raises:
      ValueError: it is none of these.
    """
    if str(name).startswith("relay:"):
        count = str(name).removeprefix("relay:")
        if not count.isdecimal() or int(count) < 1:
            raise ValueError(
                f"relay: must be followed by a number of numbers, as in relay:64; got {name!r}"
            )
        return TaskTokenizer(int(count))
    path = epath.Path(name)
    if is_gguf(path):
        return gguf_tokenizer.load_tokenizer(read_gguf(path))
    found = [path / file for file in TOKENIZER_FILES[:2] if (path / file).exists()]
    path = found[0] if found else path
    kind = HuggingFaceTokenizer if path.suffix == ".json" else SentencePieceTokenizer
    files = TokenizerFiles.read(path, kind.FILE)
    tokenizer = kind(files) if len(found) < 2 else _choose(files, found[1])
    files.warn_of_unused(tokenizer.has_token)
    return tokenizer


def _choose(
    files: TokenizerFiles, other: epath.Path
) -> SentencePieceTokenizer | HuggingFaceTokenizer:
    """The tokenizer of a folder with a SentencePiece model and a tokenizer.json.

    Where the two differ in tokens or in how they encode `PROBES`, it is the latter, as in
    transformers.

    Args:
      files: of the SentencePiece model.
      other: the tokenizer.json.
    """
    json_files = files._replace(path=other, content=other.read_bytes())
    try:
        pieces = SentencePieceTokenizer(files)
    except ValueError as error:
        logging.warning("%s; %s beside it is used", error, other.name)
        return HuggingFaceTokenizer(json_files)
    try:
        whole = HuggingFaceTokenizer(json_files)
    except ValueError as error:
        logging.warning("%s; %s beside it is used", error, files.path.name)
        return pieces
    difference = _difference(pieces, whole)
    if not difference:
        return pieces
    logging.warning(
        "%s: %s and %s %s; as in transformers, the latter is used",
        *(other.parent, files.path.name, other.name, difference),
    )
    return whole


def _difference(one: SentencePieceTokenizer, two: HuggingFaceTokenizer) -> str:
    """What two tokenizers do otherwise, if anything."""
    ours, theirs = one.token_ids, two.token_ids
    names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    if names:
        ids = [each.get(names[0], "none") for each in (ours, theirs)]
        return (
            f"give {len(names)} tokens different ids, as {names[0]!r} ({ids[0]} and "
            f"{ids[1]})"
        )
    texts = [text for text in PROBES if one.encode(text) != two.encode(text)]
    return f"encode {texts[0]!r} differently" if texts else ""


def has_tokenizer(folder: epath.PathLike) -> bool:
    """Whether a folder contains a tokenizer."""
    return any((epath.Path(folder) / file).exists() for file in TOKENIZER_FILES[:2])


def load_run_tokenizer(
    run: epath.PathLike, num_numbers: int, vocab_size: int = 0
) -> Tokenizer:
    """The tokenizer of a run directory.

    Without a tokenizer in the directory it is the task vocabulary, or an `IdTokenizer`
    for a text model.

    Args:
      num_numbers: of the model's config.
      vocab_size: the model's `text_vocab_size`.
    """
    if has_tokenizer(run):
        return load_tokenizer(run)
    if vocab_size:
        return IdTokenizer(str(run), vocab_size)
    return TaskTokenizer(num_numbers)
