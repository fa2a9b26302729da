"""The mesh: on which devices parameters, batches and datastores lie.

    data      spreads the examples of a batch; parameters are the same all along it
    fsdp      spreads the examples too, and every matrix along the model's width
    tensor    spreads heads, the feed-forward layer's width and the vocabulary

Arrays name their axes, and one table says on what axis of the mesh each name lies. XLA
derives the rest. An axis of an array that the mesh does not divide stays whole.

    layers/attention/query/kernel  [l, d, h, e]  "width", "heads", None
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
    "width": ("fsdp",),  # of a parameter; an activation's stays whole
    "heads": ("tensor",),
    "hidden": ("tensor",),
    "words": ("tensor",),
    "shards": AXES,
}
# The last axes of a parameter, by the end of its path; stacked ones begin with the axis
# of layers. What is not named here lies on every device, as do its optimizer's moments.
PARAMS = {
    "words": ("words", "width"),
    "query/kernel": ("width", "heads", None),
    "key/kernel": ("width", "heads", None),
    "value/kernel": ("width", "heads", None),
    "query/bias": ("heads", None),
    "key/bias": ("heads", None),
    "value/bias": ("heads", None),
    "out/kernel": ("heads", "width"),
    "up/kernel": ("width", "hidden"),
    "gate/kernel": ("width", "hidden"),
    "down/kernel": ("hidden", "width"),
    "digits": (None, None, "width"),
    "waves": (None, "width"),
    "marks": (None, None, "width"),
    "difference_words": (None, "width"),
    "round_difference/kernel": ("width", None),
    "answer_difference/kernel": ("width", None),
}
LOOP_FIRST = ("rounds", "mask")  # parts of a batch whose examples are the second axis


def make_mesh(config: MeshConfig) -> Mesh:
    """The first devices, as many as the axes ask for.

    Raises:
      ValueError: there are fewer, or some of a process's devices are left over.
    """
    sizes, there = [config.data, config.fsdp, config.tensor], jax.device_count()
    told = f"a mesh of {' x '.join(map(str, sizes))} ({', '.join(AXES)})"
    if min(sizes) < 0 or sizes.count(0) > 1:
        raise ValueError(
            f"{told}: an axis has 1 device or more, or 0 for all that the others leave; "
            "only one of them can be 0"
        )
    asked = math.prod(size or 1 for size in sizes)
    if asked > there or (0 in sizes and there % asked):
        raise ValueError(f"{told} does not fit the {there} devices that there are")
    sizes = [size or there // asked for size in sizes]
    count, processes = math.prod(sizes), jax.process_count()
    if processes > 1 and count < there:
        raise ValueError(
            f"{told} leaves out some of the {there} devices of {processes} processes, "
            "each of which must take part; set mesh.data to 0, for all that are left"
        )
    devices, kinds = jax.devices()[:count], (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes), AXES, axis_types=kinds, devices=devices)


def local_mesh() -> Mesh:
    """This process's first device alone."""
    return Mesh(np.array(jax.local_devices()[:1]).reshape(1, 1, 1), AXES)


def check_batch(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
    """Raises ValueError where a batch, or each part of it, does not divide."""
    wanted = accumulate * _size(mesh, "batch")
    if batch_size % wanted:
        parts = f" in {accumulate} parts" if accumulate > 1 else ""
        raise ValueError(
            f"data.batch_size ({batch_size}) does not divide over "
            f"{_size(mesh, 'batch')} devices{parts}; take a multiple of {wanted}, or "
            "set mesh.data, mesh.fsdp or data.accumulate"
        )


def spec(
    names: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh | AbstractMesh
) -> P:
    """Where an array lies whose last axes have these names."""
    names = (None,) * (len(shape) - len(names)) + names
    fits = [
        AXIS_RULES[name] if name and size % _size(mesh, name) == 0 else None
        for name, size in zip(names, shape, strict=True)
    ]
    return P(*fits)


def _size(mesh: Mesh | AbstractMesh, name: str) -> int:
    """Over how many devices an axis of this name is spread."""
    return math.prod(mesh.shape[axis] for axis in AXIS_RULES[name])


def constrain(x: Array, *names: str | None, like: PyTree = None) -> Array:
    """Inside jit: has an array lie as its axes' names say, the last ones; without a
    name it is whole on every device.

    Args:
      like: arrays on the mesh that is meant, should `x` not know of it; where they are
        on a single device, nothing is done.
    """
    found = [jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves((x, like))]
    mesh = next((mesh for mesh in found if not mesh.empty), None)
    if mesh is None or mesh.size == 1:
        return x
    place = NamedSharding(mesh, spec(names, x.shape, mesh))
    return jax.lax.with_sharding_constraint(x, place)


def mesh_shape(params: PyTree) -> dict[str, int]:
    """Over how many devices each axis of the mesh spreads them; {} on a single device."""
    place = jax.tree.leaves(params)[0].sharding
    is_spread = isinstance(place, NamedSharding) and place.mesh.size > 1
    return dict(place.mesh.shape) if is_spread else {}


def named_leaves(params: PyTree) -> dict[str, Any]:
    """The leaves of a parameter tree by their paths, `"norm/scale"`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {_name(path): leaf for path, leaf in leaves}


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def layout(tree: PyTree, mesh: Mesh) -> PyTree:
    """Where each leaf of parameters, or of a state that holds parameters, lies."""

    def place(path, leaf):
        ends = _name(path).split("/")
        names = PARAMS.get("/".join(ends[-2:])) or PARAMS.get(ends[-1], ())
        return NamedSharding(mesh, spec(names, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(place, tree)


def place(shapes: PyTree, mesh: Mesh | None = None) -> PyTree:
    """Shapes, each with where it lies on the mesh; by default this process's first
    device."""
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        shapes,
        layout(shapes, mesh or local_mesh()),
    )


def local_rows(mesh: Mesh, batch_size: int) -> Int[Host, " b"]:
    """The examples of a batch that devices of this process hold."""
    by_batch = NamedSharding(mesh, P(AXIS_RULES["batch"]))
    held = by_batch.addressable_devices_indices_map((batch_size,)).values()
    rows = np.arange(batch_size)
    return np.unique(np.concatenate([rows[index] for index in held if index]))


def spread(
    batch: LoopedBatch | DecoderBatch, mesh: Mesh, batch_size: int
) -> LoopedBatch | DecoderBatch:
    """Puts a batch of `batch_size` on the devices, part by part; a process gives its
    `local_rows`."""

    def put(name: str, part: Host) -> Array:
        axis = 1 if name in LOOP_FIRST else 0
        shape = (*part.shape[:axis], batch_size, *part.shape[axis + 1 :])
        place = NamedSharding(mesh, P(*[None] * axis, AXIS_RULES["batch"]))
        return jax.make_array_from_process_local_data(place, part, shape)

    return batch._replace(**{k: put(k, part) for k, part in batch._asdict().items()})
