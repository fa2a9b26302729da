"""Corpora for datastores and language models: files, JSON lines, TFDS, token arrays.

Every source is an iterator over documents, which are texts or token ids; it is read
once and never loaded as a whole. For several workers, a corpus is divided into parts,
each of which is a function that returns such an iterator.
"""

import collections
import contextlib
import functools
import glob
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from relay_jax import text_files
from relay_jax.base import Host, Integer
from relay_jax.files import open_tokens
from relay_jax.tokenizers import Tokenizer, load_tokenizer

FILES_PER_PART = 256
EXAMPLES_PER_PART = 8192  # of TFDS
OTHER_FORMATS = b"\x1f\x8b", b"\xff\xfe", b"\xfe\xff"  # gzip, UTF-16: how they begin
BATCH_CHARACTERS = 1 << 18  # that one thread encodes at a time


def find_files(patterns: Iterable[str]) -> list[epath.Path]:
    """The files that match names, folders and patterns such as `src/**/*.py`.

    What exists is a name, whatever its characters: `a[1]` is the folder of that name, and
    `a[1]/*.py` its files, if there is one. A pattern matches files, not folders.

    Raises:
      ValueError: a pattern matches nothing, or is empty.
    """
    found = {}
    for pattern in patterns:
        if not pattern:
            raise ValueError("a name of files is empty; give a file, folder or pattern")
        path = epath.Path(pattern)
        if path.is_dir():
            matched = sorted(_walk(path))
        elif path.exists():
            matched = [path]
        else:
            if os.path.islink(path):
                raise ValueError(f"{pattern!r} is a link to a file that does not exist")
            matched = map(epath.Path, sorted(_glob(path)))
            matched = [path for path in matched if path.is_file()]
        if not matched:
            raise ValueError(f"no file matches {pattern!r}")
        for file in matched:
            found.setdefault(os.path.abspath(file), file)
    return list(found.values())


def _glob(path: epath.Path) -> list[str]:
    """The names that match a pattern, whose first parts are names if they exist."""
    parts, known = path.parts, 0
    while known < len(parts) and os.path.lexists(os.path.join(*parts[: known + 1])):
        known += 1
    names = map(glob.escape, parts[:known])
    return glob.glob(os.path.join(*names, *parts[known:]), recursive=True)


def _walk(folder: epath.Path) -> Iterator[epath.Path]:
    """All files below a folder; links to folders, which could be cyclic, are skipped."""
    for path in folder.iterdir():
        if path.is_dir():
            if not os.path.islink(path):
                yield from _walk(path)
        elif path.is_file():
            yield path
        elif os.path.islink(path):
            logging.warning("%s is a link to nothing and is left out", path)


def read_files(files: Iterable[epath.Path]) -> Iterator[str]:
    """One document per file; what is no text is replaced and reported."""
    with text_files.report_repairs("documents") as repairs:
        for file in files:
            yield text_files.decode_file(file.read_bytes(), repairs, str(file))


def group_files(files: Sequence[epath.Path]) -> list[Sequence[epath.Path]]:
    """The files in parts of `FILES_PER_PART`."""
    size = FILES_PER_PART
    return [files[first : first + size] for first in range(0, len(files), size)]


def read_json_lines(files: Iterable[epath.Path], key: str) -> Iterator[str]:
    """One document per line: its field `key`; see `read_json_fields`."""
    for (text,) in read_json_fields(files, [key]):
        yield text


def read_json_fields(
    files: Iterable[epath.Path], keys: Sequence[str]
) -> Iterator[list[str]]:
    """Text fields of each line. Empty lines are skipped; .gz files are unpacked.

    Raises:
      ValueError: a file is not in the format of its suffix, or a line is not JSON or
        lacks one of the fields.
    """
    for file in files:
        for number, fields in read_json_objects(file):
            missing = [key for key in keys if not isinstance(fields.get(key), str)]
            if missing:
                raise ValueError(
                    f"{file}, line {number} has no text in the field {missing[0]!r}; "
                    f"{explain_missing(fields, missing[0])}"
                )
            yield [fields[key] for key in keys]


def explain_missing(fields: dict[str, Any], key: str) -> str:
    """Why an object has no text in a field: another value, or other fields."""
    if key in fields:
        return f"its value is {json.dumps(fields[key])[:40]}"
    return f"its fields are {', '.join(sorted(fields)) or 'none'}"


def read_json_objects(file: epath.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number and the object of each line.

    Empty lines are skipped; a .gz file is unpacked; what is no text is replaced and
    reported.

    Raises:
      ValueError: the file is not in the format of its suffix, or a line is not a JSON
        object (the last line included: it may have been cut off).
    """
    with text_files.report_repairs(file) as repairs:
        for number, content in enumerate(_lines(file), 1):
            line = text_files.decode(content, repairs, f"in line {number}")
            if not line.strip():
                continue
            try:
                record = text_files.parse_object(line, repairs, f"in line {number}")
            except ValueError as error:
                raise ValueError(f"{file}, line {number}: {error}") from error
            yield number, record


def _lines(file: epath.Path) -> Iterator[bytes]:
    try:
        with contextlib.ExitStack() as stack:
            lines = stack.enter_context(file.open("rb"))
            if file.suffix == ".gz":
                lines = stack.enter_context(gzip.open(lines))
            for number, line in enumerate(lines):
                if not number and line.startswith(OTHER_FORMATS):
                    line.decode()  # raises: it is no text in which bytes are wrong
                yield line
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(
            f"{file} cannot be read ({error}); expected lines of JSON in UTF-8, "
            "compressed by gzip if the name ends with .gz"
        ) from error


def read_tfds(name: str, split: Any, key: str, data_dir: str = "") -> Iterator[str]:
    """One document per example of a TFDS dataset: its feature `key`."""
    with text_files.report_repairs(name) as repairs:
        for number, example in enumerate(_open_tfds(name, split, data_dir)):
            if key not in example:
                raise ValueError(
                    f"{name} has no feature {key!r}, only {', '.join(sorted(example))}; "
                    "choose one with --text_key"
                )
            text, where = example[key], f"in example {number}"
            is_bytes = isinstance(text, bytes)
            yield text_files.decode(text, repairs, where) if is_bytes else str(text)


def split_tfds(name: str, split: str, data_dir: str = "") -> list[Any]:
    """Divides a split of a TFDS dataset into splits that `read_tfds` accepts."""
    import tensorflow_datasets as tfds

    count = len(_open_tfds(name, split, data_dir))
    return tfds.even_splits(split, -(-count // EXAMPLES_PER_PART))


def _open_tfds(name: str, split: Any, data_dir: str) -> Sequence[Any]:
    import tensorflow_datasets as tfds

    try:
        return tfds.data_source(name, split=split, data_dir=data_dir or None)  # pyright: ignore
    except (tfds.core.DatasetNotFoundError, AssertionError) as error:
        raise ValueError(f"the TFDS dataset {name!r} cannot be read: {error}") from None


def read_tokens(file: epath.PathLike, eos_id: int) -> Iterator[Integer[Host, "_"]]:
    """The documents of a token array: each but the last must end with `eos_id`.

    Raises:
      ValueError: it is not a file of integers in one dimension.
    """
    tokens = open_tokens(file, "give a .npy file of token ids")
    step = 1 << 22
    unfinished = []  # pieces of a document that began in an earlier step
    for first in range(0, len(tokens), step):
        piece = np.asarray(tokens[first : first + step])
        start = 0
        for end in np.flatnonzero(piece == eos_id) + 1:
            yield np.concatenate([*unfinished, piece[start:end]])
            unfinished, start = [], end
        unfinished.append(piece[start:])
    if sum(map(len, unfinished)):
        yield np.concatenate(unfinished)


def encode(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[Integer[Host, "_"]]:
    """Yields the token ids of each document, with its end-of-text token."""
    for ids in encode_all(texts, tokenizer):
        yield np.array([*ids, tokenizer.eos_id], np.int32)


def encode_all(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Yields the token ids of each text, in their order, encoded by all cores.

    Threads encode batches of texts ahead of the reader, as many at a time as there are
    cores; a single text is the work of one core. Memory does not grow with the corpus.
    """
    cores = count_cores()
    pending = collections.deque()
    with ThreadPoolExecutor(cores) as pool:
        try:
            for batch in _batches(texts):
                pending.append(pool.submit(tokenizer.encode_batch, batch))
                if len(pending) > 2 * cores:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:  # the reader may stop early, or a text be unreadable
            pool.shutdown(cancel_futures=True)


def count_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: a container may have fewer
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts in lists of `BATCH_CHARACTERS` characters or a few more."""
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def encode_part(
    part: Callable[[], Iterable[str]], tokenizer: str, identity: str
) -> Iterator[Integer[Host, "_"]]:
    """`encode` for a worker, which loads the tokenizer by its name.

    Raises:
      ValueError: the worker finds a different tokenizer under that name.
    """
    return encode(part(), _load(tokenizer, identity))


@functools.lru_cache(maxsize=1)
def _load(name: str, identity: str) -> Tokenizer:
    tokenizer = load_tokenizer(name)
    if tokenizer.identity != identity:
        raise ValueError(
            f"{name} is the tokenizer {tokenizer.identity} on a worker, expected "
            f"{identity}; give a path that is the same file on every machine"
        )
    return tokenizer
