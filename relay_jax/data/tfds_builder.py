"""Builds TFDS datasets of solved problems: one config per task and range of lengths.

An example is one vector of tokens (`data/serialization.py`). Example i of a split is
example i of `SyntheticSource`: a hash of the problem decides whether it is for training
or testing, so the splits are disjoint.

TensorFlow is not needed: the files are ArrayRecords. `ShardBasedBuilder` writes them
one after the other; a `GeneratorBasedBuilder` would first sort all examples in memory,
and above 1 GB (a million edit distances) it uses TensorFlow. Workers of Apache Beam
write the same files, one file at a time: nothing is shuffled, as the position of an
example in the files is its index. `data/tfds_source.py` reads the datasets.
"""

import dataclasses
import functools
import itertools
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, cast

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core.writer import ShardWriter

from relay_jax.base import Host
from relay_jax.beam import Workers, atomic_file, run_on_workers
from relay_jax.data.serialization import encode
from relay_jax.data.sources import BLOCK, SyntheticSource, check_problems
from relay_jax.tasks import TASKS, Task
from relay_jax.tasks.task import TOKEN_TYPE
from relay_jax.vocabulary import FIRST_NUMBER

SHARD = 256 * BLOCK  # examples in one file; TFDS counts them in memory
VERSION = "1.0.0"  # of the layout in serialization.py

# (task, lengths, training examples, test examples), as in RELAY (section 4.1)
PAPER = [
    ("arithmetic", (1, 15), 1_000_000, 100_000),
    ("arithmetic", (15, 25), 0, 100_000),
    ("edit_distance", (1, 30), 1_000_000, 100_000),
    ("edit_distance", (30, 40), 0, 100_000),
    ("lis", (1, 100), 1_000_000, 100_000),
    ("lis", (100, 120), 0, 100_000),
]


def range_name(task: Task, lengths: tuple[int, int]) -> str:
    """`arithmetic_1_15`, or `arithmetic_1_15_modulus_5` if an option is not default."""
    options = dataset_metadata(task)["options"]
    default = dataset_metadata(TASKS[task.name]())["options"]
    other = [f"_{k}_{v}" for k, v in options.items() if v != default[k]]
    return f"{task.name}_{lengths[0]}_{lengths[1]}" + "".join(other)


def dataset_metadata(task: Any, seed: int = 0) -> dict[str, Any]:
    """The metadata that is stored with the files, to identify them later."""
    options = {f.name: getattr(task, f.name) for f in dataclasses.fields(task)}
    return {"task": task.name, "options": options, "seed": seed}


@dataclasses.dataclass(eq=False, kw_only=True)
class TaskRange(tfds.core.BuilderConfig):
    """The config of a dataset; its name follows from the task and the lengths."""

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
                f"{self.name}: cannot build {self.num_train} training and "
                f"{self.num_test} test examples; ask for one or more"
            )

    @property
    def num_examples(self) -> int:
        return self.num_train + self.num_test


def _no_progress(count: int) -> None:
    """Ignores progress; a function of the module, so that it can be pickled."""


class RelayTasks(tfds.core.ShardBasedBuilder):
    """Problems with their chains of rounds; see the module's docstring."""

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS: ClassVar = [
        TaskRange(task=TASKS[name](), lengths=lengths, num_train=train, num_test=test)
        for name, lengths, train, test in PAPER
    ]
    progress: Callable[[int], Any] = staticmethod(_no_progress)
    workers: Workers | None = None

    @property
    def task_range(self) -> TaskRange:
        return cast(TaskRange, self.builder_config)

    def _create_builder_config(self, builder_config, version):
        # TFDS refuses a config with the name of a known one, e.g. of another size.
        if isinstance(builder_config, TaskRange):
            return builder_config
        return super()._create_builder_config(builder_config, version)

    def _info(self) -> tfds.core.DatasetInfo:
        tokens = tfds.features.Tensor(shape=(None,), dtype=TOKEN_TYPE, encoding="bytes")
        metadata = dataset_metadata(self.task_range.task, self.task_range.seed)
        return tfds.core.DatasetInfo(
            builder=self,
            description="length answer <pad> problem <pad> round 1 <pad> ...",
            features=tfds.features.FeaturesDict({"tokens": tokens}),
            metadata=tfds.core.MetadataDict(metadata),
        )

    def _download_and_prepare(self, dl_manager, download_config=None):
        """Builds all files.

        TFDS's own support for Beam is not used: it makes every file a step of one
        sequential pipeline, and builds the first split's files again with the second's.
        """
        if not self.workers:
            super()._download_and_prepare(dl_manager, download_config)
            return
        features: Any = self.info.features
        serializer = tfds.core.ExampleSerializer(features.get_serialized_info())
        writer = ShardWriter(features, serializer, self._example_writer())
        splits, items = [], []
        for split, shards in self._shard_iterators_per_split(dl_manager).items():
            template, num = self._get_filename_template(split), len(shards)
            files = [
                template.sharded_filepath(shard_index=i, num_shards=num)
                for i in range(num)
            ]
            splits.append((split, template, files))
            items += zip(shards, files, strict=True)
        scratch = self.data_path.parent
        write = functools.partial(_write_shard, writer, scratch)
        counts = iter(run_on_workers(write, items, self.workers, scratch))
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
        counts = {"train": self.task_range.num_train, "test": self.task_range.num_test}
        return {split: self._shards(split, num) for split, num in counts.items() if num}

    def _shards(self, split: str, num: int) -> list[Callable]:
        range_ = self.task_range
        source = SyntheticSource(range_.task, range_.lengths, range_.seed, split)
        bounds = [(start, min(start + SHARD, num)) for start in range(0, num, SHARD)]
        return [
            functools.partial(_iterate_shard, source, *b, self.progress) for b in bounds
        ]


def _iterate_shard(
    source, start, stop, progress
) -> Iterator[tuple[int, dict[str, Host]]]:
    for first in range(start, stop, BLOCK):
        indices = np.arange(first, min(first + BLOCK, stop))
        for index, tokens in zip(indices, encode(source.take(indices)), strict=True):
            yield int(index), {"tokens": tokens}
        progress(len(indices))


def _write_shard(
    writer, scratch, shard: Callable[[], Iterator], file: epath.Path
) -> int:
    """Writes one file and returns its number of examples.

    It is written to a local disk first: ArrayRecord cannot write anywhere else.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        atomic_file(file, scratch) as unfinished,
    ):
        local = epath.Path(folder) / "shard"
        count = writer.write(shard(), local)
        local.copy(unfinished)
    return count


def dataset_path(name: str, data_dir: epath.PathLike) -> epath.Path:
    """The directory of the dataset called `name` (see `range_name`)."""
    return epath.Path(data_dir) / RelayTasks.name / name / VERSION


def build(
    config: TaskRange,
    data_dir: epath.PathLike,
    overwrite: bool = False,
    progress: Callable[[int], Any] = _no_progress,
    workers: Workers | None = None,
) -> epath.Path:
    """Builds a dataset, and returns its directory.

    The dataset is built in a temporary directory and moved when it is complete; until
    then, one that it replaces stays in place.

    Args:
      progress: called with the number of examples added; not by Beam's workers.
      workers: of Apache Beam, which write the same files; by default this process.

    Raises:
      ValueError: the dataset exists already, or the task has no such problems.
    """
    path = dataset_path(config.name, data_dir)
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists; give --overwrite to build it again")
    for split, num in (("train", config.num_train), ("test", config.num_test)):
        if num:
            check_problems(config.task, config.lengths, split)
    scratch = epath.Path(data_dir) / f".unfinished-{config.name}"
    scratch.rmtree(missing_ok=True)
    builder = RelayTasks(config=config, data_dir=scratch)
    if workers:
        builder.workers = workers
    else:
        builder.progress = progress
    with tempfile.TemporaryDirectory() as unused:  # TFDS requires a download directory
        builder.download_and_prepare(file_format="array_record", download_dir=unused)
    replaced = epath.Path(data_dir) / f".old-{config.name}"
    replaced.rmtree(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.rename(replaced)
    dataset_path(config.name, scratch).rename(path)
    replaced.rmtree(missing_ok=True)
    scratch.rmtree()
    return path
