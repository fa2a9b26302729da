"""GGUF files, the format of llama.cpp: a model and its tokenizer in one file.

    header (`gguf_header`) | tensors in the order of its table, each at a multiple of 32

The header is read and checked against the size of the file; tensors are mapped, and
dequantized by the package gguf when they are read. The format has no checksum: changed
numbers of a tensor cannot be noticed.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from relay_jax.base import Float, Host, Integer
from relay_jax.gguf_header import MAGIC, Header, TensorInfo

ALIGNMENT = 32  # bytes, where the metadata names no other


class GGUFTensor(NamedTuple):
    """A tensor in a file; its numbers are not read yet."""

    name: str
    shape: tuple[int, ...]  # the output axis first, as in a Hugging Face folder
    kind: Any  # gguf.GGMLQuantizationType
    rows: Integer[Host, "r _"]  # bytes, still quantized; a vector is one row

    def read(
        self, index: tuple[slice, ...] = (), order: Integer[Host, " r"] | None = None
    ) -> Float[Host, "..."]:
        """The dequantized numbers at an index; other rows and blocks are not read.

        Args:
          order: the tensor's rows in the order in which the index counts them; by
            default that of the file.
        """
        gguf = import_gguf()
        block_size, type_size = gguf.GGML_QUANT_SIZES[self.kind]
        is_vector = len(self.shape) == 1
        index = (slice(None), *index) if is_vector else index
        row, column = (*index, slice(None), slice(None))[:2]
        start, stop, _ = column.indices(self.shape[-1])
        first, last = start // block_size, -(-stop // block_size)
        rows = self.rows[row if order is None else order[row]]
        blocks = rows[:, first * type_size : last * type_size]
        numbers = gguf.dequantize(np.ascontiguousarray(blocks), self.kind)
        numbers = numbers[:, start - first * block_size : stop - first * block_size]
        return numbers[0] if is_vector else numbers


class GGUFFile(NamedTuple):
    """The header of a file, and its tensors.

    The values of the metadata are Python's scalars and strings, lists of strings, and
    NumPy arrays of numbers.
    """

    path: epath.Path
    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of a key; `default` if there is none.

        Raises:
          ValueError: the value is not of the type `kind`.
        """
        value = self.metadata.get(key, default)
        if value is not default and type(value) is not kind:
            raise ValueError(
                f"{self.path}: {key} must be of type {kind.__name__}, got {value!r:.60}"
            )
        return value


def import_gguf() -> Any:
    """The package gguf. Raises ValueError: it is not installed."""
    try:
        import gguf
    except ImportError:
        raise ValueError(
            "GGUF files need the package gguf, which is not installed: pip install gguf"
        ) from None
    return gguf


def is_gguf(path: epath.PathLike) -> bool:
    """Whether a path is meant as a GGUF file: by its name, else by its first bytes."""
    path = epath.Path(path)
    if path.suffix == ".gguf":
        return not path.is_dir()
    if "://" in str(path) or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_gguf(path: epath.PathLike) -> GGUFFile:
    """Reads and checks the header of a GGUF file; tensors are mapped, not read.

    Raises:
      ValueError: it is missing, cut off or damaged; it is one part of several, or of
        another version; a tensor is of a type that the package gguf does not dequantize.
    """
    path = epath.Path(path)
    import_gguf()
    if "://" in str(path) or not path.is_file():
        raise ValueError(f"{path} is not a file on this machine; give a GGUF file")
    header = Header(path)
    metadata, table = header.read()
    if metadata.get("split.count", 1) not in (0, 1):
        raise ValueError(
            f"{path} is one of {metadata['split.count']} parts of a model; join them "
            "first: llama-gguf-split --merge"
        )
    return GGUFFile(path, metadata, _map_tensors(header, table, metadata))


def _map_tensors(
    header: Header, table: list[TensorInfo], metadata: dict[str, Any]
) -> dict[str, GGUFTensor]:
    """The tensors by name; each must begin where the one before it ends."""
    alignment = metadata.get("general.alignment", ALIGNMENT)
    is_whole = type(alignment) is int and alignment > 0
    if not is_whole or alignment & (alignment - 1):
        raise header.damaged(f"its alignment is {alignment!r:.60}, not a power of two")
    first = position = header.position + -header.position % alignment
    tensors = {}
    for name, shape, number, offset in table:
        position += -position % alignment
        kind, row_bytes = _find_row_bytes(header, name, shape, number)
        end = position + math.prod(shape[:-1]) * row_bytes
        if offset != position - first:
            raise header.damaged(
                f"the tensor {name!r:.60} should begin at {position - first}, not {offset}"
            )
        if end > len(header.data):
            raise header.cut_off(end, f"the tensor {name!r:.60}")
        if name in tensors:
            raise header.damaged(f"it holds the tensor {name!r:.60} twice")
        rows = header.data[position:end].reshape(-1, row_bytes)
        tensors[name] = GGUFTensor(name, shape, kind, rows)
        position = end
    return tensors


def _find_row_bytes(
    header: Header, name: str, shape: tuple[int, ...], number: int
) -> tuple[Any, int]:
    """The quantization of a tensor, and the bytes of each of its rows.

    Raises:
      ValueError: it cannot be dequantized, or has no numbers.
    """
    kind = _find_quantization(number)
    if kind is None:
        raise ValueError(
            f"{header.path}: the tensor {name!r:.60} is of type {_type_name(number)}, "
            "which the package gguf cannot dequantize; give a file of another type, such "
            "as Q8_0"
        )
    block_size, type_size = import_gguf().GGML_QUANT_SIZES[kind]
    if shape[-1] % block_size or not math.prod(shape):
        raise header.damaged(
            f"the tensor {name!r:.60} of shape {shape} does not consist of blocks of "
            f"{block_size} numbers, as {kind.name} does"
        )
    return kind, shape[-1] // block_size * type_size


@functools.cache
def _find_quantization(number: int) -> Any:
    """The quantization with a number, or None if it cannot be dequantized."""
    gguf = import_gguf()
    try:
        kind = gguf.GGMLQuantizationType(number)
        type_size = gguf.GGML_QUANT_SIZES[kind][1]
        gguf.dequantize(np.zeros((1, type_size), np.uint8), kind)
    except (KeyError, NotImplementedError, ValueError):
        return None
    return kind


def _type_name(number: int) -> str:
    names = {kind.value: kind.name for kind in import_gguf().GGMLQuantizationType}
    return names.get(number, str(number))
