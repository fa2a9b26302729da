"""Run directories: config, checkpoints, summary. A later stage needs only the directory.

DIR/config.json      the whole TrainConfig
DIR/checkpoints/     Orbax, asynchronous: state, and the seconds spent so far
DIR/metrics.jsonl    losses and speed while training
DIR/records.jsonl    accuracy by length, while training and at the end
DIR/tensorboard/     the same, for TensorBoard
DIR/summary.json     written last: the run is finished
"""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from relay_jax import config as configs
from relay_jax.arrays import PyTree
from relay_jax.config import ChainsConfig, TrainConfig
from relay_jax.models.mesh import place
from relay_jax.records import read_json, write_json
from relay_jax.training.step import TrainState, init_params


def open_run(workdir: epath.PathLike, config: TrainConfig | ChainsConfig) -> epath.Path:
    """Makes the run directory, or opens the one of the very same config.

    Raises:
      ValueError: the directory belongs to a run with another config, or is a file.
    """
    path = epath.Path(workdir)
    if path.exists() and not path.is_dir():
        raise ValueError(f"--workdir {path} is a file; give a directory")
    wanted = json.loads(json.dumps(configs.to_dict(config)))  # tuples are lists there
    if (path / "config.json").exists():
        held = read_json(path / "config.json")
        try:  # a field that did not exist yet had what is now its default
            held = json.loads(json.dumps(configs.complete(type(config), held)))
        except ValueError:
            pass  # it has fields that are gone: the comparison names them
        difference = _differences(held, wanted)
        if difference:
            raise ValueError(
                f"{path} holds a run of another config: {'; '.join(difference[:3])}. "
                "Give another --workdir, or the config of that run to go on with it"
            )
        return path
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "config.json", wanted)
    return path


def read_config(workdir: epath.PathLike) -> TrainConfig:
    """The config of a run directory. Raises ValueError where there is none."""
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        raise ValueError(
            f"{workdir} is not a run directory: it has no config.json; train one with "
            "python -m experiments.train --config=... --workdir=..."
        )
    return configs.build(TrainConfig, read_json(path))


def make_manager(workdir: epath.PathLike, keep: int) -> ocp.CheckpointManager:
    """The asynchronous checkpoint manager of a run directory."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
    return ocp.CheckpointManager(
        (epath.Path(workdir) / "checkpoints").absolute(), options=options
    )


def save(manager: ocp.CheckpointManager, state: TrainState, seconds: float) -> None:
    """Starts saving; returns at once."""
    manager.save(
        int(state.step),
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state._asdict()),
            progress=ocp.args.JsonSave({"seconds": seconds}),
        ),
    )


def restore(
    manager: ocp.CheckpointManager, like: TrainState
) -> tuple[TrainState, float] | None:
    """The newest finished checkpoint and the seconds spent until then; None if none.

    Raises:
      ValueError: it cannot be read.
    """
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
    found = _read_newest(manager, ocp.args.StandardRestore(shapes))
    if found is None:
        return None
    return TrainState(**found["state"]), found["progress"]["seconds"]


def save_params(workdir: epath.PathLike, config: TrainConfig, params: PyTree) -> None:
    """Makes a run directory of parameters that were trained elsewhere.

    Raises:
      ValueError: the directory belongs to a run with another config.
    """
    path = open_run(workdir, config)
    with make_manager(path, config.keep_checkpoints) as manager:
        state = TrainState(jnp.zeros((), jnp.int32), params, ())
        save(manager, state, seconds=0.0)


def load_params(
    workdir: epath.PathLike, mesh: jax.sharding.Mesh | None = None
) -> tuple[TrainConfig, PyTree]:
    """Config and newest parameters of a run directory.

    Args:
      mesh: over which a decoder is spread; by default it lies on the first device.

    Raises:
      ValueError: it is not a run directory, or holds no readable checkpoint.
    """
    config = read_config(workdir)
    like = {"params": place(jax.eval_shape(lambda: init_params(config)), mesh)}
    wanted = ocp.checkpoint_utils.construct_restore_args(like)
    arguments = ocp.args.PyTreeRestore(like, restore_args=wanted, partial_restore=True)
    with make_manager(workdir, config.keep_checkpoints) as manager:
        found = _read_newest(manager, arguments)
    if found is None:
        raise ValueError(
            f"{workdir} holds no checkpoint yet; train it first, with "
            f"python -m experiments.train --workdir={workdir} --config=..."
        )
    return config, found["state"]["params"]


def _read_newest(manager: ocp.CheckpointManager, state: Any) -> Any:
    """What `state`, arguments of Orbax, asks of the newest checkpoint; None if none.

    Raises:
      ValueError: it cannot be read.
    """
    step = manager.latest_step()
    if step is None:
        return None
    arguments = ocp.args.Composite(state=state, progress=ocp.args.JsonRestore())
    try:
        return manager.restore(step, args=arguments)
    except Exception as error:  # Orbax raises many kinds
        folder = epath.Path(manager.directory) / str(step)
        raise ValueError(
            f"the checkpoint {folder} cannot be read ({type(error).__name__}: "
            f"{str(error)[:200]}); remove that folder to go on from the one before it"
        ) from error


def has_checkpoint(workdir: epath.PathLike) -> bool:
    """Whether a run directory holds a finished checkpoint."""
    folder = epath.Path(workdir) / "checkpoints"
    return folder.is_dir() and any(step.name.isdigit() for step in folder.iterdir())


def hash_params(params: PyTree) -> str:
    """SHA-256 of all parameters: their paths, shapes and bytes."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for path, leaf in leaves:
        array = np.asarray(leaf)
        digest.update(
            f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode()
        )
        digest.update(array.tobytes())
    return digest.hexdigest()


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(old.keys() | new.keys()):
            inner = f"{where}.{key}" if where else key
            found += _differences(old.get(key), new.get(key), inner)
        return found
    return [] if old == new else [f"{where} is {old!r} there and {new!r} here"]
