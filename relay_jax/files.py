"""Files: JSON, JSON lines, arrays that users bring. Written whole or not at all.

Every file here is written so that it is either the old one or the whole new one; of
several processes (`jax.distributed`) only the first one writes.
"""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from relay_jax.base import Host, Integer

FIELDS = ("run", "task", "model", "length", "seed", "metric", "value", "count")

_REMEDY = "restore it, or make its directory anew"


def is_main_process() -> bool:
    """Whether this process is the one that writes. Alone, it asks for no device."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def make_record(**values: Any) -> dict[str, Any]:
    """A record with the standard fields first; further ones may follow."""
    missing = [field for field in FIELDS if field not in values]
    if missing:
        raise ValueError(f"a record needs {', '.join(missing)}")
    return {field: values.pop(field) for field in FIELDS} | values


def check_seeds(measured: Iterable[tuple[str, str, str, int]]) -> None:
    """Raises ValueError where two places measure a model of one name and seed.

    Tables and figures take all that is told of a model for seeds of it.

    Args:
      measured: place, task, model, seed; each once for every place.
    """
    first: dict[tuple, str] = {}
    for place, task, model, seed in measured:
        key = task, model, seed
        if key in first:
            raise ValueError(
                f"{first[key]} and {place} both measure {model!r} of seed {seed} on "
                f"{task}, which would count as two seeds of it; give one of them, or "
                "runs of other names or seeds"
            )
        first[key] = place


def append_lines(path: epath.PathLike, lines: Iterable[dict[str, Any]]) -> None:
    """Appends JSON lines, making the file if there is none."""
    if not is_main_process():
        return
    path = epath.Path(path)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if "://" in str(path):  # an object in a bucket cannot grow: it is written anew
        held = path.read_bytes() if path.exists() else b""
        write_atomically(path, held + text.encode())
        return
    with path.open("a") as file:
        file.write(text)


def write_lines(path: epath.PathLike, lines: Iterable[dict[str, Any]]) -> None:
    """Writes JSON lines in place of those that were there."""
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def read_lines(path: epath.PathLike) -> Iterator[dict[str, Any]]:
    """Reads JSON lines; a last line that was cut off by a crash is left out.

    Raises:
      ValueError: another line is not JSON.
    """
    lines = epath.Path(path).read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from None


def drop_lines_after(path: epath.PathLike, step: int) -> None:
    """Drops the lines after `step`: a resumed run will write them again."""
    if is_main_process() and epath.Path(path).exists():
        kept = [line for line in read_lines(path) if line["step"] <= step]
        write_lines(path, kept)


def write_atomically(path: epath.PathLike, content: bytes) -> None:
    """Writes a file that is either whole or not there."""
    if not is_main_process():
        return
    path = epath.Path(path)
    unfinished = path.parent / f".{path.name}.unfinished"
    unfinished.write_bytes(content)
    unfinished.replace(path)


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes one JSON value."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: epath.PathLike) -> dict[str, Any]:
    """Reads one JSON object. Raises ValueError where the file is damaged."""
    try:
        value = json.loads(epath.Path(path).read_text())
    except ValueError as error:  # not JSON, or no text at all
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
    RuntimeError,  # a flag or method of compression that zipfile does not know
)


def open_tokens(file: epath.PathLike, remedy: str) -> Integer[Host, " n"]:
    """Memory-maps the token ids of a .npy file.

    Args:
      remedy: what to do where there is no such file, for the message.

    Raises:
      ValueError: it is missing, damaged, or holds something else.
    """
    _check_there(file, remedy)
    try:
        held = np.lib.format.open_memmap(epath.Path(file), mode="r")
    except _UNREADABLE as error:
        raise _damaged(file, "a .npy file of token ids", error) from error
    _check_whole_numbers(held, str(file))
    return held


def read_integer_arrays(
    file: epath.PathLike, names: Sequence[str], remedy: str
) -> list[Integer[Host, " _"]]:
    """Reads arrays of a .npz file by their names.

    Raises:
      ValueError: it is missing, damaged, or lacks such an array.
    """
    arrays = read_arrays(file, names, remedy)
    for name, array in zip(names, arrays):
        _check_whole_numbers(array, f"{file}: {name}")
    return arrays


def read_arrays(file: epath.PathLike, names: Sequence[str], remedy: str) -> list[Host]:
    """Reads arrays of a .npz file by their names, whatever their shapes.

    Raises:
      ValueError: it is missing, damaged, or lacks such an array.
    """
    _check_there(file, remedy)
    wanted = f"a .npz file with the arrays {', '.join(names)}"
    try:
        with epath.Path(file).open("rb") as stream, zipfile.ZipFile(stream) as archive:
            arrays = [_member(archive, name) for name in names]
    except _UNREADABLE as error:
        raise _damaged(file, wanted, error) from error
    return arrays


def _member(archive: zipfile.ZipFile, name: str):
    content = archive.read(f"{name}.npy")  # to its end, where its sum is checked
    return np.lib.format.read_array(io.BytesIO(content))


def _check_there(file: epath.PathLike, remedy: str) -> None:
    if not epath.Path(file).exists():
        raise ValueError(f"{file} does not exist; {remedy}")


def _damaged(file: epath.PathLike, wanted: str, error: Exception) -> ValueError:
    return ValueError(
        f"{file} cannot be read ({error}); expected {wanted}: "
        "it is damaged, or something else"
    )


def _check_whole_numbers(array: Host, where: str) -> None:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{where} must hold whole numbers in one dimension, it holds "
            f"{array.dtype} in {array.ndim}"
        )
