"""The builder of datastores on many machines: the same files as `builder` writes.

    parts     corpus files, or some of them        one worker each: tokens, to a file
              |a a a a|b b|c c c c c|              (streamed: memory does not grow)
    shards    |0 0 0|1 1 1|2 2 2|3 3|              one worker each: reads its tokens,
                                                   sorts, saves and checksums them
    metadata  written here, last, as by `builder`

The cuts between shards follow from how many tokens the parts have, so neither who did
which part nor when makes a difference.
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
    checked,
    finish,
)
from relay_jax.rest.datastore import Datastore, read_pair, token_dtype

Part = Callable[[], Iterable[Integer[Host, "_"]]]  # documents of a piece of the corpus


class Span(NamedTuple):
    """Tokens of one part that lie in one shard."""

    part: int
    start: int
    count: int


def build_from_parts(
    parts: Sequence[Part],
    path: epath.PathLike,
    workers: Workers,
    *,
    tokenizer: str,
    vocab_size: int,
    eos_id: int,
    shard_tokens: int = SHARD_TOKENS,
    overwrite: bool = False,
) -> Datastore:
    """Writes the store that `build_datastore` writes from all documents of the parts.

    Until it is whole, the tokens lie beside it, in `.NAME.parts`. A worker's memory is
    bounded by the size of a shard, as in `build_datastore`.

    Args:
      parts: each is called by one worker; functions of modules, or partials of them.
      path: the directory to be, which all workers see.

    Raises:
      ValueError: as `build_datastore` does; documents are numbered part by part.
    """
    path = epath.Path(path)
    vocab = VocabInfo(tokenizer, vocab_size, eos_id)
    check_build(path, vocab, shard_tokens, overwrite)
    aside = path.parent / f".{path.name}.parts"
    aside.rmtree(missing_ok=True)
    aside.mkdir(parents=True)
    try:
        sizes = run_on_workers(
            partial(_write_part, aside, vocab), enumerate(parts), workers, aside
        )
        shards = cut(sizes, shard_tokens)
        built = run_on_workers(
            partial(_build_shard, aside, path, vocab),
            enumerate(shards),
            workers,
            aside,
        )
    finally:
        aside.rmtree(missing_ok=True)
    return finish(
        path, vocab, [ShardInfo(read_pair(p), *counts) for p, *counts in built]
    )


def cut(sizes: Sequence[int], shard_tokens: int) -> list[list[Span]]:
    """What each shard is made of: parts of 4 and 3 tokens, in shards of 5, give
    [[(0, 0, 4), (1, 0, 1)], [(1, 1, 2)]]."""
    shards: list[list[Span]] = []
    room = 0
    for part, size in enumerate(sizes):
        start = 0
        while start < size:
            if not room:
                shards.append([])
                room = shard_tokens
            count = min(room, size - start)
            shards[-1].append(Span(part, start, count))
            start, room = start + count, room - count
    return shards


def _write_part(aside: epath.Path, vocab: VocabInfo, number: int, part: Part) -> int:
    """How many tokens the part has, which from now on are in a file."""
    dtype, count = token_dtype(vocab.vocab_size), 0
    with (
        atomic_file(_file(aside, number), aside) as file,
        file.open("wb") as stream,
    ):
        for tokens in checked(part(), vocab):
            stream.write(tokens.astype(dtype).tobytes())
            count += len(tokens)
    return count


def _build_shard(
    aside: epath.Path,
    path: epath.Path,
    vocab: VocabInfo,
    number: int,
    spans: list[Span],
) -> tuple[list[dict], int, int]:
    tokens = np.empty(sum(span.count for span in spans), token_dtype(vocab.vocab_size))
    filled = 0
    for part, start, count in spans:
        piece = tokens[filled : filled + count]
        with _file(aside, part).open("rb") as stream:
            stream.seek(start * tokens.itemsize)
            piece[:] = np.frombuffer(stream.read(piece.nbytes), tokens.dtype)
        filled += count
    built = build_shard(path, number, tokens, vocab.eos_id)
    checksums = [checksum._asdict() for checksum in built.checksums]
    return checksums, built.num_tokens, built.num_documents


def _file(aside: epath.Path, part: int) -> epath.Path:
    return aside / f"part-{part:06d}.tokens"
