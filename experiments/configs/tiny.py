"""One looped model in a minute on two cores: arithmetic modulo 5, up to 3 operators."""

from ml_collections import ConfigDict

from relay_jax import config as configs
from relay_jax import config_io


def get_config() -> ConfigDict:
    return ConfigDict(
        config_io.complete(
            configs.TrainConfig,
            {
                "name": "looped_aligned",
                "model": {
                    "kind": "looped",
                    "input_injection": "feedback",
                    "num_layers": 2,
                    "dim": 32,
                    "mlp_dim": 128,
                    "num_numbers": 8,
                    "dropout": 0.0,
                    "position": {"scheme": "relative_bias", "log_length_scaling": True},
                },
                "optimizer": {"learning_rate": 3e-3, "warmup_share": 0.05},
                "data": {
                    "batch_size": 64,
                    "buckets": {
                        "arithmetic": {
                            "task": "arithmetic",
                            "lengths": (1, 3),
                            "options": {"modulus": 5},
                        }
                    },
                },
                "evaluation": {
                    "lengths": {"arithmetic": (1, 5)},
                    "options": {"arithmetic": {"modulus": 5}},
                    "every_steps": 500,
                    "final": 512,
                },
                "num_steps": 1500,
                "checkpoint_every_seconds": 5.0,
            },
        )
    )
