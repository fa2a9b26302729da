"""The cache of step times; the times are invented, no test measures anything."""

import dataclasses
import json

import numpy as np
import pytest

from relay_jax.config import DraftConfig, MeshConfig, ModelConfig
from relay_jax.decoding import decode
from relay_jax.models.sharding import make_mesh
from relay_jax.rest import step_times
from relay_jax.rest.build import build_datastore
from relay_jax.rest.index import HostIndex, load_index
from relay_jax.rest.step_times import step_seconds

SIZES = [0, 4, 16]
DRAFT = DraftConfig(num_store_rows=8, num_text_rows=8, num_paper_rows=8, depth=4)
MODEL = ModelConfig(
    kind="decoder", num_layers=1, dim=16, mlp_dim=16, text_vocab_size=12
)


def test_times_are_measured_once(tmp_path):
    measured, file = [], tmp_path / "deep" / "cache.json"

    def measure(sizes):
        measured.extend(sizes)
        return {size: 1.0 + size for size in sizes}

    for setting in ({"batch_size": 1}, {"batch_size": 1}, {"batch_size": 8}):
        seconds = step_seconds(measure, SIZES, setting, file)
        assert seconds == {0: 1.0, 4: 5.0, 16: 17.0}
    assert measured == SIZES * 2
    step_seconds(measure, [0, 4], {"batch_size": 1}, file)  # other sizes
    assert measured == [*SIZES * 2, 0, 4]


def damage(content):
    entry = next(iter(content["entries"].values()))
    return {
        "not JSON": "{",
        "no dict": "[1]",
        "no entries": '{"format": 4}',
        "another format": json.dumps(content | {"format": 99}),
        "another setting": json.dumps(content).replace(
            '"batch_size": 1', '"batch_size": 2'
        ),
        "a time of 0": json.dumps(content).replace("5.0", "0.0"),
        "no number": json.dumps(content).replace("5.0", '"fast"'),
        "entry no dict": json.dumps(content).replace(json.dumps(entry), "3"),
    }


@pytest.mark.parametrize("kind", damage({"entries": {"": {}}}))
def test_a_damaged_or_foreign_file_is_replaced(tmp_path, kind):
    file, measured = tmp_path / "cache.json", []

    def measure(sizes):
        measured.extend(sizes)
        return {size: 1.0 + size for size in sizes}

    first = step_seconds(measure, SIZES, {"batch_size": 1}, file)
    file.write_text(damage(json.loads(file.read_text()))[kind])
    assert step_seconds(measure, SIZES, {"batch_size": 1}, file) == first
    assert step_seconds(measure, SIZES, {"batch_size": 1}, file) == first
    assert measured == SIZES * 2


def one_each(sizes):
    return dict.fromkeys(sizes, 1.0)


def test_an_unwritable_file_is_ignored(tmp_path):
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "cache.json"
    assert step_seconds(one_each, SIZES, {}, below) == one_each(SIZES)


def test_the_file_can_be_chosen(monkeypatch):
    monkeypatch.setenv("RELAY_JAX_CACHE", "/somewhere")
    assert str(step_times.default_file()) == "/somewhere/tree_sizes.json"
    monkeypatch.delenv("RELAY_JAX_CACHE")
    assert str(step_times.default_file()).endswith("/.cache/relay_jax/tree_sizes.json")


def test_cached_times_depend_on_the_setting():
    base = {"model": MODEL, "draft": DRAFT, "sampling": decode.GREEDY, "index": None}
    one = step_times.describe_setting(**base, batch_size=1)
    for name, value in {
        "batch_size": 2,
        "draft": dataclasses.replace(DRAFT, drafter="prompt_lookup"),
        "model": dataclasses.replace(MODEL, num_layers=2),
        "mesh": {"fsdp": 1, "tensor": 2},
    }.items():
        assert one != step_times.describe_setting(
            **base | {"batch_size": 1, name: value}
        )


def test_times_are_those_of_a_store_of_this_size(tmp_path):
    """The number and size of shards, the token dtype and the mesh all matter."""
    vocab = {"tokenizer": "test", "vocab_size": 12, "eos_id": 1}
    texts = list(np.random.default_rng(0).integers(2, 12, (20, 20)))

    def make(name, texts=texts, **changes):
        return build_datastore(texts, tmp_path / name, **vocab | changes)

    small, shards = make("small", texts[:2]), make("shards", shard_tokens=128)
    stores = [small, make("large"), shards, make("wide", vocab_size=70_000)]
    two = make_mesh(MeshConfig(data=2))
    indexes = [None, *map(load_index, stores), *map(HostIndex, stores)]
    indexes += [
        load_index(shards, mesh) for mesh in (make_mesh(MeshConfig(data=0)), two)
    ]
    settings = [
        json.dumps(step_times.describe_setting(MODEL, DRAFT, decode.GREEDY, index, 1))
        for index in indexes
    ]
    assert len(set(settings)) == len(indexes)
    alike = load_index(make("alike", texts[1:])).signature()
    assert alike == indexes[2].signature()
