"""Several devices train as one does."""

import jax
import numpy as np
import pytest

from experiments.configs import tiny
from relay_jax import config as configs
from relay_jax import records
from relay_jax.data import pipeline
from relay_jax.training import loop
from relay_jax.training.checkpoint import load_params
from relay_jax.training.devices import make_mesh, spread


def config(kind, num_devices):
    values = tiny.get_config().to_dict()
    values["model"] |= {"kind": kind, "num_layers": 1, "dim": 16, "mlp_dim": 16}
    if kind == "decoder":
        values["model"]["loop_input"] = "hidden"
    values["model"]["dropout"] = 0.1
    values["data"] |= {"batch_size": 8, "num_devices": num_devices}
    values["evaluation"] |= {"final": 4}
    values |= {"num_steps": 3, "log_every_steps": 1}
    return configs.build(configs.TrainConfig, values)


@pytest.mark.parametrize("kind", ["looped", "decoder"])
def test_losses_and_parameters_are_those_of_one_device(kind, tmp_path):
    losses, params = [], []
    for count in (1, 4):
        loop.train(config(kind, count), tmp_path / str(count))
        lines = records.read_lines(tmp_path / str(count) / "metrics.jsonl")
        losses.append([line["loss"] for line in lines])
        params.append(load_params(tmp_path / str(count))[1])
    np.testing.assert_allclose(*losses, rtol=1e-5)
    close = lambda one, four: np.testing.assert_allclose(one, four, atol=2e-5)
    jax.tree.map(close, *params)


@pytest.mark.parametrize("kind", ["looped", "decoder"])
def test_each_device_holds_its_part_of_the_examples(kind):
    run = config(kind, 4)
    batch = pipeline.step_at(0, pipeline.open_buckets(run), run).batch
    for name, whole, parts in zip(
        batch._fields, batch, spread(batch, make_mesh(4)), strict=True
    ):
        axis = 1 if name in ("rounds", "mask") else 0
        assert len(parts.addressable_shards) == 4
        for shard in parts.addressable_shards:
            assert shard.data.shape[axis] == whole.shape[axis] // 4
            np.testing.assert_array_equal(shard.data, whole[shard.index])
