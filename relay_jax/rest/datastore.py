"""The datastore: a corpus of tokens, and the order of its places by what stands before.

    DIR/metadata.json      format, tokenizer, vocabulary, counts, checksums
    DIR/tokens_00000.npy   [n] uint16, or uint32 where the vocabulary asks for it:
                           documents one after another, each with its end-of-text token
    DIR/order_00000.npy    [n] int32: the places of this shard, sorted
    ...                    the next shard

Place p of a shard has tokens[p - 1], tokens[p - 2], ... before it and tokens[p], ...
after it. Places are sorted by the text before them, **read backwards**:

    tokens    the cat sat . the cat ran .
    place 2   before it, backwards: cat the            after it: sat . the ...
    place 6   before it, backwards: cat the . sat ...  after it: ran .

so all places whose text ends like a query, whatever the length of the match, stand
around the query's own place in the order: one search finds the best of them (REST,
section 3.1, which searches a suffix array once for every length of the match).

A store is built beside its final place and moved there when it is whole: what an
interrupted build leaves does not open. The same command goes on where it was: shards
that are already sorted are kept if their tokens are still the same.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from etils import epath

from relay_jax.arrays import Host, Integer
from relay_jax.tokens import check_ids

FORMAT = 1
SHARD_TOKENS = 100_000_000
LONGEST_SHARD = 2**30 - 1
SAMPLED = 16  # blocks of a file that opening a store checks
BLOCK = 1 << 12


class Shard(NamedTuple):
    """One piece of the corpus; memory-mapped where the file system can."""

    tokens: Integer[Host, " n"]
    order: Integer[Host, " n"]


class Datastore(NamedTuple):
    """An opened store. Nothing of its arrays has been read yet."""

    path: epath.Path
    tokenizer: str  # `Tokenizer.identity`
    vocab_size: int
    eos_id: int
    num_tokens: int
    num_documents: int
    shards: tuple[Shard, ...]


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
    """Writes a store; memory is bounded by the size of a shard, about 20 bytes a token.

    Args:
      documents: token ids of each document, with or without its end-of-text token.
      path: the directory to be; it must not exist, unless `overwrite`.
      tokenizer: whose ids these are, `Tokenizer.identity`.
      vocab_size: ids are 0 .. vocab_size - 1.
      eos_id: the token that ends a document; drafts do not go past it.
      shard_tokens: how many tokens are sorted together.

    Raises:
      ValueError: the path is taken, there is no document, or an id is out of range.
    """
    path = epath.Path(path)
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists; choose another place or give --overwrite")
    if not 0 <= eos_id < vocab_size:
        raise ValueError(f"eos_id {eos_id} is outside a vocabulary of {vocab_size}")
    if not 0 < shard_tokens <= LONGEST_SHARD:
        raise ValueError(
            f"shard_tokens must be 1..{LONGEST_SHARD}, got {shard_tokens}: "
            "an order is kept in 32 bits"
        )
    partial = path.parent / f"{path.name}.partial"
    partial.mkdir(parents=True, exist_ok=True)
    shards, num_documents = [], 0
    checked = _checked(documents, vocab_size, eos_id)
    for tokens in _cut(checked, shard_tokens, token_dtype(vocab_size)):
        shards.append(_write_shard(partial, len(shards), tokens))
        num_documents += int(np.count_nonzero(tokens == eos_id))
    if not shards:
        raise ValueError("the corpus is empty: not one document was found")
    metadata = {
        "format": FORMAT,
        "tokenizer": tokenizer,
        "vocab_size": vocab_size,
        "eos_id": eos_id,
        "num_tokens": sum(shard["num_tokens"] for shard in shards),
        "num_documents": num_documents,
        "shards": shards,
    }
    (partial / "metadata.json").write_text(json.dumps(metadata, indent=1))
    _remove_strangers(partial, len(shards))
    _move(partial, path)
    return open_datastore(path)


def open_datastore(
    path: epath.PathLike, *, tokenizer: str = "", verify: bool = False
) -> Datastore:
    """Opens a store in milliseconds, whatever its size.

    Sizes and a few blocks of every file are checked; all bytes with `verify`.

    Args:
      tokenizer: the identity of the tokenizer that it is to be used with, if any.

    Raises:
      ValueError: it is no store, another version's, another tokenizer's, or damaged.
    """
    path = epath.Path(path)
    file = path / "metadata.json"
    if not file.exists():
        raise ValueError(
            f"{path} is not a datastore: it has no metadata.json; "
            "build one with experiments/build_datastore.py"
        )
    try:
        metadata = json.loads(file.read_text())
        version = metadata["format"]
        names = ("tokenizer", "vocab_size", "eos_id", "num_tokens", "num_documents")
        fields = {name: metadata[name] for name in names}
        listed = metadata["shards"]
    except (ValueError, KeyError, TypeError) as error:
        message = f"{file} is damaged ({error!r}); build the store anew"
        raise ValueError(message) from error
    if version != FORMAT:
        raise ValueError(
            f"{path} has format {version}, this version reads {FORMAT}; "
            "build the store anew"
        )
    if tokenizer and tokenizer != fields["tokenizer"]:
        raise ValueError(
            f"{path} was built with the tokenizer {fields['tokenizer']!r}, but the "
            f"model has {tokenizer!r}; build a store with the model's tokenizer"
        )
    shards = tuple(
        _open_shard(path, i, shard, verify) for i, shard in enumerate(listed)
    )
    return Datastore(path=path, shards=shards, **fields)


def token_dtype(vocab_size: int) -> np.dtype:
    """16 bits for up to 65,535 words; the tree's sort keeps one value for itself."""
    return np.dtype(np.uint16 if vocab_size < 2**16 else np.uint32)


def order_places(tokens: Integer[Host, " n"]) -> Integer[Host, " n"]:
    """The places 1..n, sorted by the text before them read backwards."""
    import pydivsufsort

    if tokens.dtype.itemsize > 2:  # the sorter works on bytes: the fewer, the faster
        tokens = np.unique(tokens, return_inverse=True)[1]
    smallest = np.min_scalar_type(int(tokens.max(initial=0)))
    backwards = np.ascontiguousarray(tokens[::-1].astype(smallest))
    suffixes = pydivsufsort.divsufsort(backwards)
    return (len(tokens) - suffixes).astype(np.int32)


def _checked(documents, vocab_size, eos_id) -> Iterator[Integer[Host, "_"]]:
    """Documents that are not empty, each with its end-of-text token."""
    limit = f"outside the vocabulary of {vocab_size}"
    for number, document in enumerate(documents):
        document = np.asarray(document)
        if not document.size:
            continue
        check_ids(document, vocab_size, f"document {number}", limit)
        yield document
        if document[-1] != eos_id:
            yield np.array([eos_id])


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


def _names(number: int) -> tuple[str, str]:
    return f"tokens_{number:05d}.npy", f"order_{number:05d}.npy"


def _write_shard(folder: epath.Path, number: int, tokens) -> dict:
    """Saves a shard, or finds it saved by a build that was interrupted."""
    names = _names(number)
    done = folder / f"shard_{number:05d}.json"
    if done.exists() and np.array_equal(_load(folder / names[0]), tokens):
        return json.loads(done.read_text())
    done.unlink(missing_ok=True)  # it does not tell of what is written now
    files = {}
    for name, array in zip(names, (tokens, order_places(tokens))):
        with (folder / name).open("wb") as file:
            np.save(file, array)
        bytes_ = _bytes(folder / name)
        files[name] = {
            "size": len(bytes_),
            "sampled": _hash_sampled(bytes_),
            "sha256": hashlib.sha256(bytes_.data).hexdigest(),
        }
    shard = {"num_tokens": len(tokens), "files": files}
    done.write_text(json.dumps(shard))
    return shard


def _open_shard(path: epath.Path, number: int, shard: dict, verify: bool) -> Shard:
    arrays = []
    for name in _names(number):
        file, expected = path / name, shard["files"][name]
        size = file.stat().length if file.exists() else 0
        if size != expected["size"]:
            raise ValueError(
                f"{file} has {size} bytes, {expected['size']} were written: "
                "the store is damaged; build it anew"
            )
        bytes_ = _bytes(file)
        same = _hash_sampled(bytes_) == expected["sampled"]
        if same and verify:
            same = hashlib.sha256(bytes_.data).hexdigest() == expected["sha256"]
        if not same:
            raise ValueError(
                f"{file} is not what was written: the store is damaged; build it anew"
            )
        arrays.append(_load(file))
    return Shard(*arrays)


def _bytes(file: epath.Path):
    """A file's bytes, mapped where the file system can."""
    if _is_local(file):
        return np.memmap(file, np.uint8, "r")
    return np.frombuffer(file.read_bytes(), np.uint8)


def _load(file: epath.Path) -> Integer[Host, " n"]:
    if _is_local(file):
        return np.load(file, mmap_mode="r")
    with file.open("rb") as opened:
        return np.load(opened)


def _is_local(file: epath.Path) -> bool:
    return "://" not in str(file)


def _hash_sampled(bytes_) -> str:
    """A checksum of the first block, the last one, and some between."""
    digest = hashlib.sha256()
    last = max(len(bytes_) - BLOCK, 0)
    for start in np.linspace(0, last, SAMPLED).astype(np.int64):
        digest.update(bytes_[start : start + BLOCK].tobytes())
    return digest.hexdigest()


def _remove_strangers(folder: epath.Path, num_shards: int) -> None:
    kept = {"metadata.json"}.union(*map(_names, range(num_shards)))
    for file in folder.iterdir():
        if file.name not in kept:
            file.unlink()


def _move(partial: epath.Path, path: epath.Path) -> None:
    """Puts the finished store in place; an old one is removed only afterwards."""
    old = path.parent / f"{path.name}.old"
    if path.exists():
        path.rename(old)
    partial.rename(path)
    if old.exists():
        old.rmtree()
