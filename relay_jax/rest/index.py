"""The index: where a datastore lies while texts are drafted from it.

    Index       on one device, searched inside the jitted loop
    MeshIndex   its shards on the devices of a mesh, each searched where it lies
    HostIndex   in its memory-mapped files; every step calls back to the host
    IndexWithRecent   any of these, and the texts that were finished since

`retrieve` finds the same in the first three.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from relay_jax.base import AnyArray, Array, Host, Int, Integer, PyTree
from relay_jax.models.sharding import AXIS_RULES, param_shardings
from relay_jax.rest.datastore import Datastore, read_array

NOTHING = -2  # stands where no text is: equal to no token


class Index(NamedTuple):
    """A datastore on the device; shorter shards are filled up."""

    tokens: Integer[Array, "w n"]
    suffix_array: Int[Array, "w n"]
    size: Int[Array, " w"]  # tokens of each shard
    eos_id: Int[Array, ""]

    @property
    def token_dtype(self) -> np.dtype:
        return self.tokens.dtype


_BY_SHARD: Any = P(AXIS_RULES["shards"])
_WHOLE: Any = P()
SPREAD = Index(_BY_SHARD, _BY_SHARD, _BY_SHARD, _WHOLE)  # how it lies on a mesh


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MeshIndex:
    """A datastore over all devices of a mesh: each has some of the shards."""

    parts: Any  # an `Index`
    mesh: jax.sharding.Mesh = dataclasses.field(metadata={"static": True})

    @property
    def token_dtype(self) -> np.dtype:
        return self.parts.token_dtype


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class HostIndex:
    """A datastore that stays on disk. Every step of a decode calls back to the host."""

    store: Datastore

    @property
    def token_dtype(self) -> np.dtype:
        return self.store.shards[0].tokens.dtype


AnyIndex = Index | MeshIndex | HostIndex


class IndexWithRecent(NamedTuple):
    """A datastore, and the last texts that were finished since it was built.

    These are few: their places are looked through one by one (`drafters`). Now and then
    `builder.extend_datastore` adds them to the store, and the index is loaded anew.
    """

    store: Any  # an `AnyIndex`
    recent: Int[AnyArray, " n"]  # the last at the end, each with its end of text
    eos_id: Int[AnyArray, ""]

    @property
    def token_dtype(self) -> np.dtype:
        return self.store.token_dtype


def add_recent(index: AnyIndex, eos_id: int, room: int) -> IndexWithRecent:
    """With room for `room` tokens of finished texts; of more, the last ones stay."""
    none = np.full(room, NOTHING, np.int32)
    return IndexWithRecent(index, none, np.array(eos_id, np.int32))


def append_recent(live: IndexWithRecent, text: Integer[Host, " n"]) -> IndexWithRecent:
    """The index that knows a finished text too. What is compiled for the one serves the
    other."""
    ends = () if len(text) and text[-1] == live.eos_id else (live.eos_id,)
    recent = np.concatenate([live.recent, text, ends])[-len(live.recent) :]
    return live._replace(recent=recent.astype(np.int32))


def load_index(
    store: Datastore, mesh: jax.sharding.Mesh | None = None
) -> Index | MeshIndex:
    """Puts a store on the device, or its shards on the devices of a mesh.

    Six bytes a token, eight where the vocabulary has 65,536 words or more. A device of
    a mesh is given its own shards straight from their files. Every byte is checked.

    Raises:
      ValueError: a file of the store is not what was written.
    """
    sizes = [len(shard.tokens) for shard in store.shards]
    num, widest = len(sizes), max(sizes)
    if mesh is not None:
        num = -(-num // mesh.size) * mesh.size

    def rows(name: str, dtype, where: slice):
        """Some rows of all shards' "tokens" or "suffix_array", filled up."""
        first, stop, _ = where.indices(num)
        held = np.zeros((stop - first, widest), dtype)
        for row, number in zip(held, range(first, min(stop, len(sizes)))):
            row[: sizes[number]] = read_array(store, number, name)
        return held

    size = np.array(sizes + [0] * (num - len(sizes)), np.int32)
    eos_id = np.array(store.eos_id, np.int32)
    dtype = store.shards[0].tokens.dtype
    if mesh is None:
        whole = (
            rows("tokens", dtype, slice(None)),
            rows("suffix_array", np.int32, slice(None)),
        )
        return Index(*map(jax.numpy.asarray, (*whole, size, eos_id)))

    def spread(spec, shape, read):
        place = NamedSharding(mesh, spec)
        return jax.make_array_from_callback(shape, place, read)

    parts = Index(
        spread(SPREAD.tokens, (num, widest), lambda at: rows("tokens", dtype, at[0])),
        spread(
            SPREAD.suffix_array,
            (num, widest),
            lambda at: rows("suffix_array", np.int32, at[0]),
        ),
        spread(SPREAD.size, size.shape, size.__getitem__),
        spread(SPREAD.eos_id, (), eos_id.__getitem__),
    )
    return MeshIndex(parts, mesh)


def describe(index: Any) -> dict[str, Any]:
    """What the time of a search depends on: tokens a shard as a power of two."""
    if isinstance(index, IndexWithRecent):
        return describe(index.store) | {"recent": len(index.recent)}
    if isinstance(index, HostIndex):
        shards = index.store.shards
        count, widest = len(shards), max(len(shard.tokens) for shard in shards)
    elif index is not None:
        parts = index.parts if isinstance(index, MeshIndex) else index
        count, widest = parts.tokens.shape
    else:
        return {"kind": "none"}
    return {
        "kind": type(index).__name__,
        "token_bytes": index.token_dtype.itemsize,
        "shards": count,
        "tokens": 1 << (widest - 1).bit_length(),
        "mesh": index.mesh.size if isinstance(index, MeshIndex) else 1,
    }


def shard_like(params: PyTree, index: Any) -> PyTree:
    """Parameters on the mesh where the index lies, if it has one."""
    if isinstance(index, IndexWithRecent):
        index = index.store
    if not isinstance(index, MeshIndex):
        return params
    return jax.device_put(params, param_shardings(params, index.mesh))
