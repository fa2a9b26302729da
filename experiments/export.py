r"""Writes a model in another form: as a Hugging Face folder, a run, or a small file.

    python -m experiments.export --from=runs/code_lm --to=hugging_face \
        --workdir=code_lm_hf
    python -m experiments.export --from=vicuna-7b-v1.5 --to=run --workdir=runs/vicuna
    python -m experiments.export --from=llama.Q4_K_M.gguf --workdir=llama_hf
    python -m experiments.export --from=runs/arithmetic --to=weights \
        --workdir=experiments/checkpoints/NAME

hugging_face: the folder that transformers and vLLM load, from a run or a GGUF file. The
tokenizer and the ids of the tokens that begin and end a text are copied too.

run: a run directory from a Hugging Face folder or a GGUF file, to train from
(`init_from`). Decoding needs none: --run=vicuna-7b-v1.5 reads the folder itself.

weights: config.json and params.safetensors (bfloat16 unless --dtype says otherwise),
small enough to ship with the code. Every script takes such a directory as a run.
"""

from absl import flags
from etils import epath

from experiments import command
from experiments import flags as shared
from relay_jax import chat_template, config_io, gguf_tokenizer
from relay_jax.config import TrainConfig
from relay_jax.files import read_json, write_json
from relay_jax.gguf_file import is_gguf, read_gguf
from relay_jax.models import export, gguf, hf_config, hf_weights
from relay_jax.pretrained import open_folder
from relay_jax.tokenizers import TOKENIZER_FILES, has_tokenizer, load_run_tokenizer
from relay_jax.training import checkpoint

shared.define_mesh()
_FROM = flags.DEFINE_string(
    "from", None, "The model: a run, Hugging Face folder or GGUF file.", required=True
)
_TO = flags.DEFINE_enum(
    "to",
    None,
    ["hugging_face", "run", "weights"],
    "The form to write; default: run from a Hugging Face folder, else hugging_face.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The directory to write to.", required=True
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    "",
    ["", "float32", "bfloat16", "float16"],
    "Type of the parameters written; default: the model's own, bfloat16 for weights.",
)


def main() -> None:
    source, target = epath.Path(_FROM.value), epath.Path(_WORKDIR.value)
    is_file, is_folder = is_gguf(source), hf_config.is_hugging_face(source)
    if is_file:
        kind, forms = "a GGUF file", ["hugging_face", "run"]
    elif is_folder:
        kind, forms = "a Hugging Face folder", ["run"]
    else:
        kind, forms = "not a Hugging Face folder", ["hugging_face", "weights"]
    form = _TO.value or forms[0]
    if form not in forms:
        raise ValueError(f"--from={source} is {kind}; give --to={' or '.join(forms)}")
    if (target / "config.json").exists():
        raise ValueError(f"{target} holds a model already; give another --workdir")
    if is_file:
        from_gguf(source, target, form)
    else:
        writers = {"hugging_face": to_hugging_face, "run": to_run}
        (writers | {"weights": to_weights})[form](source, target)
    print(f"{source} -> {target}")


def from_gguf(source: epath.Path, target: epath.Path, form: str) -> None:
    """Writes a GGUF file as a Hugging Face folder or a run directory."""
    folder = open_folder(source, dtype=_DTYPE.value)
    file, special = read_gguf(source), gguf.read_special(read_gguf(source))
    params = folder.load_params(shared.mesh())
    if form == "hugging_face":
        hf_weights.save_params(params, folder.config.model, target, special=special)
    else:
        checkpoint.save_params(target, folder.config, params)
        values = hf_config.special_token_fields(special)
        write_json(target / hf_config.GENERATION, values)
    if gguf_tokenizer.has_tokenizer(file):
        gguf_tokenizer.write_files(file, target)


def to_hugging_face(source: epath.Path, target: epath.Path) -> None:
    """Writes a run as a Hugging Face folder."""
    if _DTYPE.value:
        raise ValueError(
            f"--dtype={_DTYPE.value} is for --to=run and --to=weights; a Hugging Face "
            "folder has the type of its run; leave --dtype out"
        )
    config, params = checkpoint.load_params(source, shared.mesh())
    special = _special_tokens(source, config)
    hf_weights.save_params(params, config.model, target, special=special)
    _copy_tokenizer(source, target)


def to_run(source: epath.Path, target: epath.Path) -> None:
    """Writes a Hugging Face folder as a run directory."""
    model = hf_weights.untie(source, hf_config.read_model(source, _DTYPE.value))
    config = TrainConfig(model=model, name=source.name)
    params = hf_weights.load_params(source, model, shared.mesh())
    checkpoint.save_params(target, config, params)
    _copy_tokenizer(source, target)
    # A run has this file alone for the special tokens of the folder's config.
    file = target / hf_config.GENERATION
    values = read_json(file) if file.exists() else {}
    write_json(file, values | hf_config.special_token_fields(_read_special(source)))


def to_weights(source: epath.Path, target: epath.Path) -> None:
    """Writes a run as its config and one file of parameters."""
    config, params = checkpoint.load_params(source)
    command.make_folder(target)
    export.write_params(target, params, _DTYPE.value or "bfloat16")
    write_json(target / "config.json", config_io.to_dict(config))
    _copy_tokenizer(source, target)
    size = (target / export.FILE).stat().length
    print(f"{target / export.FILE}: {size / 1e6:.1f} MB")


def _copy_tokenizer(source: epath.Path, target: epath.Path) -> None:
    templates = chat_template.FILE, chat_template.TOOL_FILE
    for name in (*TOKENIZER_FILES, *templates, hf_config.GENERATION):
        if (source / name).exists():
            (target / name).parent.mkdir(exist_ok=True)
            (source / name).copy(target / name)


def _read_special(source: epath.Path) -> dict[str, tuple[int, ...]]:
    keys = hf_config.SPECIAL
    return {key: hf_config.read_special(source, key) for key in keys}


def _special_tokens(
    source: epath.Path, config: TrainConfig
) -> dict[str, tuple[int, ...]]:
    """The ids that begin and end a text: the run's, or those of its tokenizer."""
    special = _read_special(source)
    is_known = has_tokenizer(source) or not config.model.text_vocab_size
    if is_known and not special["eos_token_id"]:
        tokenizer = load_run_tokenizer(source, config.model.num_numbers)
        begin = tuple(tokenizer.encode("")[:1])
        special = {"bos_token_id": begin, "eos_token_id": (tokenizer.eos_id,)}
    return special


if __name__ == "__main__":
    command.run(main)
