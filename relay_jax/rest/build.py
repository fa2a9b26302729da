"""The builder of datastores: documents into shards, each sorted and saved by itself.

A store is built in its place, shard by shard; its metadata is written last. What an
interrupted build leaves does not open, or opens as the store that was to be replaced.
The same command goes on where it was: a shard is named by its tokens, and is not sorted
again if its files are there and whole.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from relay_jax import files
from relay_jax.base import Host, Integer
from relay_jax.rest.checksum import Checksum, load_checked, make_checksum
from relay_jax.rest.datastore import (
    METADATA,
    Datastore,
    open_datastore,
    read_pair,
    token_dtype,
    write_metadata,
)
from relay_jax.tokenizers import check_ids

SHARD_TOKENS = 100_000_000
LONGEST_SHARD = 2**30 - 1
_KEY = r"\d{5}_[0-9a-f]{12}"  # of a shard
_FILE = rf"metadata\.json|(tokens|order)_{_KEY}\.npy|shard_{_KEY}\.json"
_OWN = re.compile(rf"{_FILE}|\.({_FILE})(\.[0-9a-f]{{32}})?\.unfinished")


class VocabInfo(NamedTuple):
    """Whose ids the tokens are; see `build_datastore`."""

    tokenizer: str
    vocab_size: int
    eos_id: int


class ShardInfo(NamedTuple):
    """What is told of a shard whose files are there."""

    checksums: tuple[Checksum, Checksum]
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
    """Writes a store; memory is bounded by the size of a shard: about 20 bytes a token,
    36 where a shard holds more than 65,536 different vocab.

    Args:
      documents: token ids of each document, with or without its end-of-text token.
      path: the directory to be; it may hold a store only if `overwrite`.
      tokenizer: whose ids these are, `Tokenizer.identity`.
      vocab_size: ids are 0 .. vocab_size - 1.
      eos_id: the token that ends a document; drafts do not go past it.
      shard_tokens: how many tokens are sorted together.

    Raises:
      ValueError: the path is taken, there is no document, or an id is out of range.
    """
    path = epath.Path(path)
    vocab = VocabInfo(tokenizer, vocab_size, eos_id)
    check_build(path, vocab, shard_tokens, overwrite)
    pieces = _cut(checked(documents, vocab), shard_tokens, token_dtype(vocab_size))
    built = [build_shard(path, i, piece, eos_id) for i, piece in enumerate(pieces)]
    return finish(path, vocab, built)


def extend_datastore(
    path: epath.PathLike,
    documents: Iterable[Integer[Host, "_"]],
    shard_tokens: int = SHARD_TOKENS,
) -> Datastore:
    """Adds documents to a store, as further shards; what was there is not sorted again.

    Whoever has the store open goes on with what it was; opened anew it has both.

    Raises:
      ValueError: there is no store, or an id or `shard_tokens` is out of range.
    """
    _check_size(shard_tokens)
    path, store = epath.Path(path), open_datastore(path)
    vocab = VocabInfo(store.tokenizer, store.vocab_size, store.eos_id)
    held = [
        ShardInfo(checksums, len(tokens), int(np.count_nonzero(tokens == vocab.eos_id)))
        for checksums, (tokens, _) in zip(store.checksums, store.shards)
    ]
    dtype = token_dtype(vocab.vocab_size)
    pieces = _cut(checked(documents, vocab), shard_tokens, dtype)
    built = [
        build_shard(path, number, piece, vocab.eos_id)
        for number, piece in enumerate(pieces, len(held))
    ]
    return finish(path, vocab, [*held, *built])


def check_build(
    path: epath.Path, vocab: VocabInfo, shard_tokens: int, overwrite: bool
) -> None:
    """Raises what `build_datastore` raises before it asks for a document."""
    _check_place(path, overwrite)
    if not 0 <= vocab.eos_id < vocab.vocab_size:
        raise ValueError(
            f"eos_id {vocab.eos_id} is outside a vocabulary of {vocab.vocab_size}"
        )
    _check_size(shard_tokens)
    _check_writable(path)


def _check_size(shard_tokens: int) -> None:
    if not 0 < shard_tokens <= LONGEST_SHARD:
        raise ValueError(
            f"shard_tokens must be 1..{LONGEST_SHARD}, got {shard_tokens}: "
            "an order is kept in 32 bits"
        )


def checked(
    documents: Iterable[Integer[Host, "_"]], vocab: VocabInfo
) -> Iterator[Integer[Host, "_"]]:
    """Documents that are not empty, each with its end-of-text token."""
    limit = f"outside the vocabulary of {vocab.vocab_size}"
    for number, document in enumerate(documents):
        document = np.asarray(document)
        if not document.size:
            continue
        check_ids(document, vocab.vocab_size, f"document {number}", limit)
        yield document
        if document[-1] != vocab.eos_id:
            yield np.array([vocab.eos_id])


def build_shard(
    folder: epath.Path, number: int, tokens: Integer[Host, " n"], eos_id: int
) -> ShardInfo:
    """Saves and checksums a shard, or finds it saved by a build that was interrupted."""
    folder.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(tokens.dtype.str.encode())
    key.update(tokens.data)
    name = f"{number:05d}_{key.hexdigest()[:12]}"
    done = folder / f"shard_{name}.json"  # removed when the store is whole
    checksums = _sorted_before(folder, done)
    if not checksums:
        checksums = (
            _save(folder / f"tokens_{name}.npy", tokens),
            _save(folder / f"order_{name}.npy", sort_suffixes(tokens)),
        )
        files.write_json(done, [checksum._asdict() for checksum in checksums])
    return ShardInfo(checksums, len(tokens), int(np.count_nonzero(tokens == eos_id)))


def finish(path: epath.Path, vocab: VocabInfo, built: Sequence[ShardInfo]) -> Datastore:
    """Makes the shards a store, and takes away what is no part of it."""
    if not built:
        raise ValueError("the corpus is empty: not one document was found")
    fields = vocab._asdict() | {
        "num_tokens": sum(shard.num_tokens for shard in built),
        "num_documents": sum(shard.num_documents for shard in built),
    }
    checksums = [shard.checksums for shard in built]
    write_metadata(path, fields, checksums)
    kept = {METADATA, *(checksum.name for pair in checksums for checksum in pair)}
    for file in path.iterdir():
        if _OWN.fullmatch(file.name) and file.name not in kept:
            file.unlink()
    return open_datastore(path)


def sort_suffixes(tokens: Integer[Host, " n"]) -> Integer[Host, " n"]:
    """The places 1..n, sorted by the text before them read backwards."""
    import pydivsufsort

    if tokens.dtype.itemsize > 2:  # the sorter works on bytes: the fewer, the faster
        tokens = _number_words(tokens)
    smallest = np.min_scalar_type(int(tokens.max(initial=0)))
    backwards = np.ascontiguousarray(tokens[::-1].astype(smallest))
    suffixes = pydivsufsort.divsufsort(backwards)
    return (len(tokens) - suffixes).astype(np.int32)


def _number_words(tokens: Integer[Host, " n"]) -> Integer[Host, " n"]:
    """The same order of vocab, numbered without gaps."""
    occurs = np.zeros(int(tokens.max(initial=0)) + 1, bool)
    occurs[tokens] = True
    return (np.cumsum(occurs, dtype=np.uint32) - np.uint32(1))[tokens]


def _cut(documents, size: int, dtype) -> Iterator[Integer[Host, "_"]]:
    """The documents in pieces of `size` tokens, cut inside a document if need be."""
    held, room = [], size
    for document in documents:
        document = document.astype(dtype)
        while len(document) >= room:
            yield np.concatenate([*held, document[:room]])
            document, held, room = document[room:], [], size
        held.append(document)
        room -= len(document)
    if room < size:
        yield np.concatenate(held)


def _check_place(path: epath.Path, overwrite: bool) -> None:
    """Raises ValueError where a store must not be built."""
    if not path.exists():
        return
    names = [file.name for file in path.iterdir()] if path.is_dir() else [path.name]
    foreign = sorted(name for name in names if not _OWN.fullmatch(name))
    if foreign:
        raise ValueError(
            f"{path} holds {foreign[0]}, which is no part of a datastore; "
            "choose another place"
        )
    if METADATA in names and not overwrite:
        raise ValueError(f"{path} exists; choose another place or give --overwrite")


def _check_writable(path: epath.Path) -> None:
    """Raises OSError where no file can be made; leaves nothing behind."""
    is_new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    trial = path / f".{METADATA}.unfinished"
    trial.touch()
    trial.unlink()
    if is_new:
        path.rmdir()


def _sorted_before(
    folder: epath.Path, done: epath.Path
) -> tuple[Checksum, Checksum] | None:
    try:
        checksums = read_pair(json.loads(done.read_text()))
        for checksum in checksums:
            load_checked(folder, checksum, whole=True)
    except (OSError, ValueError, TypeError):
        return None  # it is not there, or not whole
    return checksums


def _save(file: epath.Path, array) -> Checksum:
    """A file of that name may belong to the old store: it stays whole. Two workers that
    do the same shard, as happens on Beam, do not write to the same file."""
    unfinished = file.parent / f".{file.name}.{uuid.uuid4().hex}.unfinished"
    with unfinished.open("wb") as stream:
        np.save(stream, array)
    unfinished.replace(file)
    return make_checksum(file)
