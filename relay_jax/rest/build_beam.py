"""Building datastores on many machines with Apache Beam; the files are those of `build`.

    partitions  corpus files, or some of them      a worker tokenizes each to a file
                |a a a a|b b|c c c c c|            (streamed: memory does not grow)
    shards      |0 0 0|1 1 1|2 2 2|3 3|            a worker reads the tokens of each,
                                                   sorts and saves them
    metadata    written here, last, as in `build`

The boundaries between shards depend on the numbers of tokens alone, so the result does
not depend on which worker processes what, or when.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from etils import epath

from relay_jax.base import Host, Integer
from relay_jax.beam import Workers, atomic_file, run_on_workers
from relay_jax.rest.build import (
    SHARD_TOKENS,
    ShardInfo,
    VocabInfo,
    build_shard,
    check_build,
    checked_documents,
    finish_datastore,
)
from relay_jax.rest.datastore import Datastore, parse_checksums, token_dtype

Partition = Callable[[], Iterable[Integer[Host, "_"]]]  # returns its documents


class Span(NamedTuple):
    """The tokens of one partition that belong to one shard."""

    partition: int
    start: int
    count: int


def build_datastore_beam(
    partitions: Sequence[Partition],
    path: epath.PathLike,
    workers: Workers,
    *,
    tokenizer: str,
    vocab_size: int,
    eos_id: int,
    shard_tokens: int = SHARD_TOKENS,
    overwrite: bool = False,
) -> Datastore:
    """Builds the datastore of all partitions' documents, as `build_datastore` does.

    Until it is complete, the tokens are in `.NAME.parts` next to it. A worker's memory
    is bounded by the size of a shard. Other arguments are those of `build_datastore`.

    Args:
      partitions: each is called by one worker; functions of modules, or `partial`s of
        them.
      path: the directory, in a file system that all workers share.

    Raises:
      ValueError: as `build_datastore` does; documents are numbered within a partition.
    """
    path = epath.Path(path)
    vocab = VocabInfo(tokenizer, vocab_size, eos_id)
    check_build(path, vocab, shard_tokens, overwrite)
    scratch = path.parent / f".{path.name}.parts"
    scratch.rmtree(missing_ok=True)
    scratch.mkdir(parents=True)
    try:
        sizes = run_on_workers(
            partial(_write_tokens, scratch, vocab),
            enumerate(partitions),
            workers,
            scratch,
        )
        shards = split_shards(sizes, shard_tokens)
        built = run_on_workers(
            partial(_build_shard, scratch, path, vocab),
            enumerate(shards),
            workers,
            scratch,
        )
    finally:
        scratch.rmtree(missing_ok=True)
    infos = [
        ShardInfo(parse_checksums(checksums), *counts) for checksums, *counts in built
    ]
    return finish_datastore(path, vocab, infos)


def split_shards(sizes: Sequence[int], shard_tokens: int) -> list[list[Span]]:
    """The spans that each shard consists of.

    Partitions of 4 and 3 tokens in shards of 5 give
    [[(0, 0, 4), (1, 0, 1)], [(1, 1, 2)]].

    Args:
      sizes: the number of tokens of each partition.
    """
    shards: list[list[Span]] = []
    missing = 0
    for partition, size in enumerate(sizes):
        start = 0
        while start < size:
            if not missing:
                shards.append([])
                missing = shard_tokens
            count = min(missing, size - start)
            shards[-1].append(Span(partition, start, count))
            start, missing = start + count, missing - count
    return shards


def _write_tokens(
    scratch: epath.Path, vocab: VocabInfo, number: int, partition: Partition
) -> int:
    """Writes the tokens of a partition to a file and returns their number."""
    dtype, count = token_dtype(vocab.vocab_size), 0
    with (
        atomic_file(_file(scratch, number), scratch) as file,
        file.open("wb") as stream,
    ):
        for tokens in checked_documents(partition(), vocab):
            stream.write(tokens.astype(dtype).tobytes())
            count += len(tokens)
    return count


def _build_shard(
    scratch: epath.Path,
    path: epath.Path,
    vocab: VocabInfo,
    number: int,
    spans: list[Span],
) -> tuple[dict, int, int]:
    """Builds one shard and returns the fields of its `ShardInfo` as JSON values."""
    tokens = np.empty(sum(span.count for span in spans), token_dtype(vocab.vocab_size))
    end = 0
    for partition, start, count in spans:
        piece = tokens[end : end + count]
        with _file(scratch, partition).open("rb") as stream:
            stream.seek(start * tokens.itemsize)
            piece[:] = np.frombuffer(stream.read(piece.nbytes), tokens.dtype)
        end += count
    info = build_shard(path, number, tokens, vocab.eos_id)
    return info.checksums.to_json(), info.num_tokens, info.num_documents


def _file(scratch: epath.Path, partition: int) -> epath.Path:
    return scratch / f"partition-{partition:06d}.tokens"
