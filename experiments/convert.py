"""Turns a Hugging Face folder into a run directory, or a run into such a folder.

    python -m experiments.convert --from=vicuna-7b-v1.5 --workdir=runs/vicuna
    python -m experiments.convert --from=runs/code_lm --hugging_face=code_lm_hf

No script needs the first: --run=vicuna-7b-v1.5 reads the folder itself. A run directory
can also be trained from (`init_from`). The tokenizer goes along.
"""

from absl import flags
from etils import epath

from experiments import command
from relay_jax.config import TrainConfig
from relay_jax.models import architecture, convert
from relay_jax.tokens import TOKENIZER_FILES
from relay_jax.training import checkpoint

_FROM = flags.DEFINE_string("from", None, "What is turned.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", "", "The run directory to be.")
_FOLDER = flags.DEFINE_string("hugging_face", "", "Or the Hugging Face folder to be.")
_DTYPE = flags.DEFINE_string("dtype", "", "Of the run's parameters; default: theirs.")


def main() -> None:
    source = epath.Path(_FROM.value)
    if bool(_WORKDIR.value) == bool(_FOLDER.value):
        raise ValueError("give --workdir or --hugging_face")
    target = epath.Path(_WORKDIR.value or _FOLDER.value)
    if (target / "config.json").exists():
        raise ValueError(f"{target} holds a model already; give another place")
    if _WORKDIR.value:
        model = architecture.read_model(source, _DTYPE.value)
        config = TrainConfig(model=model, name=source.name)
        checkpoint.save_params(target, config, convert.load_params(source, model))
    else:
        config, params = checkpoint.load_params(source)
        convert.save_params(params, config.model, target)
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            (source / name).copy(target / name)
    print(f"{source} -> {target}")


if __name__ == "__main__":
    command.run(main)
