"""Turns a Hugging Face folder into a run directory, or a run into such a folder.

    python -m experiments.convert --from=vicuna-7b-v1.5 --workdir=runs/vicuna
    python -m experiments.convert --from=runs/code_lm --hugging_face=code_lm_hf

No script needs the first: --run=vicuna-7b-v1.5 reads the folder itself. A run directory
can also be trained from (`init_from`). A model that one device does not hold is spread
over several (--mesh=8,1). The tokenizer goes along, and what the folder says
of the tokens that begin and end a text.
"""

from absl import flags
from etils import epath

from experiments import command, devices
from relay_jax.config import TrainConfig
from relay_jax.files import read_json, write_json
from relay_jax.models import hf_config, hf_weights
from relay_jax.tokenizers import TOKENIZER_FILES, has_tokenizer, load_run_tokenizer
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
        model = hf_config.read_model(source, _DTYPE.value)
        config = TrainConfig(model=model, name=source.name)
        params = hf_weights.load_params(source, model, devices.mesh())
        checkpoint.save_params(target, config, params)
    else:
        config, params = checkpoint.load_params(source, devices.mesh())
        special = _special(source, config)
        hf_weights.save_params(params, config.model, target, special=special)
    for name in (*TOKENIZER_FILES, hf_config.GENERATION):
        if (source / name).exists():
            (source / name).copy(target / name)
    if _WORKDIR.value:  # it has this file alone for what the folder's config says
        file = target / hf_config.GENERATION
        held = read_json(file) if file.exists() else {}
        write_json(file, held | hf_config.special_token_fields(_read_special(source)))
    print(f"{source} -> {target}")


def _read_special(source: epath.Path) -> dict[str, tuple[int, ...]]:
    keys = hf_config.SPECIAL
    return {key: hf_config.read_special(source, key) for key in keys}


def _special(source: epath.Path, config: TrainConfig) -> dict[str, tuple[int, ...]]:
    """The ids that begin and end a text: the run's, or what its tokenizer tells."""
    told = _read_special(source)
    is_known = has_tokenizer(source) or not config.model.text_vocab_size
    if is_known and not told["eos_token_id"]:
        tokenizer = load_run_tokenizer(source, config.model.num_numbers)
        begin = tuple(tokenizer.encode("")[:1])
        told = {"bos_token_id": begin, "eos_token_id": (tokenizer.eos_id,)}
    return told


if __name__ == "__main__":
    command.run(main)
