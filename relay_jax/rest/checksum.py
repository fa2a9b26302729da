"""Checksums of .npy files: a sample is checked in milliseconds, all bytes on request."""

import hashlib
from typing import NamedTuple

import numpy as np
from etils import epath

from relay_jax.base import Host, Integer

NUM_SAMPLES = 16  # blocks that are always checked
BLOCK_BYTES = 1 << 12


class Checksum(NamedTuple):
    """Size and checksums of a file."""

    name: str
    num_bytes: int
    sampled_sha256: str  # of the first block, the last block and some between
    sha256: str  # of all bytes


def compute_checksum(file: epath.Path) -> Checksum:
    """The checksum of a file, which is read completely."""
    content = _bytes(file)
    sha256 = hashlib.sha256(content.data).hexdigest()
    return Checksum(file.name, len(content), _hash_samples(content), sha256)


def load_checked(
    folder: epath.Path, checksum: Checksum, check_all: bool = False
) -> Integer[Host, " n"]:
    """The array of a .npy file, memory-mapped if the file system allows it.

    The size and a few blocks are compared with the checksum.

    Args:
      check_all: compare all bytes.

    Raises:
      ValueError: the file is missing or its content has changed.
    """
    file = folder / checksum.name
    num_bytes = file.stat().length if file.exists() else 0
    if num_bytes != checksum.num_bytes:
        raise ValueError(
            f"{file} has {num_bytes} bytes, {checksum.num_bytes} were written: "
            "the datastore is damaged; build it again"
        )
    content = _bytes(file)
    is_same = _hash_samples(content) == checksum.sampled_sha256
    if is_same and check_all:
        is_same = hashlib.sha256(content.data).hexdigest() == checksum.sha256
    if not is_same:
        raise ValueError(
            f"{file} has changed since it was written: the datastore is damaged; "
            "build it again"
        )
    if _is_local(file):
        return np.load(file, mmap_mode="r")
    with file.open("rb") as stream:
        return np.load(stream)


def _bytes(file: epath.Path):
    """The bytes of a file, memory-mapped if the file system allows it."""
    if _is_local(file):
        return np.memmap(file, np.uint8, "r")
    return np.frombuffer(file.read_bytes(), np.uint8)


def _is_local(file: epath.Path) -> bool:
    return "://" not in str(file)


def _hash_samples(content) -> str:
    digest = hashlib.sha256()
    last = max(len(content) - BLOCK_BYTES, 0)
    for start in np.linspace(0, last, NUM_SAMPLES).astype(np.int64):
        digest.update(content[start : start + BLOCK_BYTES].tobytes())
    return digest.hexdigest()
