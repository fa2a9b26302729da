"""Run directories, which contain all that a later stage needs of a run.

    DIR/config.json      the whole TrainConfig
    DIR/checkpoints/     Orbax: state, seconds of training so far, SHA-256 (`checkpoint`)
    DIR/metrics.jsonl    loss and speed while training (`metrics`)
    DIR/records.jsonl    accuracy by length, while training and at the end
    DIR/tensorboard/     the same, for TensorBoard
    DIR/summary.json     written last: the run is finished

A model that is shipped with the code has `models/export.py`'s file instead of checkpoints.
"""

import contextlib
import json
import os
from typing import Any

from etils import epath

from relay_jax import aliases, config_io
from relay_jax.config import ChainsConfig, TrainConfig
from relay_jax.files import is_main_process, read_json, write_json

# Settings of how a run is computed, not of its result: they may change on resumption.
MAY_CHANGE = (
    ("mesh",),
    ("data", "accumulate"),
    ("data", "num_workers"),
    ("model", "remat"),
    ("keep_checkpoints",),
    ("checkpoint_every_seconds",),
    ("allow_fewer",),
)


def open_run(workdir: epath.PathLike, config: TrainConfig | ChainsConfig) -> epath.Path:
    """The run directory, created for this config or opened if it has the same one.

    The settings in `MAY_CHANGE` may differ: a run can be resumed on other devices.

    Raises:
      ValueError: the directory belongs to a run with another config or with a setting
        that has been removed, or it is a file.
    """
    path = epath.Path(workdir)
    if path.exists() and not path.is_dir():
        raise ValueError(f"--workdir {path} is a file; give a directory")
    # Via JSON, as it turns tuples into lists.
    wanted = json.loads(json.dumps(config_io.to_dict(config)))
    if not (path / "config.json").exists():
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "config.json", wanted)
        return path
    found = _read_current(path / "config.json")
    try:  # fields that did not exist then have their default of today
        found = json.loads(json.dumps(config_io.complete(type(config), found)))
    except ValueError:
        pass  # it has unknown fields: the comparison names them
    difference = config_io.differences(_fixed(found), _fixed(wanted))
    if difference:
        raise ValueError(
            f"{path} holds a run of another config: {'; '.join(difference[:3])}. "
            "Give another --workdir, or the config of that run to resume it"
        )
    return path


def read_config(workdir: epath.PathLike) -> TrainConfig:
    """The config of a run directory.

    Raises:
      ValueError: it has none, or one with a setting that is unknown or has been removed.
    """
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        raise ValueError(
            f"{workdir} is not a run directory: it has no config.json; train one with "
            "python -m experiments.train --config=... --workdir=..."
        )
    return config_io.build(TrainConfig, _read_current(path))


def _read_current(file: epath.Path) -> dict[str, Any]:
    """A config.json with the names of this version."""
    try:
        return aliases.upgrade_config(read_json(file))
    except aliases.RemovedSetting as error:
        raise ValueError(f"{file}: {error}") from None


def _fixed(values: dict[str, Any], where: tuple[str, ...] = ()) -> dict:
    """The settings that may not change."""
    return {
        key: _fixed(value, (*where, key)) if isinstance(value, dict) else value
        for key, value in values.items()
        if (*where, key) not in MAY_CHANGE
    }


def checkpoint_steps(workdir: epath.PathLike) -> list[int]:
    """The steps of the finished checkpoints, in order; an empty folder is none."""
    return sorted(int(step.name) for step in _steps(workdir) if any(step.iterdir()))


def remove_empty_steps(workdir: epath.PathLike) -> None:
    """Removes the empty folders of steps, which Orbax would take for checkpoints."""
    for step in _steps(workdir) if is_main_process() else ():
        with contextlib.suppress(OSError):  # it has content, or may not be changed
            os.rmdir(step)


def _steps(workdir: epath.PathLike) -> list[epath.Path]:
    folder = epath.Path(workdir) / "checkpoints"
    steps = folder.iterdir() if folder.is_dir() else ()
    return [step for step in steps if step.name.isdecimal() and step.is_dir()]


def newest_step(workdir: epath.PathLike) -> int | None:
    """The step of the newest finished checkpoint; None without one."""
    return max(checkpoint_steps(workdir), default=None)


def has_checkpoint(workdir: epath.PathLike) -> bool:
    """Whether a run directory contains a finished checkpoint."""
    return newest_step(workdir) is not None


def is_finished(workdir: epath.PathLike) -> bool:
    """Whether a run has its summary, and still the checkpoint that it was written for."""
    final = _summary_step(workdir)
    return final is not None and newest_step(workdir) == final


def check_final_checkpoint(workdir: epath.PathLike) -> None:
    """Checks that a finished run still has its last checkpoint.

    Raises:
      ValueError: it is missing; an older checkpoint must not pass for the final one.
    """
    newest, final = newest_step(workdir), _summary_step(workdir)
    if final is not None and final in checkpoint_steps(workdir) and newest != final:
        raise ValueError(
            f"{workdir} is a finished run of {final} steps, but has a checkpoint of step "
            f"{newest}; remove {epath.Path(workdir) / 'checkpoints' / str(newest)}, which "
            "its summary does not know"
        )
    if final is not None and newest != final:
        rest = "it holds no checkpoint" if newest is None else f"its newest is {newest}"
        raise ValueError(
            f"{workdir} is a finished run, but the checkpoint of step {final} is gone "
            f"({rest}); run its training command again, which makes what is missing"
        )


def _summary_step(workdir: epath.PathLike) -> int | None:
    file = epath.Path(workdir) / "summary.json"
    return read_json(file).get("steps") if file.exists() else None
