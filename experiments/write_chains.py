r"""Generates chains for longer problems with a trained model (stage II of RELAY).

    python -m experiments.write_chains --config=experiments/configs/chains.py \\
        --config.model=/tmp/tiny --workdir=/tmp/chains

When interrupted, the same command resumes with the first length that is missing.
"""

import json

from absl import flags
from ml_collections import config_flags

from experiments import command
from relay_jax.config import ChainsConfig
from relay_jax.relay.generate import write_chains

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment's file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The directory of the chains.")
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    config = command.build(ChainsConfig, _CONFIG.value.to_dict())
    print(json.dumps(write_chains(config, _WORKDIR.value), indent=2))


if __name__ == "__main__":
    command.run(main)
