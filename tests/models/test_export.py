"""Parameters as one small file."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import length_extrapolation
from relay_jax import config_io
from relay_jax.config import ModelConfig, TrainConfig
from relay_jax.files import write_json
from relay_jax.models import export
from relay_jax.models.sharding import named_leaves
from relay_jax.training import checkpoint
from relay_jax.training.step import init_params

SMALL = TrainConfig(
    ModelConfig(num_layers=1, dim=16, num_heads=2, mlp_dim=32, num_numbers=8)
)


def ship(folder, config, params, **rest):
    export.write_params(folder, params, **rest)
    write_json(folder / "config.json", config_io.to_dict(config))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_an_exported_model_is_read_as_any_run(tmp_path, dtype):
    params = init_params(SMALL)
    ship(tmp_path, SMALL, params, dtype=dtype)
    config, found = checkpoint.load_params(tmp_path)
    assert config == SMALL
    wanted = jax.tree.map(lambda x: x.astype(dtype).astype(jnp.float32), params)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(found))


def test_a_file_of_another_model_is_refused(tmp_path):
    ship(tmp_path, SMALL, init_params(SMALL))
    other = dataclasses.replace(SMALL.model, mlp_dim=48)
    write_json(tmp_path / "config.json", config_io.to_dict(TrainConfig(other)))
    with pytest.raises(
        ValueError, match=r"down/kernel has the shape \(32, 16\).*\(48, 16\)"
    ):
        checkpoint.load_params(tmp_path)


def test_a_damaged_file_is_refused(tmp_path):
    ship(tmp_path, SMALL, init_params(SMALL))
    file = tmp_path / export.FILE
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"params.safetensors is damaged"):
        checkpoint.load_params(tmp_path)


def test_integers_are_no_parameters(tmp_path):
    """A damaged header may give a tensor another type of the same size."""
    ship(tmp_path, SMALL, init_params(SMALL))
    file = tmp_path / export.FILE
    file.write_bytes(file.read_bytes().replace(b'"BF16"', b'"I16" ', 1))
    with pytest.raises(ValueError, match=r"is damaged: the parameter .* type int16"):
        checkpoint.load_params(tmp_path)


@pytest.mark.parametrize(
    ("task", "num_params"),
    [("arithmetic", 2_438_088), ("edit_distance", 2_459_108), ("lis", 3_245_840)],
)
def test_the_shipped_models_are_those_of_their_configs(task, num_params):
    config, params = checkpoint.load_params(f"experiments/checkpoints/{task}")
    config_values = length_extrapolation.get_config(f"{task}/looped_aligned").to_dict()
    wanted = config_io.build(TrainConfig, config_values)
    # Trained with bfloat16 compute, but shipped for machines without it. Two of them were
    # trained in two calls (about.json), so that their steps and rates differ, and LIS
    # before there was `value_gap_prob`.
    model = dataclasses.replace(wanted.model, dtype="float32")
    unchanged = {"optimizer": config.optimizer, "num_steps": config.num_steps}
    unchanged["evaluation"] = config.evaluation
    unchanged["loss"] = dataclasses.replace(wanted.loss, value_gap_prob=0.0)
    assert config == dataclasses.replace(wanted, model=model, **unchanged)
    assert sum(x.size for x in named_leaves(params).values()) == num_params
