"""A run of a few steps, which many tests of training share."""

import os
import pathlib
import signal

from experiments.configs import tiny
from relay_jax import config as configs
from relay_jax import config_io, files

ROOT = pathlib.Path(__file__).parents[2]
# A process that a test starts compiles as this one does, see tests/conftest.py.
FLAGS = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)}
OFTEN = {"checkpoint_every_seconds": 0.0}


def small(**changes):
    """The config of a looped model that is trained for 6 steps."""
    values = tiny.get_config().to_dict()
    values["model"] |= {"num_layers": 1, "dim": 16, "mlp_dim": 16}
    values["data"]["batch_size"] = 4
    values["evaluation"] |= {"every_steps": 4, "during": 4, "final": 8}
    values |= {"num_steps": 6, "log_every_steps": 1, "checkpoint_every_seconds": 1e9}
    return config_io.build(configs.TrainConfig, values | changes)


def stop_after(monkeypatch, step):
    """Sends SIGTERM to this process once the metrics of a step are written."""
    append = files.append_lines

    def stop(path, lines):
        append(path, lines)
        if path.name == "metrics.jsonl" and lines[-1]["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(files, "append_lines", stop)
