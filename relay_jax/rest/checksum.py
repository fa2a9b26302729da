"""A checksum: what the bytes of a file must be, checked in a blink or to the last byte."""

import hashlib
from typing import NamedTuple

import numpy as np
from etils import epath

from relay_jax.base import Host, Integer

SAMPLED = 16  # blocks that are always checked
BLOCK = 1 << 12


class Checksum(NamedTuple):
    """Size and checksums of a file."""

    name: str
    size: int  # bytes
    sampled: str  # of the first block, the last one, and some between
    sha256: str  # of all


def make_checksum(file: epath.Path) -> Checksum:
    """Reads the whole file."""
    content = _bytes(file)
    whole = hashlib.sha256(content.data).hexdigest()
    return Checksum(file.name, len(content), _hash_sampled(content), whole)


def load_checked(
    folder: epath.Path, checksum: Checksum, whole: bool = False
) -> Integer[Host, " n"]:
    """The array of a sealed .npy file, memory-mapped where the file system can.

    Size and a few blocks are checked; every byte if `whole`.

    Raises:
      ValueError: the file is missing, or not what was written.
    """
    file = folder / checksum.name
    size = file.stat().length if file.exists() else 0
    if size != checksum.size:
        raise ValueError(
            f"{file} has {size} bytes, {checksum.size} were written: "
            "the store is damaged; build it anew"
        )
    content = _bytes(file)
    same = _hash_sampled(content) == checksum.sampled
    if same and whole:
        same = hashlib.sha256(content.data).hexdigest() == checksum.sha256
    if not same:
        raise ValueError(
            f"{file} is not what was written: the store is damaged; build it anew"
        )
    if _is_local(file):
        return np.load(file, mmap_mode="r")
    with file.open("rb") as opened:
        return np.load(opened)


def _bytes(file: epath.Path):
    """A file's bytes, mapped where the file system can."""
    if _is_local(file):
        return np.memmap(file, np.uint8, "r")
    return np.frombuffer(file.read_bytes(), np.uint8)


def _is_local(file: epath.Path) -> bool:
    return "://" not in str(file)


def _hash_sampled(content) -> str:
    digest = hashlib.sha256()
    last = max(len(content) - BLOCK, 0)
    for start in np.linspace(0, last, SAMPLED).astype(np.int64):
        digest.update(content[start : start + BLOCK].tobytes())
    return digest.hexdigest()
