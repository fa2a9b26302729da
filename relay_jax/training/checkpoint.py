"""Checkpoints: saved asynchronously by Orbax and verified by SHA-256 when they are read."""

import contextlib
import functools
import hashlib
import math
import os
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from relay_jax.base import PyTree
from relay_jax.config import TrainConfig
from relay_jax.files import LiteralPath
from relay_jax.models import export
from relay_jax.models.sharding import with_shardings
from relay_jax.training import run_dir
from relay_jax.training.optimizer import trained_params
from relay_jax.training.step import TrainState, init_params, init_state

MAX_HASHED = 2**28  # numbers of the largest state whose SHA-256 is stored


def make_manager(workdir: epath.PathLike, keep: int) -> ocp.CheckpointManager:
    """The asynchronous checkpoint manager of a run directory.

    Args:
      keep: the number of newest checkpoints that are kept.
    """
    run_dir.remove_empty_steps(workdir)
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
    # Orbax finds its files with `glob`, so that the arrays below a[1] would be lost.
    folder = LiteralPath(epath.Path(workdir) / "checkpoints").absolute()
    return ocp.CheckpointManager(folder, options=options)


def check_room(workdir: epath.Path, state: PyTree, keep: int) -> None:
    """Checks that a local disk has room for the remaining checkpoints.

    These are `keep` checkpoints and the one that replaces the oldest, except for those
    that exist already.

    Args:
      state: the shapes of the state.

    Raises:
      ValueError: there is too little room.
    """
    if not os.path.isdir(workdir):  # a bucket, for instance
        return
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
    count = max(keep + 1 - len(run_dir.checkpoint_steps(workdir)), 1)
    free = shutil.disk_usage(workdir).free
    if free < count * size:
        raise ValueError(
            f"{workdir} has {free:,} bytes of free disk, but {count} checkpoints of "
            f"{size:,} bytes are to be written; free some, lower keep_checkpoints "
            f"({keep}), or give another --workdir"
        )


def save(manager: ocp.CheckpointManager, state: TrainState, seconds: float) -> None:
    """Starts saving; returns once the state is copied and hashed.

    A state is not hashed if it is large, or if this host does not see all of it (several
    hosts, with sharded parameters); it is then read without verification. With several
    processes, all of them must call this.

    Args:
      seconds: of training so far.
    """
    progress: dict[str, Any] = {"seconds": seconds}
    if _can_hash(state):
        rest = _hash_rest(state, seconds)
        progress["sha256"] = {"params": hash_params(state.params), "rest": rest}
    manager.save(
        int(state.step),
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state._asdict()),
            progress=ocp.args.JsonSave(progress),
        ),
    )


def restore(
    manager: ocp.CheckpointManager, like: TrainState
) -> tuple[TrainState, float] | None:
    """The newest finished checkpoint and its seconds of training; None without one.

    Args:
      like: the state's shapes, with the shardings to restore it to.

    Raises:
      ValueError: it cannot be read, or has other values than were saved.
    """
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
    found = _read_newest(manager, ocp.args.StandardRestore(shapes))
    if found is None:
        return None
    state, seconds = TrainState(**found["state"]), found["progress"]["seconds"]
    saved = found["progress"].get("sha256")
    if saved and _can_hash(state) and _hash_rest(state, seconds) != saved["rest"]:
        raise _unreadable(manager, "the state has other values than were saved")
    return state, seconds


def save_params(workdir: epath.PathLike, config: TrainConfig, params: PyTree) -> None:
    """Creates a run directory for parameters that were trained elsewhere.

    Raises:
      ValueError: the directory belongs to a run with another config.
    """
    path = run_dir.open_run(workdir, config)
    with make_manager(path, config.keep_checkpoints) as manager:
        state = TrainState(jnp.zeros((), jnp.int32), params, ())
        save(manager, state, seconds=0.0)


def load_params(
    workdir: epath.PathLike, mesh: jax.sharding.Mesh | None = None
) -> tuple[TrainConfig, PyTree]:
    """Config and newest parameters of a run directory.

    For a run that is under way these are what it would end with (`trained_params`).

    Args:
      mesh: the mesh over which they are sharded; by default the first device.

    Raises:
      ValueError: it is not a run directory, has no readable checkpoint, or has lost its
        last one.
    """
    config = run_dir.read_config(workdir)
    run_dir.check_final_checkpoint(workdir)
    like = {"params": with_shardings(jax.eval_shape(lambda: init_params(config)), mesh)}
    if export.is_exported(workdir):
        return config, export.read_params(workdir, like["params"])
    is_under_way = 0 < (run_dir.newest_step(workdir) or 0) < config.num_steps
    if is_under_way and config.optimizer.average_share:
        shapes = jax.eval_shape(lambda: init_state(config, init_params(config)))
        like["opt_state"] = with_shardings(shapes.opt_state, mesh)
    targets = ocp.checkpoint_utils.construct_restore_args(like)
    arguments = ocp.args.PyTreeRestore(like, restore_args=targets, partial_restore=True)
    with make_manager(workdir, config.keep_checkpoints) as manager:
        found = _read_newest(manager, arguments)
    if found is None:
        raise ValueError(
            f"{workdir} holds no checkpoint yet; train it first, with "
            f"python -m experiments.train --workdir={workdir} --config=..."
        )
    state = found["state"]
    return config, trained_params(state["params"], state.get("opt_state", ()))


def _read_newest(manager: ocp.CheckpointManager, state: Any) -> Any:
    """The part of the newest checkpoint that `state`, arguments of Orbax, asks for.

    Returns:
      `{"state": ..., "progress": ...}`; None without a checkpoint.

    Raises:
      ValueError: it cannot be read, or has other parameters than were saved.
    """
    step = run_dir.newest_step(_workdir(manager))
    if step is None:
        return None
    arguments = ocp.args.Composite(state=state, progress=ocp.args.JsonRestore())
    try:
        with _quiet_reads():
            found = manager.restore(step, args=arguments)
        params, saved = found["state"]["params"], found["progress"].get("sha256")
        is_same = not saved or not _can_hash(params)
        is_same = is_same or hash_params(params) == saved["params"]
        found["progress"]["seconds"]  # every version writes them
    except Exception as error:  # Orbax raises many kinds
        why = f"{type(error).__name__}: {str(error)[:200]}"
        raise _unreadable(manager, why) from error
    if not is_same:
        raise _unreadable(manager, "the parameters have other values than were saved")
    return found


@contextlib.contextmanager
def _quiet_reads() -> Iterator[None]:
    """Drops what reads of arrays print that end after another one has failed.

    Orbax has closed its event loop by then; this may be after the block, so the hook
    stays after an error.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook
    yield
    sys.unraisablehook = before


def _unreadable(manager: ocp.CheckpointManager, why: str) -> ValueError:
    step = run_dir.newest_step(_workdir(manager))
    return ValueError(
        f"the checkpoint {epath.Path(manager.directory) / str(step)} cannot be read "
        f"({why}); remove that folder to resume from the one before it"
    )


def _workdir(manager: ocp.CheckpointManager) -> epath.Path:
    return epath.Path(manager.directory).parent


def _can_hash(tree: PyTree) -> bool:
    """Whether this host sees all of every array, and can hash them in about a second."""
    return all(map(_is_visible, jax.tree.leaves(tree))) and _is_small(tree)


def _is_small(tree: PyTree) -> bool:
    return sum(np.size(leaf) for leaf in jax.tree.leaves(tree)) <= MAX_HASHED


def _is_visible(leaf: Any) -> bool:
    is_array = isinstance(leaf, jax.Array)
    return not is_array or leaf.is_fully_addressable or leaf.is_fully_replicated


def _hash_rest(state: TrainState, seconds: float) -> str:
    """SHA-256 of what a checkpoint contains besides the parameters."""
    rest = {"step": state.step, "opt_state": state.opt_state}
    return hash_params(rest | {"seconds": np.float64(seconds)})


def hash_global_params(params: PyTree) -> str | None:
    """`hash_params` of parameters that several processes share; all must call it.

    It is None if they are large and no process sees all of them.
    """
    if all(map(_is_visible, jax.tree.leaves(params))):
        return hash_params(params)
    if not _is_small(params):
        return None
    gather = functools.partial(multihost_utils.process_allgather, tiled=True)
    return hash_params(jax.tree.map(gather, params))


def hash_params(params: PyTree) -> str:
    """SHA-256 of all parameters: their paths, types, shapes and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        name = jax.tree_util.keystr(path)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
