"""The flag of every script that loads a decoder: over which devices it is spread."""

import jax
from absl import flags
from jax.sharding import Mesh

from experiments import command
from relay_jax.config import MeshConfig
from relay_jax.models.sharding import make_mesh

MESH = flags.DEFINE_string(
    "mesh", "1,1", "Over how many devices the model is spread: fsdp,tensor."
)


def mesh(everywhere: bool = False) -> Mesh:
    """The mesh of --mesh; with `everywhere`, and where there are several processes, all
    devices take part: those that are left lie along `data`.

    Raises:
      ValueError: it does not fit the devices.
    """
    everywhere |= jax.process_count() > 1
    fsdp, tensor = command.whole_numbers("mesh", MESH.value, 2)
    if min(fsdp, tensor) < 1:
        raise ValueError(
            f"--mesh must be 1 or more along each axis, got {MESH.value!r}"
        )
    return make_mesh(MeshConfig(0 if everywhere else 1, fsdp, tensor))
