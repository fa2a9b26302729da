"""The index: the form in which a datastore is searched during decoding.

    Index            on one device, searched inside the jitted loop
    MeshIndex        its shards on the devices of a mesh, each searched on its own
    HostIndex        in its memory-mapped files; every step calls back to the host
    IndexWithRecent  any of these, and the texts that were finished since it was built

The first three give the same matches. Every kind has

    search        the matches of a query in each shard, found by a given function
    signature     what the time of a search depends on
    mesh          the mesh over which it is sharded, or None
    recent        the tokens of recently finished texts, or None
    token_dtype   of the stored tokens
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from relay_jax.base import AnyArray, Array, Host, Int, Integer
from relay_jax.models.sharding import AXIS_RULES
from relay_jax.rest.datastore import Datastore, Shard, read_array

NO_TOKEN = -2  # pads the recent texts: equal to no token


class Matches(NamedTuple):
    """The continuations of the stored texts at positions that match a query."""

    tokens: Int[Array, "*w b r s"]  # `END` after the end of a document
    length: Int[Array, "*w b r"]  # of the match; 0: none


# xp, shard, its number of tokens, query, num_rows, depth, eos_id -> the matches of one
# shard; `xp` is jax.numpy on a device, numpy on the host.
Find = Callable[[Any, Any, Any, Any, int, int, Any], Matches]


class Index(NamedTuple):
    """A datastore on the device; shorter shards are padded."""

    tokens: Integer[Array, "w n"]
    suffix_array: Int[Array, "w n"]
    size: Int[Array, " w"]  # tokens of each shard
    eos_id: Int[Array, ""]

    mesh = None
    recent = None

    @property
    def token_dtype(self) -> np.dtype:
        return self.tokens.dtype

    def search(self, find: Find, query: Array, num_rows: int, depth: int) -> Matches:
        """The matches in each shard, `[w, b, r]`."""

        def search_shard(tokens, suffix_array, size):
            shard = Shard(tokens, suffix_array)
            return find(jax.numpy, shard, size, query, num_rows, depth, self.eos_id)

        return jax.vmap(search_shard)(self.tokens, self.suffix_array, self.size)

    def signature(self) -> dict[str, Any]:
        """What the time of a search depends on."""
        return _signature(self, *self.tokens.shape)


_SHARDED: Any = P(AXIS_RULES["shards"])
_REPLICATED: Any = P()
SPECS = Index(_SHARDED, _SHARDED, _SHARDED, _REPLICATED)  # over the axes of a mesh


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MeshIndex:
    """A datastore on all devices of a mesh, each of which has some of the shards."""

    shards: Index
    mesh: jax.sharding.Mesh = dataclasses.field(metadata={"static": True})
    recent = None

    @property
    def token_dtype(self) -> np.dtype:
        return self.shards.token_dtype

    def search(self, find: Find, query: Array, num_rows: int, depth: int) -> Matches:
        """The matches in each shard, `[w, b, r]`, found by the device that has it."""

        def search_on_device(shards, query):
            found = shards.search(find, query, num_rows, depth)
            return jax.lax.all_gather(found, AXIS_RULES["shards"], tiled=True)

        return jax.shard_map(
            search_on_device,
            mesh=self.mesh,
            in_specs=(SPECS, P()),
            out_specs=P(),
            check_vma=False,
        )(self.shards, query)

    def signature(self) -> dict[str, Any]:
        """What the time of a search depends on."""
        return _signature(self, *self.shards.tokens.shape)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class HostIndex:
    """A datastore that stays on disk. Every step of a decode calls back to the host."""

    store: Datastore
    mesh = None
    recent = None

    @property
    def token_dtype(self) -> np.dtype:
        return self.store.shards[0].tokens.dtype

    def search(self, find: Find, query: Array, num_rows: int, depth: int) -> Matches:
        """The matches in each shard, `[w, b, r]`, found on the host."""
        shards, eos_id = self.store.shards, self.store.eos_id

        def search_on_host(query):
            query = np.asarray(query)
            found = [
                find(np, shard, len(shard.tokens), query, num_rows, depth, eos_id)
                for shard in shards
            ]
            return tuple(np.stack(part).astype(np.int32) for part in zip(*found))

        shape = (len(shards), len(query), num_rows)
        kinds = [jax.ShapeDtypeStruct(s, np.int32) for s in ((*shape, depth), shape)]
        return Matches(*jax.pure_callback(search_on_host, tuple(kinds), query))

    def signature(self) -> dict[str, Any]:
        """What the time of a search depends on."""
        shards = self.store.shards
        return _signature(self, len(shards), max(len(s.tokens) for s in shards))


AnyIndex = Index | MeshIndex | HostIndex


class IndexWithRecent(NamedTuple):
    """A datastore, and the last texts that were finished since it was built.

    They are few and are searched position by position (`datastore_drafter`). From time
    to time `build.extend_datastore` should add them to the store; then reload the
    index.
    """

    store: Any  # an `AnyIndex`
    recent: Int[AnyArray, " n"]  # the latest text last; each with its end-of-text token
    eos_id: Int[AnyArray, ""]

    @property
    def token_dtype(self) -> np.dtype:
        return self.store.token_dtype

    @property
    def mesh(self) -> jax.sharding.Mesh | None:
        return self.store.mesh

    def search(self, find: Find, query: Array, num_rows: int, depth: int) -> Matches:
        """The matches in each shard of the datastore, `[w, b, r]`."""
        return self.store.search(find, query, num_rows, depth)

    def append(self, text: Integer[Host, " n"]) -> "IndexWithRecent":
        """The index with one more finished text; nothing needs to be recompiled."""
        ends = () if len(text) and text[-1] == self.eos_id else (self.eos_id,)
        recent = np.concatenate([self.recent, text, ends])[-len(self.recent) :]
        return self._replace(recent=recent.astype(np.int32))

    def signature(self) -> dict[str, Any]:
        """What the time of a search depends on."""
        return self.store.signature() | {"recent": len(self.recent)}


def add_recent(index: AnyIndex, eos_id: int, room: int) -> IndexWithRecent:
    """An index with room for the last `room` tokens of finished texts, still empty."""
    none = np.full(room, NO_TOKEN, np.int32)
    return IndexWithRecent(index, none, np.array(eos_id, np.int32))


def load_index(
    store: Datastore, mesh: jax.sharding.Mesh | None = None
) -> Index | MeshIndex:
    """Puts a datastore on the device, or its shards on the devices of a mesh.

    It takes six bytes per token, or eight if the vocabulary has 65,536 tokens or more.
    Each device of a mesh receives its shards directly from their files. Every byte is
    checked.

    Raises:
      ValueError: a file's content does not match its checksum.
    """
    sizes = [len(shard.tokens) for shard in store.shards]
    num, widest = len(sizes), max(sizes)
    if mesh is not None:
        num = -(-num // mesh.size) * mesh.size

    def read(name: str, dtype, rows: slice):
        """Some shards' "tokens" or "suffix_array", padded."""
        first, stop, _ = rows.indices(num)
        padded = np.zeros((stop - first, widest), dtype)
        for row, number in zip(padded, range(first, min(stop, len(sizes)))):
            row[: sizes[number]] = read_array(store, number, name)
        return padded

    size = np.array(sizes + [0] * (num - len(sizes)), np.int32)
    eos_id = np.array(store.eos_id, np.int32)
    dtype = store.shards[0].tokens.dtype
    if mesh is None:
        tokens = read("tokens", dtype, slice(None))
        suffix_array = read("suffix_array", np.int32, slice(None))
        arrays = (tokens, suffix_array, size, eos_id)
        return Index(*map(jax.numpy.asarray, arrays))

    def put(spec, shape, read_slice):
        sharding = NamedSharding(mesh, spec)
        return jax.make_array_from_callback(shape, sharding, read_slice)

    shape = (num, widest)
    shards = Index(
        put(SPECS.tokens, shape, lambda at: read("tokens", dtype, at[0])),
        put(
            SPECS.suffix_array,
            shape,
            lambda at: read("suffix_array", np.int32, at[0]),
        ),
        put(SPECS.size, size.shape, size.__getitem__),
        put(SPECS.eos_id, (), eos_id.__getitem__),
    )
    return MeshIndex(shards, mesh)


def signature(index: Any) -> dict[str, Any]:
    """What the time of a search depends on; `index` may be None."""
    return {"kind": "none"} if index is None else index.signature()


def _signature(index: AnyIndex, num_shards: int, widest: int) -> dict[str, Any]:
    return {
        "kind": type(index).__name__,
        "token_bytes": index.token_dtype.itemsize,
        "shards": num_shards,
        "tokens": 1 << (widest - 1).bit_length(),  # of the widest shard, rounded up
        "mesh": index.mesh.size if index.mesh else 1,
    }
