"""Trained parameters as one small file, to be shipped with the code.

    DIR/config.json           the run's whole config
    DIR/params.safetensors    its parameters by their paths, as bfloat16

Such a directory can be read like any run directory (`checkpoint.load_params`).
"""

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from relay_jax.base import PyTree
from relay_jax.files import write_atomically
from relay_jax.models.sharding import named_leaves

FILE = "params.safetensors"


def is_exported(folder: epath.PathLike) -> bool:
    """Whether a directory contains exported parameters."""
    return (epath.Path(folder) / FILE).exists()


def write_params(
    folder: epath.PathLike, params: PyTree, dtype: str = "bfloat16"
) -> None:
    """Writes the parameters; the caller writes the config."""
    leaves = named_leaves(params).items()
    arrays = {name: np.asarray(jnp.asarray(leaf, dtype)) for name, leaf in leaves}
    write_atomically(epath.Path(folder) / FILE, save(arrays))


def read_params(folder: epath.PathLike, like: PyTree) -> PyTree:
    """The parameters, with the types and shardings of `like`.

    Args:
      like: shapes with their shardings; see `sharding.with_shardings`.

    Raises:
      ValueError: the file is damaged, or belongs to another model.
    """
    file = epath.Path(folder) / FILE
    wanted = named_leaves(like)
    try:
        with safe_open(file, "np") as tensors:
            arrays = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged: {error}") from None
    for name in sorted(wanted.keys() | arrays.keys()):
        found_shape = arrays[name].shape if name in arrays else None
        wanted_shape = wanted[name].shape if name in wanted else None
        if found_shape != wanted_shape:
            raise ValueError(
                f"{file}: the parameter {name} has the shape {found_shape}, but the "
                f"config beside it needs {wanted_shape}; take both from one run"
            )
        if not jnp.issubdtype(arrays[name].dtype, jnp.floating):
            raise ValueError(
                f"{file} is damaged: the parameter {name} has the type "
                f"{arrays[name].dtype}; copy it again"
            )
    leaves = [
        jax.device_put(arrays[name].astype(leaf.dtype), leaf.sharding)
        for name, leaf in wanted.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
