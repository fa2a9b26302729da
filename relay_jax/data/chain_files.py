"""Chains that a model has written, on disk: one file a length, and a source of them."""

import io
from collections.abc import Sequence

import numpy as np
from etils import epath

from relay_jax import config_io, files
from relay_jax.base import Examples, Host, Int
from relay_jax.config import ChainsConfig
from relay_jax.data.sources import InMemorySource, concatenate
from relay_jax.files import read_arrays
from relay_jax.tasks import TASKS, Task

REMEDY = (
    "remove it and the summary.json beside it, and write the chains again with the "
    "command that wrote them (python -m experiments.write_chains): it goes on there"
)


def chain_file(workdir: epath.PathLike, task: Task, length: int) -> epath.Path:
    """Where a chains directory keeps the chains of one length."""
    return epath.Path(workdir) / f"{task.name}_{length:03d}.npz"


def save_chains(
    file: epath.Path, examples: Examples, report: Int[Host, " counts"]
) -> None:
    """Writes the chains of one length, with the counts of what was kept of them."""
    stream = io.BytesIO()
    np.savez_compressed(stream, report=report, **examples._asdict())
    files.write_atomically(file, stream.getvalue())


def read_chains(
    workdir: epath.PathLike, task: Task, lengths: tuple[int, int], seed: int
) -> InMemorySource:
    """The chains of a write_chains directory, as a source.

    Raises:
      ValueError: it is unfinished, damaged, of another task, or lacks one of the lengths.
    """
    path = epath.Path(workdir)
    if not (path / "summary.json").exists():
        raise ValueError(
            f"{path} holds no finished chains; write them with "
            "python -m experiments.write_chains --config=... --workdir=..."
        )
    config = config_io.build(ChainsConfig, files.read_json(path / "config.json"))
    written_for = TASKS[config.task](**config.options)
    if written_for != task:
        raise ValueError(f"{path} holds chains of {written_for}, expected {task}")
    parts, wanted = [], 0
    for length in range(lengths[0], lengths[1] + 1):
        file = chain_file(path, task, length)
        if not file.exists():
            raise ValueError(
                f"{path} has no chains of length {length}; it has "
                f"{', '.join(config.counts)}"
            )
        parts.append(read_examples(file))
        wanted += config.counts[str(length)]
    return InMemorySource(concatenate(parts), seed, wanted)


def are_rounds(examples: Examples) -> bool:
    """Whether chains are told round by round: a decoder's are in one piece."""
    return examples.rounds.shape[1] >= int(examples.num_rounds.max())


def read_report(file: epath.Path) -> Int[Host, " counts"]:
    """The counts that `save_chains` was given. Raises ValueError where it is damaged."""
    (report,) = _read(file, ("report",))
    return report


def read_examples(file: epath.Path) -> Examples:
    """The chains that `save_chains` was given. Raises ValueError at a damaged file."""
    examples = Examples(*_read(file, Examples._fields))
    dims = [part.ndim for part in examples]
    if dims != [2, 3, 1, 1, 1] or len({len(part) for part in examples}) > 1:
        shapes = ", ".join(str(part.shape) for part in examples)
        raise ValueError(f"{file} holds arrays of shapes {shapes}: no chains; {REMEDY}")
    return examples


def _read(file: epath.Path, names: Sequence[str]) -> list[Host]:
    try:
        return read_arrays(file, names, "")
    except ValueError as error:
        raise ValueError(f"{error}; {REMEDY}") from error
