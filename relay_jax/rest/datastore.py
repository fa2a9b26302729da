"""The datastore: a tokenized corpus with a suffix array of its reversed text.

    DIR/metadata.json                 format, tokenizer, vocabulary, counts, the names
                                      and checksums of all files; its own checksum
    DIR/tokens_00000_KEY.npy          [n] uint16, or uint32 for a large vocabulary:
                                      the documents, each with its end-of-text token
    DIR/suffix_array_00000_KEY.npy    [n] int32: the positions of this shard, sorted
    ...                               the next shard; KEY is a hash of a shard's tokens

Position p of a shard has the left context tokens[p - 1], tokens[p - 2], ... and the
continuation tokens[p], tokens[p + 1], ... The suffix array lists the positions in the
order of their left contexts, **read backwards**:

    tokens        the cat sat . the cat ran .
    position 2    left context, backwards: cat the              continuation: sat . the
    position 6    left context, backwards: cat the . sat ...    continuation: ran .

All positions whose left context ends like a query are therefore neighbours of the
query's own position in this order, whatever the length of the match: a single binary
search finds the longest matches (REST, section 3, searches a suffix array once for
every length of the match).

The metadata is written last and atomically. Files that it does not list do not belong to
the datastore (`build`).
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from relay_jax import aliases, files
from relay_jax.base import Host, Integer
from relay_jax.rest.checksum import Checksum, load_checked
from relay_jax.tokenizers import Tokenizer

FORMAT = 3
METADATA = "metadata.json"


class Shard(NamedTuple):
    """One part of the corpus, memory-mapped if the file system allows it."""

    tokens: Integer[Host, " n"]
    suffix_array: Integer[Host, " n"]  # positions 1..n, sorted by their left contexts


class ShardChecksums(NamedTuple):
    """The checksums of a shard's two files."""

    tokens: Checksum
    suffix_array: Checksum

    def to_json(self) -> dict[str, dict[str, Any]]:
        """The JSON object that `parse_checksums` reads."""
        return {name: checksum._asdict() for name, checksum in self._asdict().items()}


class Datastore(NamedTuple):
    """An open datastore. Its arrays are memory-mapped and not read yet."""

    path: epath.Path
    tokenizer: str  # `Tokenizer.identity`; empty if unknown
    vocab_size: int
    eos_id: int
    num_tokens: int
    num_documents: int
    shards: tuple[Shard, ...]
    checksums: tuple[ShardChecksums, ...]  # of each shard


def open_datastore(
    path: epath.PathLike, *, tokenizer: Tokenizer | None = None, verify: bool = False
) -> Datastore:
    """Opens a datastore in milliseconds, whatever its size.

    The metadata, the size of every file and a few blocks of each are checked. All bytes
    are checked with `verify`, or when they are read (`read_array`).

    Args:
      tokenizer: the tokenizer that the datastore must have been built with.

    Raises:
      ValueError: there is no datastore, it has another format or tokenizer, or it is
        damaged.
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
        Shard(*(load_checked(path, checksum, verify) for checksum in shard))
        for shard in checksums
    )
    return Datastore(path=path, shards=shards, checksums=checksums, **fields)


def read_array(store: Datastore, shard: int, name: str) -> Integer[Host, " n"]:
    """An array of a shard, with all of its bytes checked.

    Args:
      name: "tokens" or "suffix_array".

    Raises:
      ValueError: the file is damaged.
    """
    checksum = getattr(store.checksums[shard], name)
    return load_checked(store.path, checksum, check_all=True)


def write_metadata(
    path: epath.Path, fields: dict[str, Any], checksums: Iterable[ShardChecksums]
) -> None:
    """Turns a folder of shards into a datastore, atomically.

    Args:
      fields: the fields of `Datastore` that are strings and integers.
      checksums: of each shard.
    """
    content = fields | {"shards": [shard.to_json() for shard in checksums]}
    metadata = {"format": FORMAT, "sha256": _hash_content(content), "store": content}
    files.write_json(path / METADATA, metadata)


def parse_checksums(values: dict[str, dict[str, Any]]) -> ShardChecksums:
    """A shard's checksums from their JSON object."""
    return ShardChecksums(
        Checksum(**values["tokens"]), Checksum(**values["suffix_array"])
    )


def token_dtype(vocab_size: int) -> np.dtype:
    """uint16 up to 65,535 tokens (building a draft tree reserves one value), or uint32."""
    return np.dtype(np.uint16 if vocab_size < 2**16 else np.uint32)


def _read_metadata(
    path: epath.Path,
) -> tuple[dict[str, Any], tuple[ShardChecksums, ...]]:
    """The plain fields of `Datastore`, and the checksums of its shards."""
    file = path / METADATA
    try:
        metadata = json.loads(file.read_text())
        version = metadata["format"]
        is_known = version in (FORMAT, *aliases.DATASTORE_FORMATS)
        parsed = _parse_metadata(metadata) if is_known else None
    except (ValueError, KeyError, TypeError) as error:
        message = f"{file} is damaged ({error!r}); build the datastore again"
        raise ValueError(message) from error
    if parsed is None:
        raise ValueError(
            f"{path} has format {version}, this version reads {FORMAT}; "
            "build the datastore again, with --overwrite"
        )
    return parsed


def _parse_metadata(
    metadata: dict[str, Any],
) -> tuple[dict[str, Any], tuple[ShardChecksums, ...]]:
    content = metadata["store"]
    if metadata["sha256"] != _hash_content(content):
        raise ValueError("its checksum does not match its content")
    content = aliases.upgrade_datastore(content, metadata["format"])
    names = ("tokenizer", "vocab_size", "eos_id", "num_tokens", "num_documents")
    checksums = tuple(map(parse_checksums, content["shards"]))
    if not checksums:
        raise ValueError("it lists no shard")
    return {name: content[name] for name in names}, checksums


def _hash_content(content: dict[str, Any]) -> str:
    """The SHA-256 of JSON values, independent of their layout in the file."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_tokenizer(path: epath.Path, fields: dict, tokenizer: Tokenizer) -> None:
    actual, expected = fields["tokenizer"], tokenizer.identity
    if actual and expected:
        if actual != expected:
            raise ValueError(
                f"{path} was built with the tokenizer {actual!r}, but the model has "
                f"{expected!r}; build a datastore with the model's tokenizer"
            )
    elif fields["vocab_size"] != tokenizer.vocab_size:
        unknown = "" if actual else "was built without naming its tokenizer and "
        raise ValueError(
            f"{path} {unknown}has a vocabulary of {fields['vocab_size']} tokens, the "
            f"model has {tokenizer.vocab_size}; build it with the model's --tokenizer, "
            f"or with --tokenizer_identity={expected}"
        )
