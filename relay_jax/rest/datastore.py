"""The datastore: a corpus of tokens, and the order of its places by what stands before.

    DIR/metadata.json           format, tokenizer, vocabulary, counts, the files that
                                count and their checksums; and a checksum of itself
    DIR/tokens_00000_KEY.npy    [n] uint16, or uint32 where the vocabulary asks for it:
                                documents one after another, each with its end of text
    DIR/order_00000_KEY.npy     [n] int32: the places of this shard, sorted
    ...                         the next shard; a KEY is a hash of the shard's tokens

Place p of a shard has tokens[p - 1], tokens[p - 2], ... before it and tokens[p], ...
after it. Places are sorted by the text before them, **read backwards**:

    tokens    the cat sat . the cat ran .
    place 2   before it, backwards: cat the            after it: sat . the ...
    place 6   before it, backwards: cat the . sat ...  after it: ran .

so all places whose text ends like a query, whatever the length of the match, stand
around the query's own place in the order: one search finds the best of them (REST,
section 3.1, which searches a suffix array once for every length of the match).

The metadata is written last, in one piece, and tells which files count: `builder`.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from relay_jax import files
from relay_jax.base import Host, Integer
from relay_jax.rest.checksum import Checksum, load_checked
from relay_jax.tokenizers import Tokenizer

FORMAT = 2
METADATA = "metadata.json"


class Shard(NamedTuple):
    """One piece of the corpus; memory-mapped where the file system can."""

    tokens: Integer[Host, " n"]
    order: Integer[Host, " n"]


class Datastore(NamedTuple):
    """An opened store. Nothing of its arrays has been read yet."""

    path: epath.Path
    tokenizer: str  # `Tokenizer.identity`; empty where it was not told
    vocab_size: int
    eos_id: int
    num_tokens: int
    num_documents: int
    shards: tuple[Shard, ...]
    checksums: tuple[tuple[Checksum, Checksum], ...]  # of each shard's tokens and order


def open_datastore(
    path: epath.PathLike, *, tokenizer: Tokenizer | None = None, verify: bool = False
) -> Datastore:
    """Opens a store in milliseconds, whatever its size.

    The metadata, sizes and a few blocks of every file are checked; all bytes with
    `verify`, or when they are read (`read_part`).

    Args:
      tokenizer: what it is to be used with, if any.

    Raises:
      ValueError: it is no store, another version's, another tokenizer's, or damaged.
    """
    path = epath.Path(path)
    if not (path / METADATA).exists():
        raise ValueError(
            f"{path} is not a datastore: it has no {METADATA}; "
            "build one with experiments/build_datastore.py"
        )
    fields, checksums = _read_metadata(path)
    if tokenizer is not None:
        _check_tokenizer(path, fields, tokenizer)
    shards = tuple(
        Shard(*(load_checked(path, checksum, verify) for checksum in pair))
        for pair in checksums
    )
    return Datastore(path=path, shards=shards, checksums=checksums, **fields)


def read_part(store: Datastore, number: int, part: int) -> Integer[Host, " n"]:
    """A shard's tokens (part 0) or order (part 1), every byte checked.

    Raises:
      ValueError: the file is not what was written.
    """
    return load_checked(store.path, store.checksums[number][part], whole=True)


def write_metadata(
    path: epath.Path,
    fields: dict[str, Any],
    checksums: Iterable[tuple[Checksum, Checksum]],
) -> None:
    """Makes a folder of shards a store, in one step.

    Args:
      fields: those of `Datastore` that are plain values.
      checksums: of each shard's files.
    """
    content = fields | {
        "shards": [[checksum._asdict() for checksum in pair] for pair in checksums]
    }
    sealed = {"format": FORMAT, "sha256": _hash_content(content), "store": content}
    files.write_json(path / METADATA, sealed)


def read_pair(listed) -> tuple[Checksum, Checksum]:
    """The checksums of a shard's tokens and order, as JSON has them."""
    tokens, order = listed
    return Checksum(**tokens), Checksum(**order)


def token_dtype(vocab_size: int) -> np.dtype:
    """16 bits for up to 65,535 words; the tree's sort keeps one value for itself."""
    return np.dtype(np.uint16 if vocab_size < 2**16 else np.uint32)


def _read_metadata(path: epath.Path) -> tuple[dict[str, Any], tuple]:
    """The fields of `Datastore` that the metadata tells, and the checksums of its files."""
    file = path / METADATA
    try:
        metadata = json.loads(file.read_text())
        version = metadata["format"]
        told = _parse(metadata) if version == FORMAT else None
    except (ValueError, KeyError, TypeError) as error:
        message = f"{file} is damaged ({error!r}); build the store anew"
        raise ValueError(message) from error
    if told is None:
        raise ValueError(
            f"{path} has format {version}, this version reads {FORMAT}; "
            "build the store anew, with --overwrite"
        )
    return told


def _parse(metadata: dict[str, Any]) -> tuple[dict[str, Any], tuple]:
    content = metadata["store"]
    if metadata["sha256"] != _hash_content(content):
        raise ValueError("it is not what was written")
    names = ("tokenizer", "vocab_size", "eos_id", "num_tokens", "num_documents")
    checksums = tuple(map(read_pair, content["shards"]))
    if not checksums:
        raise ValueError("it lists no shard")
    return {name: content[name] for name in names}, checksums


def _hash_content(content: dict[str, Any]) -> str:
    """Of the values, not of how a file writes them."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_tokenizer(path: epath.Path, fields: dict, tokenizer: Tokenizer) -> None:
    told, wanted = fields["tokenizer"], tokenizer.identity
    if told and wanted and told != wanted:
        raise ValueError(
            f"{path} was built with the tokenizer {told!r}, but the model has "
            f"{wanted!r}; build a store with the model's tokenizer"
        )
    is_known = told and wanted
    if not is_known and fields["vocab_size"] != tokenizer.vocab_size:
        untold = "" if told else "was built without telling its tokenizer, and "
        raise ValueError(
            f"{path} {untold}has {fields['vocab_size']} words, the model "
            f"{tokenizer.vocab_size}; build it "
            f"with the model's --tokenizer, or with --tokenizer_identity={wanted}"
        )
