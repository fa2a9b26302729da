"""Array files that users bring: .npy and .npz, with errors that name the file."""

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np
from etils import epath

from relay_jax.base import Host, Integer

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


def read_whole_numbers(
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
