"""Chains that a model has generated, on disk: one .npz file for each problem length.

`experiments.write_chains` writes them (`relay.generate`); `read_chains` reads them as a
source of training examples.
"""

import io
from collections.abc import Sequence

import numpy as np
from etils import epath

from relay_jax import aliases, config_io, files
from relay_jax.base import Examples, Host, Int
from relay_jax.config import ChainsConfig
from relay_jax.data.sources import InMemorySource, concatenate
from relay_jax.files import read_arrays
from relay_jax.tasks import Task, make_task

REMEDY = (
    "remove it and the summary.json beside it, and run the command that wrote them "
    "(python -m experiments.write_chains) again: it generates what is missing"
)


def chain_file(workdir: epath.PathLike, task: Task, length: int) -> epath.Path:
    """The file for problems of one length in a chains directory."""
    return epath.Path(workdir) / f"{task.name}_{length:03d}.npz"


def save_chains(
    file: epath.Path, examples: Examples, counts: Int[Host, " counts"]
) -> None:
    """Writes the chains of one length, and the counts of how they were filtered."""
    stream = io.BytesIO()
    # The counts are called "report" in the file, for compatibility with older files.
    np.savez_compressed(stream, report=counts, **examples._asdict())
    files.write_atomically(file, stream.getvalue())


def read_chains(
    workdir: epath.PathLike, task: Task, lengths: tuple[int, int], seed: int
) -> InMemorySource:
    """The chains of a directory of `experiments.write_chains`, as a source.

    Raises:
      ValueError: the directory is unfinished or damaged, is for another task, or lacks
        one of the lengths.
    """
    path = epath.Path(workdir)
    if not (path / "summary.json").exists():
        raise ValueError(
            f"{path} has no finished chains; generate them with "
            "python -m experiments.write_chains --config=... --workdir=..."
        )
    values = aliases.upgrade_config(files.read_json(path / "config.json"))
    config = config_io.build(ChainsConfig, values)
    task_of_chains = make_task(config.task, config.options)
    if task_of_chains != task:
        raise ValueError(f"{path} has chains of {task_of_chains}, expected {task}")
    parts, num_requested = [], 0
    for length in range(lengths[0], lengths[1] + 1):
        file = chain_file(path, task, length)
        if not file.exists():
            raise ValueError(
                f"{path} has no chains of length {length}, only of "
                f"{', '.join(config.counts)}"
            )
        parts.append(read_examples(file))
        num_requested += config.counts[str(length)]
    return InMemorySource(concatenate(parts), seed, num_requested)


def has_separate_rounds(examples: Examples) -> bool:
    """Whether rounds are stored separately; a decoder's chain is a single round."""
    return examples.rounds.shape[1] >= int(examples.num_rounds.max())


def read_counts(file: epath.Path) -> Int[Host, " counts"]:
    """The counts of a chain file. Raises ValueError if the file is damaged."""
    (counts,) = _read(file, ("report",))
    return counts


def read_examples(file: epath.Path) -> Examples:
    """The chains of a chain file. Raises ValueError if the file is damaged."""
    examples = Examples(*_read(file, Examples._fields))
    dims = [part.ndim for part in examples]
    if dims != [2, 3, 1, 1, 1] or len({len(part) for part in examples}) > 1:
        shapes = ", ".join(str(part.shape) for part in examples)
        raise ValueError(
            f"{file} has arrays of shapes {shapes}, which are not chains; {REMEDY}"
        )
    return examples


def _read(file: epath.Path, names: Sequence[str]) -> list[Host]:
    try:
        return read_arrays(file, names, "")
    except ValueError as error:
        raise ValueError(f"{error}; {REMEDY}") from error
