"""TFDS datasets of solved problems: one config for each task and range of lengths.

An example is one vector of tokens (`data/ragged.py`). Example i of a split is example i
of `SyntheticSource`: a problem's hash decides whether it is for training or testing, so the
splits never meet.

TensorFlow is not needed: the files are ArrayRecords. `ShardBasedBuilder` writes them
one after the other; a `GeneratorBasedBuilder` would first sort all examples in memory,
and above 1 GB (a million edit distances) it calls TensorFlow. Workers of Apache Beam
write the same files, each a file at a time: nothing is shuffled, as an example's place
in the files is its number.
"""

import dataclasses
import functools
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from etils import epath
from tensorflow_datasets.core.writer import ShardWriter
from tensorflow_datasets.proto import tf_example_generated_pb2 as tf_example

from relay_jax.base import Examples, Host, Int
from relay_jax.beam import Workers, atomic_file, run_on_workers
from relay_jax.data.serialization import decode, encode
from relay_jax.data.sources import BLOCK, SyntheticSource, check_problems, shuffled
from relay_jax.tasks import TASKS, Task
from relay_jax.tasks.task import TOKEN_TYPE
from relay_jax.vocabulary import FIRST_NUMBER

SHARD = 256 * BLOCK  # examples of one file; TFDS holds them in memory to count them
VERSION = "1.0.0"  # of the layout in ragged.py

# (task, lengths, training examples, test examples), as in the paper
PAPER = [
    ("arithmetic", (1, 15), 1_000_000, 100_000),
    ("arithmetic", (15, 25), 0, 100_000),
    ("edit_distance", (1, 30), 1_000_000, 100_000),
    ("edit_distance", (30, 40), 0, 100_000),
    ("lis", (1, 100), 1_000_000, 100_000),
    ("lis", (100, 120), 0, 100_000),
]


def range_name(task: Task, lengths: tuple[int, int]) -> str:
    """`arithmetic_1_15`, or `arithmetic_1_15_modulus_5` with another option."""
    options = describe(task)["options"]
    default = describe(TASKS[task.name]())["options"]
    other = [f"_{k}_{v}" for k, v in options.items() if v != default[k]]
    return f"{task.name}_{lengths[0]}_{lengths[1]}" + "".join(other)


def describe(task: Any, seed: int = 0) -> dict[str, Any]:
    """What is kept beside the files, to know them again."""
    options = {f.name: getattr(task, f.name) for f in dataclasses.fields(task)}
    return {"task": task.name, "options": options, "seed": seed}


@dataclasses.dataclass(eq=False, kw_only=True)
class TaskRange(tfds.core.BuilderConfig):
    """What a dataset is made from; the name follows from the task and the lengths."""

    name: str = dataclasses.field(init=False)
    task: Task
    lengths: tuple[int, int]
    seed: int = 0
    num_train: int = 1_000_000
    num_test: int = 100_000

    def __post_init__(self):
        self.name = range_name(self.task, self.lengths)
        longest = self.lengths[1]
        largest = FIRST_NUMBER + max(longest, self.task.max_number(longest))
        if largest > np.iinfo(TOKEN_TYPE).max:
            raise ValueError(
                f"{self.name}: token {largest} does not fit into 16 bits; "
                "use shorter problems or smaller numbers"
            )
        if min(self.num_train, self.num_test) < 0 or self.num_examples == 0:
            raise ValueError(
                f"{self.name}: cannot make {self.num_train} training and "
                f"{self.num_test} test examples; ask for one or more"
            )

    @property
    def num_examples(self) -> int:
        return self.num_train + self.num_test


def _ignore(count: int) -> None:
    """Progress of which nobody wants to know; other processes can be sent it by name."""


class RelayTasks(tfds.core.ShardBasedBuilder):
    """Problems with their chains of rounds (see the module)."""

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS: ClassVar = [
        TaskRange(task=TASKS[name](), lengths=lengths, num_train=train, num_test=test)
        for name, lengths, train, test in PAPER
    ]
    progress: Callable[[int], Any] = staticmethod(_ignore)
    workers: Workers | None = None

    @property
    def made(self) -> TaskRange:
        return cast(TaskRange, self.builder_config)

    def _create_builder_config(self, builder_config, version):
        # TFDS refuses a config with the name of a known one, e.g. of another size.
        if isinstance(builder_config, TaskRange):
            return builder_config
        return super()._create_builder_config(builder_config, version)

    def _info(self) -> tfds.core.DatasetInfo:
        tokens = tfds.features.Tensor(shape=(None,), dtype=TOKEN_TYPE, encoding="bytes")
        return tfds.core.DatasetInfo(
            builder=self,
            description="length answer <pad> problem <pad> round 1 <pad> ...",
            features=tfds.features.FeaturesDict({"tokens": tokens}),
            metadata=tfds.core.MetadataDict(describe(self.made.task, self.made.seed)),
        )

    def _download_and_prepare(self, dl_manager, download_config=None):
        """TFDS's own way on Beam is not taken: every file is a step of its pipeline, which
        does them one after another, and the first split's again with the second's."""
        if not self.workers:
            super()._download_and_prepare(dl_manager, download_config)
            return
        features: Any = self.info.features
        serializer = tfds.core.ExampleSerializer(features.get_serialized_info())
        writer = ShardWriter(features, serializer, self._example_writer())
        splits, work = [], []
        for split, shards in self._shard_iterators_per_split(dl_manager).items():
            template, num = self._get_filename_template(split), len(shards)
            files = [
                template.sharded_filepath(shard_index=i, num_shards=num)
                for i in range(num)
            ]
            splits.append((split, template, files))
            work += zip(shards, files, strict=True)
        aside = self.data_path.parent
        write = functools.partial(_write, writer, aside)
        counts = iter(run_on_workers(write, work, self.workers, aside))
        infos = [
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=list(itertools.islice(counts, len(files))),
                num_bytes=sum(file.stat().length for file in files),
                filename_template=template,
            )
            for split, template, files in splits
        ]
        self.info.set_splits(tfds.core.SplitDict(infos))

    def _shard_iterators_per_split(self, dl_manager):
        counts = {"train": self.made.num_train, "test": self.made.num_test}
        return {split: self._shards(split, num) for split, num in counts.items() if num}

    def _shards(self, split: str, num: int) -> list[Callable]:
        made = self.made
        source = SyntheticSource(made.task, made.lengths, made.seed, split, num)
        bounds = [(start, min(start + SHARD, num)) for start in range(0, num, SHARD)]
        return [functools.partial(_shard, source, *b, self.progress) for b in bounds]


def _shard(source, start, stop, progress) -> Iterator[tuple[int, dict[str, Host]]]:
    for first in range(start, stop, BLOCK):
        indices = np.arange(first, min(first + BLOCK, stop))
        for index, tokens in zip(indices, encode(source.take(indices)), strict=True):
            yield int(index), {"tokens": tokens}
        progress(len(indices))


def _write(writer, aside, shard: Callable[[], Iterator], file: epath.Path) -> int:
    """Writes a file, on a local disk first, as ArrayRecord does not write elsewhere.
    Returns how many examples it has."""
    with (
        tempfile.TemporaryDirectory() as folder,
        atomic_file(file, aside) as made,
    ):
        local = epath.Path(folder) / "shard"
        count = writer.write(shard(), local)
        local.copy(made)
    return count


def dataset_path(
    task: Task, lengths: tuple[int, int], data_dir: epath.PathLike
) -> epath.Path:
    """The directory of one finished dataset."""
    name = range_name(task, lengths)
    return epath.Path(data_dir) / RelayTasks.name / name / VERSION


def build(
    config: TaskRange,
    data_dir: epath.PathLike,
    overwrite: bool = False,
    progress: Callable[[int], Any] = _ignore,
    workers: Workers | None = None,
) -> epath.Path:
    """Writes a dataset aside and puts it in its place when it is whole; until then
    the one that is to be replaced stays.

    Args:
      progress: is told of how many examples more were made; not by workers.
      workers: of Apache Beam, which write the same files; without them, this process.

    Raises:
      ValueError: it is there already, or cannot be made.
    """
    path = dataset_path(config.task, config.lengths, data_dir)
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists; give --overwrite to make it anew")
    for split, num in (("train", config.num_train), ("test", config.num_test)):
        if num:
            check_problems(config.task, config.lengths, split)
    aside = epath.Path(data_dir) / f".unfinished-{config.name}"
    aside.rmtree(missing_ok=True)
    builder = RelayTasks(config=config, data_dir=aside)
    if workers:
        builder.workers = workers
    else:
        builder.progress = progress
    with tempfile.TemporaryDirectory() as unused:  # TFDS wants a place for downloads
        builder.download_and_prepare(file_format="array_record", download_dir=unused)
    old = epath.Path(data_dir) / f".old-{config.name}"
    old.rmtree(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.rename(old)
    dataset_path(config.task, config.lengths, aside).rename(path)
    old.rmtree(missing_ok=True)
    aside.rmtree()
    return path


class TfdsSource(NamedTuple):
    """The examples of an opened dataset, each epoch in another order."""

    task: Task
    lengths: tuple[int, int]
    records: Any  # of TFDS: a sequence of serialised examples
    seed: int = 0

    def __len__(self) -> int:
        return len(self.records)

    def take(self, indices: Int[Host, " b"]) -> Examples:
        places = shuffled(np.asarray(indices), len(self), self.seed)
        try:
            records = self.records.__getitems__(places.tolist())
        except RuntimeError as error:
            raise ValueError(
                f"a file of {range_name(self.task, self.lengths)} is damaged ({error}); "
                "make it again with --overwrite"
            ) from error
        return decode(
            [_vector(record) for record in records], self.task, self.lengths[1]
        )


def _vector(record: bytes) -> bytes:
    # TFDS can do this too, but its decoder halves the examples a second.
    example = tf_example.Example.FromString(record)  # pyright: ignore
    return example.features.feature["tokens"].bytes_list.value[0]


def open_tfds(
    task: Task,
    lengths: tuple[int, int],
    path: epath.PathLike,
    seed: int,
    split: str = "train",
) -> TfdsSource:
    """Opens what `experiments.make_data --data_dir=path` has written.

    Raises:
      ValueError: there is no such dataset, or it is of another task, or damaged.
    """
    if not path:
        raise ValueError(
            "a bucket of kind 'tfds' needs `path`: the --data_dir of "
            "python -m experiments.make_data"
        )
    found, name = dataset_path(task, lengths, path), range_name(task, lengths)
    options = ",".join(f"{k}={v}" for k, v in describe(task)["options"].items())
    command = (
        f"python -m experiments.make_data --task={task.name} --options={options} "
        f"--lengths={lengths[0]},{lengths[1]} --data_dir={path}"
    )
    if not (found / "dataset_info.json").exists():
        files = found.parent.parent.glob(f"*/{VERSION}/dataset_info.json")
        there = sorted(file.parent.parent.name for file in files)
        raise ValueError(
            f"{path} holds no dataset {name}, it has {', '.join(there) or 'none'}; "
            f"make it with {command}"
        )
    try:
        builder = tfds.builder_from_directory(builder_dir=found)
        made, splits = {**(builder.info.metadata or {})}, builder.info.splits
        for part in splits.values():
            _check_files(part)
    except Exception as error:  # TFDS and its readers raise many kinds
        raise ValueError(
            f"{found} is damaged ({error}); make it again with {command} --overwrite"
        ) from error
    expected = describe(task, made.get("seed", 0))
    if made != expected:
        raise ValueError(
            f"{found} was made from {made}, expected {expected}; "
            f"make it again with {command} --overwrite"
        )
    if split not in splits:
        raise ValueError(
            f"{found} has no {split} examples, only {', '.join(splits)}; "
            f"make it again with {command} --num_{split}=1000000 --overwrite"
        )
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    records = builder.as_data_source(split, deserialize_method=raw)  # pyright: ignore
    return TfdsSource(task, lengths, records, seed)


def _check_files(split: Any) -> None:
    """Raises where a file of a split is missing, cut off or of another length."""
    for file, count in zip(split.filepaths, split.shard_lengths, strict=True):
        reader = ArrayRecordReader(os.fspath(file))
        num = reader.num_records()
        reader.close()
        if num != count:
            raise ValueError(f"{file} has {num} records, expected {count}")
