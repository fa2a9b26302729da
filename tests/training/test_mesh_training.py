"""Whatever the mesh, a run has the losses and the parameters of one device."""

import functools
import tempfile

import jax
import numpy as np
import pytest

from experiments.configs import tiny
from relay_jax import config as configs
from relay_jax import records
from relay_jax.training import checkpoint, loop

LAYOUTS = [(4, 1, 1), (1, 4, 1), (1, 1, 2), (2, 2, 1), (2, 1, 2), (2, 2, 2)]
KINDS = [("looped", "adamw"), ("decoder", "muon")]


def config(kind, optimizer, sizes=(1, 1, 1), **changes):
    values = tiny.get_config().to_dict()
    values["model"] |= {"kind": kind, "num_layers": 2, "dim": 16, "mlp_dim": 32}
    if kind == "decoder":
        values["model"]["loop_input"] = "hidden"
    values["model"] |= {"dropout": 0.1} | changes.pop("model", {})
    values["data"] |= {"batch_size": 16} | changes.pop("data", {})
    values["mesh"] = dict(zip(("data", "fsdp", "tensor"), sizes))
    values["optimizer"] |= {"kind": optimizer}
    values["evaluation"] |= {"lengths": {"arithmetic": (2, 2)}, "final": 8}
    values |= {"num_steps": 3, "log_every_steps": 1}
    return configs.build(configs.TrainConfig, values | changes)


def run(settings, path):
    """Losses, final records and parameters of a whole run."""
    final = loop.train(settings, path)["final"]
    losses = [x["loss"] for x in records.read_lines(path / "metrics.jsonl")]
    final = [line | {"run": ""} for line in final]
    return losses, final, checkpoint.load_params(path)[1]


def near(one, other):
    np.testing.assert_allclose(one[0], other[0], rtol=1e-5)
    assert one[1] == other[1]
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=5e-5), *(one[2], other[2])
    )


@functools.cache
def alone(kind, optimizer):
    import pathlib

    with tempfile.TemporaryDirectory() as folder:
        return run(config(kind, optimizer), pathlib.Path(folder) / "one")


@pytest.mark.parametrize("sizes", LAYOUTS, ids=str)
@pytest.mark.parametrize("kind, optimizer", KINDS)
def test_every_mesh_trains_as_one_device_does(kind, optimizer, sizes, tmp_path):
    near(alone(kind, optimizer), run(config(kind, optimizer, sizes), tmp_path))
