"""Chains that a model has written, on disk: one file a length, and a source of them."""

import io

import numpy as np
from etils import epath

from relay_jax import config as configs
from relay_jax import records
from relay_jax.arrays import Host, Int
from relay_jax.config import ChainsConfig
from relay_jax.data.source import Held, concatenate
from relay_jax.tasks import TASKS, Examples, Task


def chain_file(workdir: epath.PathLike, task: Task, length: int) -> epath.Path:
    """Where a chains directory keeps the chains of one length."""
    return epath.Path(workdir) / f"{task.name}_{length:03d}.npz"


def save_chains(
    file: epath.Path, examples: Examples, report: Int[Host, " counts"]
) -> None:
    """Writes the chains of one length, with the counts of what was kept of them."""
    stream = io.BytesIO()
    np.savez_compressed(stream, report=report, **examples._asdict())
    records.write_whole(file, stream.getvalue())


def read_chains(
    workdir: epath.PathLike, task: Task, lengths: tuple[int, int], seed: int
) -> Held:
    """The chains of a write_chains directory, as a source.

    Raises:
      ValueError: it is unfinished, of another task, or lacks one of the lengths.
    """
    path = epath.Path(workdir)
    if not (path / "summary.json").exists():
        raise ValueError(
            f"{path} holds no finished chains; write them with "
            "python -m experiments.write_chains --config=... --workdir=..."
        )
    config = configs.build(ChainsConfig, records.read_json(path / "config.json"))
    written_for = TASKS[config.task](**config.options)
    if written_for != task:
        raise ValueError(f"{path} holds chains of {written_for}, expected {task}")
    parts = []
    for length in range(lengths[0], lengths[1] + 1):
        file = chain_file(path, task, length)
        if not file.exists():
            raise ValueError(
                f"{path} has no chains of length {length}; it has "
                f"{', '.join(config.counts)}"
            )
        with np.load(io.BytesIO(file.read_bytes())) as arrays:
            parts.append(Examples(*(arrays[field] for field in Examples._fields)))
    return Held(concatenate(parts), seed)
