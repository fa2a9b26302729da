"""Files: JSON, JSON lines, and arrays that users provide.

Writing is atomic: after a crash a file has either its old content or all of the new one.
With several processes (`jax.distributed`) only the main process writes.
"""

import glob
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from relay_jax import aliases, text_files
from relay_jax.base import Host, Integer

FIELDS = ("run", "task", "model", "length", "seed", "metric", "value", "count")

_REMEDY = "restore it from a copy, or create its directory again"


class LiteralPath(type(epath.Path("."))):
    """A path whose `glob` takes its own name literally: `a[1]` is a folder's name.

    `glob` of other paths reads the whole path as a pattern.
    """

    def glob(self, pattern: str) -> Iterator[epath.Path]:
        literal = epath.Path(glob.escape(str(self)))
        return (type(self)(path) for path in literal.glob(pattern))


def is_main_process() -> bool:
    """Whether this is the process that writes files.

    With a single process this is True; no device is initialized to find out.
    """
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def make_record(**values: Any) -> dict[str, Any]:
    """A record: the standard fields `FIELDS` first, then any others.

    Raises:
      ValueError: a standard field is missing.
    """
    missing = [field for field in FIELDS if field not in values]
    if missing:
        raise ValueError(f"a record needs {', '.join(missing)}")
    return {field: values.pop(field) for field in FIELDS} | values


def check_seeds(runs: Iterable[tuple[str, str, str, int]]) -> None:
    """Checks that no two runs evaluate the same task, model name and seed.

    Tables and figures treat all records of one model name as seeds of that model.

    Args:
      runs: (path, task, model, seed) of each run, once for each of its tasks.

    Raises:
      ValueError: two runs have the same task, model name and seed.
    """
    first: dict[tuple, str] = {}
    for path, task, model, seed in runs:
        key = task, model, seed
        if key in first:
            raise ValueError(
                f"{first[key]} and {path} both evaluate {model!r} with seed {seed} on "
                f"{task}, which would count as two seeds of one model; give one of "
                "them, or runs with different names or seeds"
            )
        first[key] = path


def append_lines(path: epath.PathLike, lines: Iterable[dict[str, Any]]) -> None:
    """Appends JSON lines to a file, which is created if it does not exist."""
    if not is_main_process():
        return
    path = epath.Path(path)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if "://" in str(path):  # an object in a bucket cannot grow: write it again
        content = path.read_bytes() if path.exists() else b""
        write_atomically(path, _whole_lines(content, path) + text.encode())
        return
    if path.exists() and not _ends_with_newline(path):
        write_atomically(path, _whole_lines(path.read_bytes(), path))
    with path.open("a") as file:
        file.write(text)


def _ends_with_newline(path: epath.Path) -> bool:
    """Whether a file does, or is empty; reads its last byte alone."""
    with path.open("rb") as file:
        if not file.seek(0, io.SEEK_END):
            return True
        file.seek(-1, io.SEEK_END)
        return file.read(1) == b"\n"


def _whole_lines(content: bytes, path: epath.Path) -> bytes:
    """JSON lines whose last one has its newline; one that is cut off is left out."""
    start = content.rfind(b"\n") + 1
    if start == len(content):
        return content
    try:
        json.loads(content[start:])
    except ValueError:
        logging.warning("%s: the last line was cut off and is removed", path)
        return content[:start]
    return content + b"\n"


def write_lines(path: epath.PathLike, lines: Iterable[dict[str, Any]]) -> None:
    """Writes JSON lines, replacing the file if it exists."""
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def read_lines(path: epath.PathLike) -> Iterator[dict[str, Any]]:
    """Yields the JSON objects of a file, with the keys and values of this version.

    Empty lines are skipped, and a last line that a crash cut off.

    Raises:
      ValueError: another line is not a JSON object.
    """
    lines = text_files.read_lines(path)
    with text_files.report_repairs(path) as repairs:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = text_files.parse_object(line, repairs, f"in line {number}")
            except ValueError as error:
                if number < len(lines):
                    raise ValueError(f"{path}, line {number}: {error}") from None
                logging.warning("%s: the last line is cut off and left out", path)
                return
            yield aliases.upgrade_record(record)


def drop_lines_after(path: epath.PathLike, step: int) -> None:
    """Removes the lines of steps after `step`, which a resumed run writes again."""
    if is_main_process() and epath.Path(path).exists():
        lines = [line for line in read_lines(path) if line["step"] <= step]
        write_lines(path, lines)


def write_atomically(path: epath.PathLike, content: bytes) -> None:
    """Writes a file next to its destination, then renames it."""
    if not is_main_process():
        return
    path = epath.Path(path)
    unfinished = path.parent / f".{path.name}.unfinished"
    unfinished.write_bytes(content)
    unfinished.replace(path)


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes a JSON value to a file."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: epath.PathLike) -> dict[str, Any]:
    """Reads a file that contains one JSON object.

    Raises:
      ValueError: the file is damaged.
    """
    try:
        value = json.loads(epath.Path(path).read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # not JSON, or not text
        raise ValueError(f"{path} is damaged: {error}; {_REMEDY}") from None
    is_object = isinstance(value, dict)
    if not is_object:
        raise ValueError(
            f"{path} is damaged: expected a JSON object, got {str(value)[:40]!r}; "
            f"{_REMEDY}"
        )
    return value


_UNREADABLE = (
    *(OSError, EOFError, ValueError, KeyError, struct.error),
    *(zipfile.BadZipFile, zlib.error),
    RuntimeError,  # an unknown flag or compression method (zipfile)
)


def open_tokens(file: epath.PathLike, remedy: str) -> Integer[Host, " n"]:
    """Memory-maps the token ids of a .npy file.

    Args:
      remedy: what to do if the file does not exist, for the error message.

    Raises:
      ValueError: the file is missing or damaged, or its content is something else.
    """
    _check_exists(file, remedy)
    try:
        tokens = np.lib.format.open_memmap(epath.Path(file), mode="r")
    except _UNREADABLE as error:
        raise _damaged(file, "a .npy file of token ids", error) from error
    _check_integers(tokens, str(file))
    return tokens


def read_integer_arrays(
    file: epath.PathLike, names: Sequence[str], remedy: str
) -> list[Integer[Host, " _"]]:
    """Reads one-dimensional integer arrays of a .npz file by their names.

    Args:
      remedy: what to do if the file does not exist, for the error message.

    Raises:
      ValueError: the file is missing or damaged, or lacks such an array.
    """
    arrays = read_arrays(file, names, remedy)
    for name, array in zip(names, arrays):
        _check_integers(array, f"{file}: {name}")
    return arrays


def read_arrays(file: epath.PathLike, names: Sequence[str], remedy: str) -> list[Host]:
    """Reads arrays of any shape of a .npz file by their names.

    Args:
      remedy: what to do if the file does not exist, for the error message.

    Raises:
      ValueError: the file is missing or damaged, or lacks such an array.
    """
    _check_exists(file, remedy)
    expected = f"a .npz file with the arrays {', '.join(names)}"
    try:
        with epath.Path(file).open("rb") as stream, zipfile.ZipFile(stream) as archive:
            arrays = [_member(archive, name) for name in names]
    except _UNREADABLE as error:
        raise _damaged(file, expected, error) from error
    return arrays


def _member(archive: zipfile.ZipFile, name: str):
    content = archive.read(f"{name}.npy")  # to the end, where the CRC is checked
    return np.lib.format.read_array(io.BytesIO(content))


def _check_exists(file: epath.PathLike, remedy: str) -> None:
    if not epath.Path(file).exists():
        raise ValueError(f"{file} does not exist; {remedy}")


def _damaged(file: epath.PathLike, expected: str, error: Exception) -> ValueError:
    return ValueError(
        f"{file} cannot be read ({error}); expected {expected}: "
        "the file is damaged or something else"
    )


def _check_integers(array: Host, where: str) -> None:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{where} must be a one-dimensional array of integers, got {array.dtype} "
            f"in {array.ndim} dimensions"
        )
