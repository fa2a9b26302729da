"""Writes a run's parameters as a small file that can be shipped with the code.

    python -m experiments.ship --run=runs/far/arithmetic --workdir=experiments/checkpoints/NAME

The directory is then one that every script takes as a run: config.json and
params.safetensors (bfloat16 unless --dtype says otherwise).
"""

from absl import flags
from etils import epath

from experiments import command
from relay_jax import config_io
from relay_jax.files import write_json
from relay_jax.models import export
from relay_jax.training import checkpoint

_RUN = flags.DEFINE_string("run", None, "A run directory.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "The directory to be.", required=True)
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["bfloat16", "float32"], "Of the file.")


def main() -> None:
    target = epath.Path(_WORKDIR.value)
    if (target / "config.json").exists():
        raise ValueError(f"{target} holds a model already; give another place")
    config, params = checkpoint.load_params(_RUN.value)
    command.make_folder(target)
    export.write_params(target, params, _DTYPE.value)
    write_json(target / "config.json", config_io.to_dict(config))
    size = (target / export.FILE).stat().length
    print(f"{_RUN.value} -> {target} ({size / 1e6:.1f} MB)")


if __name__ == "__main__":
    command.run(main)
