"""Run directories: config, checkpoints, summary. A later stage needs only the directory.

DIR/config.json      the whole TrainConfig
DIR/checkpoints/     Orbax, asynchronous: state, the seconds spent so far, SHA-256
DIR/metrics.jsonl    losses and speed while training
DIR/records.jsonl    accuracy by length, while training and at the end
DIR/tensorboard/     the same, for TensorBoard
DIR/summary.json     written last: the run is finished

What is shipped with the code has no checkpoints, but `models/shipped.py`'s file.
"""

import functools
import hashlib
import json
import math
import os
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from relay_jax import aliases, config_io
from relay_jax.base import PyTree
from relay_jax.config import ChainsConfig, TrainConfig
from relay_jax.files import read_json, write_json
from relay_jax.models import export
from relay_jax.models.sharding import with_shardings
from relay_jax.training.optimizer import trained_params
from relay_jax.training.step import TrainState, init_params, init_state

MAX_HASHED = 2**28  # numbers of a state whose SHA-256 is kept
# How a run is computed, not what: these may change from one call to the next.
FREE = (
    ("mesh",),
    ("data", "accumulate"),
    ("data", "num_workers"),
    ("model", "remat"),
    ("keep_checkpoints",),
    ("checkpoint_every_seconds",),
    ("allow_fewer",),
)


def open_run(workdir: epath.PathLike, config: TrainConfig | ChainsConfig) -> epath.Path:
    """Makes the run directory, or opens the one of the same config.

    What `FREE` names may be another: a run goes on on other devices.

    Raises:
      ValueError: the directory belongs to a run with another config, or is a file.
    """
    path = epath.Path(workdir)
    if path.exists() and not path.is_dir():
        raise ValueError(f"--workdir {path} is a file; give a directory")
    wanted = json.loads(json.dumps(config_io.to_dict(config)))  # tuples are lists there
    if (path / "config.json").exists():
        held = aliases.upgrade_config(read_json(path / "config.json"))
        try:  # a field that did not exist yet had what is now its default
            held = json.loads(json.dumps(config_io.complete(type(config), held)))
        except ValueError:
            pass  # it has fields that are gone: the comparison names them
        difference = config_io.differences(_without_free(held), _without_free(wanted))
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
    return config_io.build(TrainConfig, aliases.upgrade_config(read_json(path)))


def _without_free(values: dict[str, Any], where: tuple[str, ...] = ()) -> dict:
    return {
        key: _without_free(value, (*where, key)) if isinstance(value, dict) else value
        for key, value in values.items()
        if (*where, key) not in FREE
    }


def make_manager(workdir: epath.PathLike, keep: int) -> ocp.CheckpointManager:
    """The asynchronous checkpoint manager of a run directory."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
    return ocp.CheckpointManager(
        (epath.Path(workdir) / "checkpoints").absolute(), options=options
    )


def check_room(path: epath.Path, state: PyTree, keep: int) -> None:
    """Raises ValueError where a disk of this machine has no room for the checkpoints
    still to be written: those that are kept and the one that drives one out.

    Args:
      state: its shapes.
    """
    if not os.path.isdir(path):  # in a bucket, say
        return
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
    count = max(keep + 1 - len(_steps(path)), 1)
    free = shutil.disk_usage(path).free
    if free < count * size:
        raise ValueError(
            f"{path} has {free:,} bytes of free disk, but {count} checkpoints of "
            f"{size:,} bytes are to be written; free some, lower keep_checkpoints "
            f"({keep}), or give another --workdir"
        )


def save(manager: ocp.CheckpointManager, state: TrainState, seconds: float) -> None:
    """Starts saving; returns once the state is copied and its SHA-256 are taken.

    These are left out of a state that is large, or that a host does not see as a whole
    (several hosts, with parameters spread over them): reading then checks nothing.
    Of several processes, all must call this.
    """
    progress: dict[str, Any] = {"seconds": seconds}
    if _is_hashed(state):
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
    """The newest finished checkpoint and the seconds spent until then; None if none.

    Raises:
      ValueError: it cannot be read.
    """
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
    found = _read_newest(manager, ocp.args.StandardRestore(shapes))
    if found is None:
        return None
    state, seconds = TrainState(**found["state"]), found["progress"]["seconds"]
    wanted = found["progress"].get("sha256")
    if wanted and _is_hashed(state) and _hash_rest(state, seconds) != wanted["rest"]:
        raise _unreadable(manager, "the state has other values than were saved")
    return state, seconds


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
    """Config and newest parameters of a run directory: of a run that is under way, what
    its training has come to (`trained_params`).

    Args:
      mesh: over which they are spread; by default they lie on the first device.

    Raises:
      ValueError: it is not a run directory, holds no readable checkpoint, or has lost the
        one that its summary is of.
    """
    config = read_config(workdir)
    _check_newest(workdir)
    like = {"params": with_shardings(jax.eval_shape(lambda: init_params(config)), mesh)}
    if export.is_exported(workdir):
        return config, export.read_params(workdir, like["params"])
    is_under_way = 0 < (_newest_step(workdir) or 0) < config.num_steps
    if is_under_way and config.optimizer.average_share:
        begun = jax.eval_shape(lambda: init_state(config, init_params(config)))
        like["opt_state"] = with_shardings(begun.opt_state, mesh)
    wanted = ocp.checkpoint_utils.construct_restore_args(like)
    arguments = ocp.args.PyTreeRestore(like, restore_args=wanted, partial_restore=True)
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
    """What `state`, arguments of Orbax, asks of the newest checkpoint; None if none.

    Raises:
      ValueError: it cannot be read.
    """
    step = manager.latest_step()
    if step is None:
        return None
    arguments = ocp.args.Composite(state=state, progress=ocp.args.JsonRestore())
    try:
        found = manager.restore(step, args=arguments)
        params, wanted = found["state"]["params"], found["progress"].get("sha256")
        same = not wanted or not _is_hashed(params)
        same = same or hash_params(params) == wanted["params"]
        found["progress"]["seconds"]  # of every version
    except Exception as error:  # Orbax raises many kinds
        why = f"{type(error).__name__}: {str(error)[:200]}"
        raise _unreadable(manager, why) from error
    if not same:
        raise _unreadable(manager, "the parameters have other values than were saved")
    return found


def _unreadable(manager: ocp.CheckpointManager, why: str) -> ValueError:
    folder = epath.Path(manager.directory) / str(manager.latest_step())
    return ValueError(
        f"the checkpoint {folder} cannot be read ({why}); remove that folder to go on "
        "from the one before it"
    )


def _is_hashed(tree: PyTree) -> bool:
    """Whether this host sees all of every array, and can hash them in about a second."""
    return all(map(_is_seen, jax.tree.leaves(tree))) and _is_small(tree)


def _is_small(tree: PyTree) -> bool:
    return sum(np.size(leaf) for leaf in jax.tree.leaves(tree)) <= MAX_HASHED


def _is_seen(leaf: Any) -> bool:
    is_array = isinstance(leaf, jax.Array)
    return not is_array or leaf.is_fully_addressable or leaf.is_fully_replicated


def _hash_rest(state: TrainState, seconds: float) -> str:
    """SHA-256 of what a checkpoint holds besides the parameters."""
    rest = {"step": state.step, "opt_state": state.opt_state}
    return hash_params(rest | {"seconds": np.float64(seconds)})


def has_checkpoint(workdir: epath.PathLike) -> bool:
    """Whether a run directory holds a finished checkpoint."""
    return _newest_step(workdir) is not None


def is_finished(workdir: epath.PathLike) -> bool:
    """Whether a run has its summary, and still the checkpoint that it is of."""
    wanted = _summary_step(workdir)
    return wanted is not None and _newest_step(workdir) == wanted


def _steps(workdir: epath.PathLike) -> list[int]:
    """Of the finished checkpoints."""
    folder = epath.Path(workdir) / "checkpoints"
    names = [step.name for step in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def _newest_step(workdir: epath.PathLike) -> int | None:
    return max(_steps(workdir), default=None)


def _summary_step(workdir: epath.PathLike) -> int | None:
    file = epath.Path(workdir) / "summary.json"
    return read_json(file).get("steps") if file.exists() else None


def _check_newest(workdir: epath.PathLike) -> None:
    """An older model must not pass for the one that the summary is of."""
    found, wanted = _newest_step(workdir), _summary_step(workdir)
    if wanted is not None and found != wanted:
        held = "it holds no checkpoint" if found is None else f"its newest is {found}"
        raise ValueError(
            f"{workdir} is a finished run, but the checkpoint of step {wanted} is gone "
            f"({held}); run its training command again, which makes what is missing"
        )


def hash_trained(params: PyTree) -> str | None:
    """`hash_params`, by all of several processes; None of many parameters of which each
    process has some."""
    leaves = jax.tree.leaves(params)
    if all(map(_is_seen, leaves)):
        return hash_params(params)
    if not _is_small(params):
        return None
    gather = functools.partial(multihost_utils.process_allgather, tiled=True)
    return hash_params(jax.tree.map(gather, params))


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
