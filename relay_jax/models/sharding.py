"""The device mesh, and how parameters, batches and datastores are sharded over it.

    data      shards the examples of a batch; every device has all parameters
    fsdp      shards the examples too, and every matrix along the model's width
    tensor    shards heads, the feed-forward layer's width and the vocabulary

Arrays name their axes, and `AXIS_RULES` maps each name to mesh axes. XLA derives the
rest. An array axis whose size the mesh axis does not divide is replicated.

    layers/attention/query/kernel  [l, d, h, e]  "embed", "heads", None
                                                  fsdp     tensor
"""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from relay_jax.base import Array, DecoderBatch, Host, Int, LoopedBatch, PyTree
from relay_jax.config import MeshConfig

AXES = ("data", "fsdp", "tensor")
AXIS_RULES: dict[str | None, tuple[str, ...]] = {
    None: (),
    "batch": ("data", "fsdp"),
    "embed": ("fsdp",),  # of a parameter; an activation's is replicated
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "shards": AXES,
}
# Names of a parameter's last axes, by the end of its path; stacked parameters begin with
# an axis of layers. Parameters that are not listed are replicated. Optimizer moments
# follow their parameters.
PARAM_AXES = {
    "words": ("vocab", "embed"),
    "query/kernel": ("embed", "heads", None),
    "key/kernel": ("embed", "heads", None),
    "value/kernel": ("embed", "heads", None),
    "query/bias": ("heads", None),
    "key/bias": ("heads", None),
    "value/bias": ("heads", None),
    "out/kernel": ("heads", "embed"),
    "up/kernel": ("embed", "mlp"),
    "gate/kernel": ("embed", "mlp"),
    "down/kernel": ("mlp", "embed"),
    "digits": (None, None, "embed"),
    "waves": (None, "embed"),
    "marks": (None, None, "embed"),
    "difference_words": (None, "embed"),
    "round_difference/kernel": ("embed", None),
    "answer_difference/kernel": ("embed", None),
}
ROUNDS_FIRST = ("rounds", "mask")  # fields of a batch whose second axis is the examples


def make_mesh(config: MeshConfig) -> Mesh:
    """The mesh of the first devices, as many as the config asks for.

    Raises:
      ValueError: there are too few devices, or a size is out of range, or several
        processes would leave some devices unused.
    """
    sizes, available = [config.data, config.fsdp, config.tensor], jax.device_count()
    name = f"a mesh of {' x '.join(map(str, sizes))} ({', '.join(AXES)})"
    if min(sizes) < 0 or sizes.count(0) > 1:
        raise ValueError(
            f"{name}: an axis has 1 device or more, or 0 for all that the others leave; "
            "only one of them can be 0"
        )
    requested = math.prod(size or 1 for size in sizes)
    if requested > available or (0 in sizes and available % requested):
        raise ValueError(
            f"{name} does not fit the {available} devices that are available"
        )
    sizes = [size or available // requested for size in sizes]
    count, processes = math.prod(sizes), jax.process_count()
    if processes > 1 and count < available:
        raise ValueError(
            f"{name} leaves out some of the {available} devices of {processes} processes, "
            "each of which must take part; set mesh.data to 0, for all remaining devices"
        )
    devices, kinds = jax.devices()[:count], (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes), AXES, axis_types=kinds, devices=devices)


def local_mesh() -> Mesh:
    """The mesh of this process's first device."""
    return Mesh(np.array(jax.local_devices()[:1]).reshape(1, 1, 1), AXES)


def check_batch(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
    """Checks that a batch, in `accumulate` parts, divides evenly over the mesh.

    Raises:
      ValueError: it does not.
    """
    multiple = accumulate * _num_shards(mesh, "batch")
    if batch_size % multiple:
        parts = f" in {accumulate} parts" if accumulate > 1 else ""
        raise ValueError(
            f"data.batch_size ({batch_size}) does not divide over "
            f"{_num_shards(mesh, 'batch')} devices{parts}; take a multiple of {multiple}, "
            "or set mesh.data, mesh.fsdp or data.accumulate"
        )


def partition_spec(
    names: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh | AbstractMesh
) -> P:
    """The sharding of an array whose last axes have these names; see `AXIS_RULES`."""
    names = (None,) * (len(shape) - len(names)) + names
    axes = [
        AXIS_RULES[name] if name and size % _num_shards(mesh, name) == 0 else None
        for name, size in zip(names, shape, strict=True)
    ]
    return P(*axes)


def _num_shards(mesh: Mesh | AbstractMesh, name: str) -> int:
    """The number of shards of an axis of this name."""
    return math.prod(mesh.shape[axis] for axis in AXIS_RULES[name])


def constrain(x: Array, *names: str | None, like: PyTree = None) -> Array:
    """Constrains an array's sharding inside jit; without names it is replicated.

    Args:
      names: of the array's last axes; see `AXIS_RULES`.
      like: arrays on the mesh, in case `x` is not on it yet. On a single device the
        array is returned as it is.
    """
    meshes = [jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves((x, like))]
    mesh = next((mesh for mesh in meshes if not mesh.empty), None)
    if mesh is None or mesh.size == 1:
        return x
    sharding = NamedSharding(mesh, partition_spec(names, x.shape, mesh))
    return jax.lax.with_sharding_constraint(x, sharding)


def mesh_shape(params: PyTree) -> dict[str, int]:
    """The mesh that parameters are sharded over, `{axis: size}`; {} for one device."""
    sharding = jax.tree.leaves(params)[0].sharding
    is_sharded = isinstance(sharding, NamedSharding) and sharding.mesh.size > 1
    return dict(sharding.mesh.shape) if is_sharded else {}


def named_leaves(params: PyTree) -> dict[str, Any]:
    """The leaves of a parameter tree by their paths, such as `"norm/scale"`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {_path_name(path): leaf for path, leaf in leaves}


def _path_name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def param_shardings(tree: PyTree, mesh: Mesh) -> PyTree:
    """The sharding of each leaf of parameters, or of a state that contains parameters."""

    def sharding(path, leaf):
        ends = _path_name(path).split("/")
        names = PARAM_AXES.get("/".join(ends[-2:])) or PARAM_AXES.get(ends[-1], ())
        return NamedSharding(mesh, partition_spec(names, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def with_shardings(shapes: PyTree, mesh: Mesh | None = None) -> PyTree:
    """Shapes of parameters, with their shardings on the mesh.

    Args:
      mesh: by default this process's first device.
    """
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        param_shardings(shapes, mesh or local_mesh()),
    )


def local_rows(mesh: Mesh, batch_size: int) -> Int[Host, " b"]:
    """The rows of a batch whose examples are on devices of this process."""
    by_batch = NamedSharding(mesh, P(AXIS_RULES["batch"]))
    indices = by_batch.addressable_devices_indices_map((batch_size,)).values()
    rows = np.arange(batch_size)
    return np.unique(np.concatenate([rows[index] for index in indices if index]))


def shard_batch(
    batch: LoopedBatch | DecoderBatch, mesh: Mesh, batch_size: int
) -> LoopedBatch | DecoderBatch:
    """The batch on the devices of the mesh.

    Args:
      batch: the `local_rows` of this process.
      batch_size: rows of the whole batch, over all processes.
    """

    def put(name: str, part: Host) -> Array:
        axis = 1 if name in ROUNDS_FIRST else 0
        shape = (*part.shape[:axis], batch_size, *part.shape[axis + 1 :])
        sharding = NamedSharding(mesh, P(*[None] * axis, AXIS_RULES["batch"]))
        return jax.make_array_from_process_local_data(sharding, part, shape)

    return batch._replace(**{k: put(k, part) for k, part in batch._asdict().items()})
