"""Building datastores: documents are cut into shards, each sorted and saved separately.

A datastore is built in its final directory, shard by shard; the metadata is written last.
Until then the directory does not open, or opens as the datastore that is being replaced.
The same command resumes an interrupted build: a shard's files are named by a hash of its
tokens, and an existing shard whose checksums match is not sorted again.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from etils import epath

from relay_jax import aliases, files
from relay_jax.base import Host, Integer
from relay_jax.rest.checksum import Checksum, compute_checksum, load_checked
from relay_jax.rest.datastore import (
    METADATA,
    Datastore,
    ShardChecksums,
    open_datastore,
    parse_checksums,
    token_dtype,
    write_metadata,
)
from relay_jax.tokenizers import check_ids

SHARD_TOKENS = 100_000_000
MAX_SHARD_TOKENS = 2**30 - 1
_KEY = r"\d{5}_[0-9a-f]{12}"  # of a shard
_ARRAYS = "|".join(("tokens", "suffix_array", *aliases.DATASTORE_FILES))
_FILE = rf"metadata\.json|({_ARRAYS})_{_KEY}\.npy|shard_{_KEY}\.json"
_DATASTORE_FILE = re.compile(rf"{_FILE}|\.({_FILE})(\.[0-9a-f]{{32}})?\.unfinished")


class VocabInfo(NamedTuple):
    """The vocabulary of a datastore's tokens; see `build_datastore`."""

    tokenizer: str
    vocab_size: int
    eos_id: int


class ShardInfo(NamedTuple):
    """A shard whose files are complete."""

    checksums: ShardChecksums
    num_tokens: int
    num_documents: int


def build_datastore(
    documents: Iterable[Integer[Host, "_"]],
    path: epath.PathLike,
    *,
    tokenizer: str,
    vocab_size: int,
    eos_id: int,
    shard_tokens: int = SHARD_TOKENS,
    overwrite: bool = False,
) -> Datastore:
    """Builds a datastore.

    Memory is bounded by the size of a shard: about 24 bytes per token, or 44 bytes if a
    shard contains more than 65,536 different tokens.

    Args:
      documents: token ids of each document, with or without its end-of-text token.
      path: the directory; with `overwrite` it may contain a datastore.
      tokenizer: the identity of the tokenizer of the ids (`Tokenizer.identity`).
      vocab_size: ids are 0 .. vocab_size - 1.
      eos_id: the token that ends a document; drafts do not continue after it.
      shard_tokens: the number of tokens that are sorted together.

    Raises:
      ValueError: the path is in use, there is no document, or an id is out of range.
    """
    path = epath.Path(path)
    vocab = VocabInfo(tokenizer, vocab_size, eos_id)
    check_build(path, vocab, shard_tokens, overwrite)
    pieces = _split(
        checked_documents(documents, vocab), shard_tokens, token_dtype(vocab_size)
    )
    return finish_datastore(path, vocab, _build_shards(path, 0, pieces, eos_id))


def extend_datastore(
    path: epath.PathLike,
    documents: Iterable[Integer[Host, "_"]],
    shard_tokens: int = SHARD_TOKENS,
) -> Datastore:
    """Adds documents to a datastore as new shards; the existing ones are not sorted again.

    A process that has the datastore open continues to see its old content.

    Raises:
      ValueError: there is no datastore, or an id or `shard_tokens` is out of range.
    """
    _check_shard_tokens(shard_tokens)
    path, store = epath.Path(path), open_datastore(path)
    vocab = VocabInfo(store.tokenizer, store.vocab_size, store.eos_id)
    old = [
        ShardInfo(checksums, len(tokens), int(np.count_nonzero(tokens == vocab.eos_id)))
        for checksums, (tokens, _) in zip(store.checksums, store.shards)
    ]
    dtype = token_dtype(vocab.vocab_size)
    pieces = _split(checked_documents(documents, vocab), shard_tokens, dtype)
    new = _build_shards(path, len(old), pieces, vocab.eos_id)
    return finish_datastore(path, vocab, [*old, *new])


def check_build(
    path: epath.Path, vocab: VocabInfo, shard_tokens: int, overwrite: bool
) -> None:
    """Checks everything that can be checked before the first document is read.

    Raises:
      ValueError: the path is in use, or `eos_id` or `shard_tokens` is out of range.
      OSError: the path cannot be written.
    """
    _check_path(path, overwrite)
    if not 0 <= vocab.eos_id < vocab.vocab_size:
        raise ValueError(
            f"eos_id {vocab.eos_id} is outside a vocabulary of {vocab.vocab_size}"
        )
    _check_shard_tokens(shard_tokens)
    _check_writable(path)


def _check_shard_tokens(shard_tokens: int) -> None:
    if not 0 < shard_tokens <= MAX_SHARD_TOKENS:
        raise ValueError(
            f"shard_tokens must be 1 to {MAX_SHARD_TOKENS}, got {shard_tokens}: "
            "a suffix array has 32-bit entries"
        )


def checked_documents(
    documents: Iterable[Integer[Host, "_"]], vocab: VocabInfo
) -> Iterator[Integer[Host, "_"]]:
    """Yields the token ids of all documents, each followed by its end-of-text token.

    Empty documents are skipped.

    Raises:
      ValueError: an id is out of range.
    """
    limit = f"outside the vocabulary of {vocab.vocab_size}"
    for number, document in enumerate(documents):
        document = np.asarray(document)
        if not document.size:
            continue
        check_ids(document, vocab.vocab_size, f"document {number}", limit)
        yield document
        if document[-1] != vocab.eos_id:
            yield np.array([vocab.eos_id])


def _build_shards(
    folder: epath.Path, first: int, pieces: Iterable[Integer[Host, "_"]], eos_id: int
) -> list[ShardInfo]:
    """`build_shard` of all pieces: each is sorted while the next one is being read."""
    shards, sorting = [], None
    with ThreadPoolExecutor(1) as sorter:
        for number, piece in enumerate(pieces, first):
            shards += [sorting.result()] if sorting else []
            sorting = sorter.submit(build_shard, folder, number, piece, eos_id)
        shards += [sorting.result()] if sorting else []
    return shards


def build_shard(
    folder: epath.Path, number: int, tokens: Integer[Host, " n"], eos_id: int
) -> ShardInfo:
    """Sorts and saves a shard, unless an interrupted build has saved it already."""
    folder.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(tokens.dtype.str.encode())
    key.update(tokens.data)
    name = f"{number:05d}_{key.hexdigest()[:12]}"
    done = folder / f"shard_{name}.json"  # removed when the datastore is complete
    checksums = _find_saved(folder, done)
    if not checksums:
        checksums = ShardChecksums(
            _save(folder / f"tokens_{name}.npy", tokens),
            _save(folder / f"suffix_array_{name}.npy", sort_suffixes(tokens)),
        )
        files.write_json(done, checksums.to_json())
    return ShardInfo(checksums, len(tokens), int(np.count_nonzero(tokens == eos_id)))


def finish_datastore(
    path: epath.Path, vocab: VocabInfo, shards: Sequence[ShardInfo]
) -> Datastore:
    """Writes the metadata of a datastore and removes files that do not belong to it.

    Raises:
      ValueError: there is no shard.
    """
    if not shards:
        raise ValueError("the corpus is empty: no document was found")
    fields = vocab._asdict() | {
        "num_tokens": sum(shard.num_tokens for shard in shards),
        "num_documents": sum(shard.num_documents for shard in shards),
    }
    checksums = [shard.checksums for shard in shards]
    write_metadata(path, fields, checksums)
    listed = {METADATA, *(checksum.name for shard in checksums for checksum in shard)}
    for file in path.iterdir():
        if _DATASTORE_FILE.fullmatch(file.name) and file.name not in listed:
            file.unlink()
    return open_datastore(path)


def sort_suffixes(tokens: Integer[Host, " n"]) -> Integer[Host, " n"]:
    """The suffix array: positions 1..n, sorted by their left contexts read backwards."""
    import pydivsufsort

    if tokens.dtype.itemsize > 2:  # the sorter works on bytes: fewer are faster
        tokens = _renumber(tokens)
    smallest = np.min_scalar_type(int(tokens.max(initial=0)))
    backwards = np.ascontiguousarray(tokens[::-1].astype(smallest))
    suffixes = pydivsufsort.divsufsort(backwards)
    return (len(tokens) - suffixes).astype(np.int32)


def _renumber(tokens: Integer[Host, " n"]) -> Integer[Host, " n"]:
    """The tokens that occur, numbered without gaps in the same order."""
    occurs = np.zeros(int(tokens.max(initial=0)) + 1, bool)
    occurs[tokens] = True
    return (np.cumsum(occurs, dtype=np.uint32) - np.uint32(1))[tokens]


def _split(documents, size: int, dtype) -> Iterator[Integer[Host, "_"]]:
    """Yields the documents in pieces of `size` tokens, which may split a document."""
    pending, missing = [], size
    for document in documents:
        document = document.astype(dtype)
        while len(document) >= missing:
            yield np.concatenate([*pending, document[:missing]])
            document, pending, missing = document[missing:], [], size
        pending.append(document)
        missing -= len(document)
    if missing < size:
        yield np.concatenate(pending)


def _check_path(path: epath.Path, overwrite: bool) -> None:
    if not path.exists():
        return
    names = [file.name for file in path.iterdir()] if path.is_dir() else [path.name]
    foreign = sorted(name for name in names if not _DATASTORE_FILE.fullmatch(name))
    if foreign:
        raise ValueError(
            f"{path} contains {foreign[0]}, which does not belong to a datastore; "
            "choose another directory"
        )
    if METADATA in names and not overwrite:
        raise ValueError(f"{path} exists; choose another directory or give --overwrite")


def _check_writable(path: epath.Path) -> None:
    """Raises OSError if no file can be created; leaves nothing behind."""
    is_new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    probe = path / f".{METADATA}.unfinished"
    probe.touch()
    probe.unlink()
    if is_new:
        path.rmdir()


def _find_saved(folder: epath.Path, done: epath.Path) -> ShardChecksums | None:
    try:
        checksums = parse_checksums(json.loads(done.read_text()))
        for checksum in checksums:
            load_checked(folder, checksum, check_all=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # missing or incomplete
    return checksums


def _save(file: epath.Path, array) -> Checksum:
    """Saves an array atomically, as the old datastore may have a file of this name.

    The temporary name is unique: on Beam two workers may save the same shard.
    """
    unfinished = file.parent / f".{file.name}.{uuid.uuid4().hex}.unfinished"
    with unfinished.open("wb") as stream:
        np.save(stream, array)
    unfinished.replace(file)
    return compute_checksum(file)
