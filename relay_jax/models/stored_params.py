"""A decoder's parameters from the tensors of files, whatever their format.

    ours, [l, ...] over all layers       theirs, one tensor per layer
    layers/attention/query/kernel        e.g. model.layers.7.self_attn.q_proj.weight
                    [l, d, h, e]                                     [h e, d]

Their matrices are transposed, with heads and head width in one axis. Tensors are copied
one by one from their file into the stacked leaf, each device reading the part that it
needs: the host holds one tensor at a time, never the whole model.
"""

import functools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from relay_jax.base import PyTree
from relay_jax.config import ModelConfig
from relay_jax.jax_settings import make_key, standard_settings
from relay_jax.models.decoder import Decoder
from relay_jax.models.sharding import named_leaves, with_shardings


class StoredTensor(NamedTuple):
    """A tensor in a file; its numbers are not read yet."""

    file: epath.Path
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[Any], np.ndarray]  # the part at a tuple of slices


class Leaf(NamedTuple):
    """One parameter of ours, and the tensors that it consists of."""

    path: str
    ours: jax.ShapeDtypeStruct  # with its sharding
    names: list[str]  # one tensor per layer if the parameter is stacked, else one

    @property
    def is_stacked(self) -> bool:
        """Whether the parameter has all layers along its first axis."""
        return self.path.startswith("layers/")

    @property
    def is_transposed(self) -> bool:
        """Whether the tensors have the output axis first, unlike the parameter."""
        return self.path.endswith("/kernel")

    @property
    def their_shape(self) -> tuple[int, ...]:
        """The shape of each tensor."""
        if not self.is_stacked:
            return self.ours.shape
        _, first, *rest = self.ours.shape
        size = math.prod(rest)
        return (size, first) if self.is_transposed else (first * size,)

    @property
    def their_sharding(self) -> NamedSharding:
        """The sharding of a tensor for which no data moves into the leaf's shards."""
        ours = self.ours.sharding
        spec = (*ours.spec, None, None)  # axes that a spec leaves out are replicated
        spec = spec[1:3] if self.is_stacked else spec[:2]
        spec = spec[::-1] if self.is_transposed else spec
        return NamedSharding(ours.mesh, P(*spec[: len(self.their_shape)]))


def make_leaves(
    model: ModelConfig, names: Mapping[str, str], mesh: Mesh | None = None
) -> tuple[list[Leaf], Any]:
    """The decoder's parameters in the order of its tree, and the tree's structure.

    Args:
      names: the names of the tensors by our paths, with {} for the number of the layer.
      mesh: see `sharding.make_mesh`; by default the first device alone.
    """
    shapes, leaves = _param_shapes(model), []
    for path, ours in named_leaves(with_shardings(shapes, mesh)).items():
        name = names[path]
        count = model.num_layers if "{}" in name else 1
        leaves.append(Leaf(path, ours, [name.format(i) for i in range(count)]))
    return leaves, jax.tree.structure(shapes)


@functools.lru_cache(maxsize=4)  # a model is checked, then loaded
@standard_settings()
def _param_shapes(model: ModelConfig) -> PyTree:
    init = functools.partial(Decoder(model).init, make_key(0))
    return jax.eval_shape(init, jax.ShapeDtypeStruct((1, 1), jnp.int32))["params"]


def check_tensors(
    tensors: Mapping[str, StoredTensor],
    leaves: list[Leaf],
    where: epath.Path,
    dtypes: Collection[str],
    is_ignored: Callable[[str], bool],
) -> None:
    """Checks that the tensors are those of the leaves; their numbers are not read.

    Args:
      where: the file or folder, for messages.
      dtypes: the types that can be read.
      is_ignored: whether a tensor may be there though the decoder has no such parameter.

    Raises:
      ValueError: a tensor is missing, unknown, or of another shape or type.
    """
    wanted = {name: leaf for leaf in leaves for name in leaf.names}
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise ValueError(f"{where} has no {missing[0]}, which its config asks for")
    for name, tensor in tensors.items():
        if name not in wanted:
            if is_ignored(name):
                continue
            raise ValueError(
                f"{tensor.file} holds {name}, which is unknown to the decoder"
            )
        if tensor.shape != wanted[name].their_shape:
            raise ValueError(
                f"{name} in {tensor.file} has the shape {tensor.shape}; by its "
                f"config it must be {wanted[name].their_shape}"
            )
        if tensor.dtype not in dtypes:
            raise ValueError(
                f"{name} in {tensor.file} is of type {tensor.dtype}; only "
                f"{', '.join(dtypes)} can be read"
            )


def load_leaf(leaf: Leaf, tensors: Mapping[str, StoredTensor]) -> jax.Array:
    """A parameter of ours, on the devices."""

    def read(name: str) -> jax.Array:
        """A tensor on the devices; each of them reads its shard."""
        tensor = tensors[name]
        return jax.make_array_from_callback(
            leaf.their_shape,
            leaf.their_sharding,
            lambda index: tensor.read(index).astype(leaf.ours.dtype),
        )

    if not leaf.is_stacked:
        return read(leaf.names[0])
    put = _make_put(leaf.is_transposed, leaf.ours.sharding)
    stacked = jnp.zeros(leaf.ours.shape, leaf.ours.dtype, device=leaf.ours.sharding)
    for layer, name in enumerate(leaf.names):
        # Without waiting, all tensors would be in the host's memory at once.
        stacked = jax.block_until_ready(put(stacked, read(name), layer))
    return stacked


def load_params(
    tensors: Mapping[str, StoredTensor], leaves: list[Leaf], structure: Any
) -> PyTree:
    """All parameters, from checked tensors; see `make_leaves`, `check_tensors`."""
    return jax.tree.unflatten(structure, [load_leaf(leaf, tensors) for leaf in leaves])


def to_tensor(array: jax.Array, leaf: Leaf, layer: int) -> np.ndarray:
    """One tensor of theirs from a parameter of ours."""
    part = np.asarray(array[layer] if leaf.is_stacked else array)
    if leaf.is_transposed:
        part = part.reshape(len(part), -1).T
    return np.ascontiguousarray(part.reshape(leaf.their_shape))


@functools.lru_cache(maxsize=32)  # leaves of one shape share what is compiled
def _make_put(is_transposed: bool, sharding: NamedSharding) -> Callable:
    """A function that puts a tensor into its layer of a stacked leaf."""

    def put(stacked, tensor, layer):
        tensor = tensor.T if is_transposed else tensor
        return stacked.at[layer].set(tensor.reshape(stacked.shape[1:]))

    return jax.jit(put, donate_argnums=0, out_shardings=sharding)
