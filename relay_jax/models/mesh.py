"""Which axis of a parameter lies on which axis of the device mesh, for decoding.

    fsdp      spreads every matrix along the model's width
    tensor    spreads heads, the feed-forward layer's width and the vocabulary

XLA derives from the parameters how activations and cache are spread.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from relay_jax.arrays import PyTree

AXES = ("fsdp", "tensor")

# By the end of a parameter's path; stacked ones begin with the axis of layers. What is
# not named here lies on every device.
RULES = {
    "words/words": P("tensor", "fsdp"),
    "head/words": P("tensor", "fsdp"),
    "query/kernel": P(None, "fsdp", "tensor"),
    "key/kernel": P(None, "fsdp", "tensor"),
    "value/kernel": P(None, "fsdp", "tensor"),
    "query/bias": P(None, "tensor"),
    "key/bias": P(None, "tensor"),
    "value/bias": P(None, "tensor"),
    "out/kernel": P(None, "tensor", "fsdp"),
    "up/kernel": P(None, "fsdp", "tensor"),
    "gate/kernel": P(None, "fsdp", "tensor"),
    "down/kernel": P(None, "tensor", "fsdp"),
}


def make_mesh(fsdp: int = 1, tensor: int = 1) -> Mesh:
    """The first `fsdp * tensor` devices. Raises ValueError where there are fewer."""
    devices = jax.devices()
    if min(fsdp, tensor) < 1 or fsdp * tensor > len(devices):
        raise ValueError(
            f"a mesh of {fsdp} x {tensor} does not fit the {len(devices)} devices here"
        )
    return Mesh(np.array(devices[: fsdp * tensor]).reshape(fsdp, tensor), AXES)


def mesh_shape(params: PyTree) -> dict[str, int]:
    """Over how many devices each axis of the mesh spreads them; {} on a single device."""
    place = jax.tree.leaves(params)[0].sharding
    is_spread = isinstance(place, NamedSharding) and place.mesh.size > 1
    return dict(place.mesh.shape) if is_spread else {}


def param_sharding(path: str, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Where a parameter lies: an axis that the mesh does not divide stays whole.

    Args:
      path: its name, `"layers/attention/query/kernel"`.
    """
    rule = RULES.get("/".join(path.split("/")[-2:]), P())
    fits = [
        axis if axis and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(rule, shape)
    ]
    return NamedSharding(mesh, P(*fits))


def named_leaves(params: PyTree) -> dict[str, Any]:
    """The leaves of a parameter tree by their paths, `"norm/scale"`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {_name(path): leaf for path, leaf in leaves}


def place(shapes: PyTree, mesh: Mesh | None = None) -> PyTree:
    """The shapes of a parameter tree, each with where it lies on the mesh; by default
    on the first device."""
    mesh = mesh or make_mesh()
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=param_sharding(_name(path), x.shape, mesh)
        ),
        shapes,
    )


def _name(path) -> str:
    return "/".join(key.key for key in path)
