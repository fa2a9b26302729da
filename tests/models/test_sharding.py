"""The mesh: how parameters, batches and constrained activations are sharded over it."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from relay_jax.base import DecoderBatch, LoopedBatch
from relay_jax.config import MeshConfig
from relay_jax.models import sharding
from relay_jax.models.sharding import (
    ROUNDS_FIRST,
    constrain,
    local_rows,
    make_mesh,
    shard_batch,
)

BATCH, DATA, TENSOR = ("data", "fsdp"), ("data",), ("tensor",)


def make_batch(kind):
    numbers = np.arange(3 * 8 * 5, dtype=np.int32).reshape(3, 8, 5)
    if kind is DecoderBatch:
        return DecoderBatch(numbers[0], numbers[0] % 2 == 0)
    length = np.arange(8, dtype=np.int32)
    return LoopedBatch(numbers[0], numbers, numbers % 2 == 0, length, length)


@pytest.mark.parametrize("kind", [LoopedBatch, DecoderBatch])
def test_each_device_has_its_shard_of_the_examples(kind):
    batch, mesh = make_batch(kind), make_mesh(MeshConfig(2, 2, 2))
    sharded = shard_batch(batch, mesh, 8)
    for name, whole, parts in zip(kind._fields, batch, sharded, strict=True):
        axis = 1 if name in ROUNDS_FIRST else 0
        assert len(parts.addressable_shards) == 8
        for shard in parts.addressable_shards:
            assert shard.data.shape[axis] == 2
            np.testing.assert_array_equal(shard.data, whole[shard.index])


def test_one_process_has_all_rows():
    rows = local_rows(make_mesh(MeshConfig(2, 2, 2)), 8)
    np.testing.assert_array_equal(rows, np.arange(8))


@pytest.mark.parametrize(
    "path, shape, expected",
    [
        ("words/words", (40, 16), P(TENSOR, ("fsdp",))),
        ("layers/attention/query/kernel", (3, 16, 4, 8), P(None, ("fsdp",), TENSOR)),
        ("layer_0/attention/query/kernel", (16, 4, 8), P(("fsdp",), TENSOR)),
        ("layer_0/attention/query/kernel", (16, 3, 8), P(("fsdp",))),  # 3 heads
        ("1/0/mu/layer_0/feed_forward/down/kernel", (32, 16), P(TENSOR, ("fsdp",))),
        ("layers/attention/key/bias", (3, 4, 8), P(None, TENSOR)),
        ("norm/scale", (16,), P()),
        ("1/0/count", (), P()),
    ],
)
def test_parameters_are_sharded_by_the_names_of_their_axes(path, shape, expected):
    tree = jax.ShapeDtypeStruct(shape, np.float32)
    for name in reversed(path.split("/")):
        tree = {name: tree}
    mesh = make_mesh(MeshConfig(2, 2, 2))
    found = jax.tree.leaves(sharding.param_shardings(tree, mesh))[0]
    assert found.is_equivalent_to(jax.NamedSharding(mesh, expected), len(shape))


def test_constraints_act_inside_a_program_and_cost_one_device_nothing():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    sharded = jax.device_put(np.ones((8, 4)), jax.NamedSharding(mesh, P("fsdp")))

    @jax.jit
    def constrained(x, other):
        return constrain(x, "batch", None), constrain(x), constrain(other, like=x)

    along, whole, other = constrained(sharded, np.ones(8))
    assert along.sharding.is_equivalent_to(jax.NamedSharding(mesh, P(BATCH)), 2)
    assert whole.sharding.is_fully_replicated and other.sharding.is_fully_replicated
    assert len(other.sharding.device_set) == 8
    alone = constrained.lower(np.ones((8, 4)), np.ones(8)).as_text()
    assert "sharding_constraint" not in alone and "Sharding" not in alone


@pytest.mark.parametrize(
    "sizes, expected",
    [((1, 1, 1), (1, 1, 1)), ((0, 1, 1), (8, 1, 1)), ((0, 2, 2), (2, 2, 2))]
    + [((1, 0, 2), (1, 4, 2)), ((3, 1, 2), (3, 1, 2))],
)
def test_an_axis_of_size_0_takes_the_remaining_devices(sizes, expected):
    mesh = make_mesh(MeshConfig(*sizes))
    assert tuple(mesh.shape.values()) == expected
    assert tuple(mesh.shape) == sharding.AXES


@pytest.mark.parametrize(
    "sizes, message",
    [
        (
            (9, 1, 1),
            "9 x 1 x 1 (data, fsdp, tensor) does not fit the 8 devices that are",
        ),
        (
            (0, 3, 1),
            "0 x 3 x 1 (data, fsdp, tensor) does not fit the 8 devices that are",
        ),
        ((0, 0, 1), "0 for all that the others leave; only one of them can be 0"),
        ((1, -1, 1), "an axis has 1 device or more, or 0"),
    ],
)
def test_impossible_meshes_are_refused(sizes, message):
    with pytest.raises(ValueError) as error:
        make_mesh(MeshConfig(*sizes))
    assert message in str(error.value)
