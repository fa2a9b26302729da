"""Lets a trained model write chains for longer problems (stage II).

    python -m experiments.write_chains --config=experiments/configs/chains.py \
        --config.model=/tmp/tiny --workdir=/tmp/chains

Interrupted, the same command goes on with the first length that is not yet written.
"""

import json

from absl import flags
from ml_collections import config_flags

from experiments import command
from relay_jax import config as configs
from relay_jax.relay import generate

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment's file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the chains are kept.")
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    config = command.build(configs.ChainsConfig, _CONFIG.value.to_dict())
    print(json.dumps(generate.write_chains(config, _WORKDIR.value), indent=2))


if __name__ == "__main__":
    command.run(main)
