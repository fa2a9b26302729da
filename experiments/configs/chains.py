"""Chains of the looped model of tiny.py, for 4 and 5 operators."""

from ml_collections import ConfigDict

from relay_jax import config as configs
from relay_jax import config_io


def get_config() -> ConfigDict:
    return ConfigDict(
        config_io.complete(
            configs.ChainsConfig,
            {
                "task": "arithmetic",
                "options": {"modulus": 5},
                "model": "tiny",  # a run directory; a relative one lies beside --workdir
                "counts": {"4": 2000, "5": 2000},
                "filter": "none",
                "judge": "",
                "confidence": 0.9,
                "seed": 0,
            },
        )
    )
