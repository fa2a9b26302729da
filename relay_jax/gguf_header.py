"""The header of a GGUF file: metadata and the table of tensors, number by number.

    "GGUF", version, number of tensors, number of keys
    key, type, value      for each key; an array is its type, its length, its elements
    name, shape, type, offset     for each tensor

A string is its length and its UTF-8 bytes. `GGUFReader` of the package gguf takes seconds
for the vocabulary of a published model and never ends on some damaged files, so the
header is read here.
"""

import struct
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from relay_jax.base import Host

MAGIC, VERSIONS = b"GGUF", (2, 3)
MAX_AXES = 4
BOOL, STRING, ARRAY = 7, 8, 9
# NumPy's names of the other types of values.
NUMBERS = dict(
    zip(
        [*range(BOOL), 10, 11, 12],
        ["<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<f4", "<u8", "<i8", "<f8"],
    )
) | {BOOL: "?"}
SMALLEST_FIELD, SMALLEST_TENSOR = 8 + 4 + 1, 8 + 4 + 8 + 4 + 8  # bytes


class TensorInfo(NamedTuple):
    """A line of the table of tensors."""

    name: str
    shape: tuple[int, ...]  # the last axis is contiguous, as in NumPy
    kind: int  # the number of its quantization
    offset: int  # in bytes, from the first tensor


class Header:
    """Reads a header from its start, never beyond the end of the file."""

    def __init__(self, path: epath.Path):
        self.path, self.position = path, 0
        is_empty = not path.stat().length  # which cannot be mapped
        self.data = np.zeros(0, "u1") if is_empty else np.memmap(str(path), "u1", "r")

    def read(self) -> tuple[dict[str, Any], list[TensorInfo]]:
        """The metadata and the table of tensors.

        Raises:
          ValueError: the file is cut off, damaged or something else.
        """
        num_tensors, num_fields = self._read_start()
        metadata = {}
        self._check_room(num_fields * SMALLEST_FIELD)
        for _ in range(num_fields):
            (key,) = self._texts(1)
            if key in metadata:
                raise self.damaged(f"it holds the key {key!r:.60} twice")
            metadata[key] = self._value(self._number("<u4"))
        self._check_room(num_tensors * SMALLEST_TENSOR)
        return metadata, [self._tensor_info() for _ in range(num_tensors)]

    def damaged(self, why: str) -> ValueError:
        """The error of a file whose header contradicts itself."""
        return ValueError(f"{self.path} is damaged: {why}; copy it again")

    def cut_off(self, end: int, what: str = "its header") -> ValueError:
        """The error of a file in which something ends after the file does."""
        return ValueError(
            f"{self.path} is cut off: {what} goes on to byte {end:,}, the file ends "
            f"after {len(self.data):,}; copy it again"
        )

    def _read_start(self) -> tuple[int, int]:
        """The numbers of tensors and of keys."""
        start = bytes(self.data[: len(MAGIC)])
        if start != MAGIC:
            raise ValueError(
                f"{self.path} is not a GGUF file: it begins with {start!r}, not {MAGIC!r}"
            )
        self.position = len(MAGIC)
        version = self._number("<u4")
        if version not in VERSIONS:
            is_big = version & 0xFFFF == 0
            found = "big-endian" if is_big else f"of version {version}"
            raise ValueError(
                f"{self.path} is a GGUF file {found}; only little-endian ones of the "
                "versions 2 and 3 can be read: convert the model again"
            )
        return self._number("<u8"), self._number("<u8")

    def _check_room(self, size: int) -> int:
        """The position after the next `size` bytes, which must be in the file."""
        end = self.position + size
        if end > len(self.data):
            raise self.cut_off(end)
        return end

    def _numbers(self, form: str, count: int) -> Host:
        end = self._check_room(count * np.dtype(form).itemsize)
        found = np.asarray(self.data[self.position : end]).view(form)
        self.position = end
        return found

    def _number(self, form: str) -> Any:
        return self._numbers(form, 1)[0].item()

    def _texts(self, count: int) -> list[str]:
        """The next strings; the loop goes over whole vocabularies."""
        self._check_room(count * 8)
        data, unpack = self.data.data, struct.Struct("<Q").unpack_from
        found, position, start = [], self.position, 0
        try:
            for _ in range(count):
                start = position + 8
                position = start + unpack(data, position)[0]
                if position > len(data):
                    raise self.cut_off(position)
                found.append(str(data[start:position], "utf-8"))
        except struct.error:
            raise self.cut_off(start) from None
        except UnicodeDecodeError:
            raise self.damaged(f"its bytes {start} to {position} are no text") from None
        self.position = position
        return found

    def _value(self, kind: int) -> Any:
        """A value of the metadata."""
        if kind == STRING:
            return self._texts(1)[0]
        if kind != ARRAY:
            return self._values(kind, 1)[0].item()
        kind, count = self._number("<u4"), self._number("<u8")
        return self._texts(count) if kind == STRING else self._values(kind, count)

    def _values(self, kind: int, count: int) -> Host:
        if kind not in NUMBERS:
            raise self.damaged(f"its metadata has a value of the unknown type {kind}")
        found = self._numbers(NUMBERS[kind], count)
        if kind == BOOL and (found.view("u1") > 1).any():
            raise self.damaged("a truth value of its metadata is neither 0 nor 1")
        return found

    def _tensor_info(self) -> TensorInfo:
        (name,) = self._texts(1)
        num_axes = self._number("<u4")
        if not 1 <= num_axes <= MAX_AXES:
            raise self.damaged(f"the tensor {name!r:.60} has {num_axes} axes")
        shape = tuple(self._numbers("<u8", num_axes)[::-1].tolist())
        return TensorInfo(name, shape, self._number("<u4"), self._number("<u8"))
