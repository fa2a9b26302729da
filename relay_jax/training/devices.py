"""Data parallelism: every device has the parameters and its own part of each batch."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from relay_jax.arrays import PyTree
from relay_jax.data.align import DecoderBatch, LoopedBatch

BATCH_AXIS = "data"
LOOP_FIRST = ("rounds", "mask")  # their examples are on the second axis


def check_devices(num_devices: int, batch_size: int) -> None:
    """Raises ValueError where there are fewer devices, or a batch does not divide."""
    there = jax.device_count()
    if not 0 <= num_devices <= there:
        raise ValueError(
            f"data.num_devices must be 1..{there} (the devices there are) or 0 for all, "
            f"got {num_devices}"
        )
    wanted = num_devices or there
    if batch_size % wanted:
        raise ValueError(
            f"data.batch_size ({batch_size}) does not divide over {wanted} devices; "
            f"take a multiple of {wanted}, or set data.num_devices"
        )


def make_mesh(num_devices: int) -> Mesh:
    """The first devices in a row; 0: all of them."""
    devices = jax.devices()[: num_devices or jax.device_count()]
    return Mesh(np.array(devices), (BATCH_AXIS,))


def spread(batch: LoopedBatch | DecoderBatch, mesh: Mesh) -> LoopedBatch | DecoderBatch:
    """Puts the examples of a batch on the devices, part by part."""
    along = NamedSharding(mesh, P(BATCH_AXIS))
    across = NamedSharding(mesh, P(None, BATCH_AXIS))
    return batch._replace(
        **{
            name: jax.device_put(part, across if name in LOOP_FIRST else along)
            for name, part in batch._asdict().items()
        }
    )


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Puts a whole tree on every device."""
    return jax.device_put(tree, NamedSharding(mesh, P()))
