"""Opens the TFDS datasets of `tfds_builder` as sources of training examples."""

import os
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from etils import epath
from tensorflow_datasets.proto import tf_example_generated_pb2 as tf_example

from relay_jax import aliases
from relay_jax.base import Examples, Host, Int
from relay_jax.data.serialization import decode
from relay_jax.data.sources import shuffled
from relay_jax.data.tfds_builder import (
    VERSION,
    dataset_metadata,
    dataset_path,
    range_name,
)
from relay_jax.files import LiteralPath
from relay_jax.tasks import Task


class TfdsSource(NamedTuple):
    """The examples of an opened dataset, in a different order in each epoch."""

    task: Task
    lengths: tuple[int, int]
    records: Any  # of TFDS: a sequence of serialized examples
    seed: int = 0

    def __len__(self) -> int:
        return len(self.records)

    def take(self, indices: Int[Host, " b"]) -> Examples:
        order = shuffled(np.asarray(indices), len(self), self.seed)
        try:
            records = self.records.__getitems__(order.tolist())
        except RuntimeError as error:
            raise ValueError(
                f"a file of {range_name(self.task, self.lengths)} is damaged ({error}); "
                "build it again with --overwrite"
            ) from error
        vectors = [_token_bytes(record) for record in records]
        return decode(vectors, self.task, self.lengths[1])


def _token_bytes(record: bytes) -> bytes:
    # TFDS can do this too, but its decoder halves the number of examples per second.
    example = tf_example.Example.FromString(record)  # pyright: ignore
    return example.features.feature["tokens"].bytes_list.value[0]


def open_tfds(
    task: Task,
    lengths: tuple[int, int],
    data_dir: epath.PathLike,
    seed: int,
    split: str = "train",
) -> TfdsSource:
    """Opens a dataset that `experiments.make_data --data_dir=...` has written.

    Raises:
      ValueError: there is no such dataset, or it is for another task or damaged.
    """
    if not data_dir:
        raise ValueError(
            "a bucket of kind 'tfds' needs `path`: the --data_dir of "
            "python -m experiments.make_data"
        )
    path, command = _find(task, lengths, data_dir), _command(task, lengths, data_dir)
    try:
        builder = tfds.builder_from_directory(builder_dir=path)
        metadata, splits = {**(builder.info.metadata or {})}, builder.info.splits
        for each in splits.values():
            _check_files(each)
    except Exception as error:  # TFDS and its readers raise many kinds
        raise ValueError(
            f"{path} is damaged ({error}); build it again with {command} --overwrite"
        ) from error
    metadata = aliases.upgrade_config(metadata)
    # Options that did not exist then have their default of today.
    default = dataset_metadata(type(task)())["options"]
    metadata["options"] = default | metadata.get("options", {})
    expected = dataset_metadata(task, metadata.get("seed", 0))
    if metadata != expected:
        raise ValueError(
            f"{path} was built from {metadata}, expected {expected}; "
            f"build it again with {command} --overwrite"
        )
    if split not in splits:
        raise ValueError(
            f"{path} has no {split} examples, only {', '.join(splits)}; "
            f"build it again with {command} --num_{split}=1000000 --overwrite"
        )
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    records = builder.as_data_source(split, deserialize_method=raw)  # pyright: ignore
    return TfdsSource(task, lengths, records, seed)


def _find(task: Task, lengths: tuple[int, int], data_dir: epath.PathLike) -> epath.Path:
    """The directory of a dataset. Raises ValueError if there is none."""
    name = range_name(task, lengths)
    for dataset in (name, aliases.old_dataset_name(name)):
        path = dataset_path(dataset, data_dir)
        if (path / "dataset_info.json").exists():
            return path
    datasets = dataset_path(name, data_dir).parent.parent
    files = LiteralPath(datasets).glob(f"*/{VERSION}/dataset_info.json")
    available = sorted(file.parent.parent.name for file in files)
    raise ValueError(
        f"{data_dir} has no dataset {name}; it has {', '.join(available) or 'none'}; "
        f"build it with {_command(task, lengths, data_dir)}"
    )


def _command(task: Task, lengths: tuple[int, int], data_dir: epath.PathLike) -> str:
    """The command that builds a dataset."""
    metadata = dataset_metadata(task)
    options = ",".join(f"{k}={v}" for k, v in metadata["options"].items())
    return (
        f"python -m experiments.make_data --task={task.name} --options={options} "
        f"--lengths={lengths[0]},{lengths[1]} --data_dir={data_dir}"
    )


def _check_files(split: Any) -> None:
    """Raises if a file of a split is missing, truncated or has another record count."""
    for file, count in zip(split.filepaths, split.shard_lengths, strict=True):
        reader = ArrayRecordReader(os.fspath(file))
        num = reader.num_records()
        reader.close()
        if num != count:
            raise ValueError(f"{file} has {num} records, expected {count}")
