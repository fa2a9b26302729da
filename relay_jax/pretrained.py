"""Models from Hugging Face folders, GGUF files and run directories.

    model = relay_jax.load("FOLDER")

`open_folder` reads and checks everything but the parameters, in milliseconds, so that
any other error is found before they are loaded.
"""

from typing import Literal, NamedTuple

from absl import logging
from etils import epath
from jax.sharding import Mesh

from relay_jax import chat_template, gguf_tokenizer
from relay_jax.base import PyTree
from relay_jax.chat_template import ChatTemplate
from relay_jax.config import TrainConfig
from relay_jax.generation import LanguageModel
from relay_jax.gguf_file import is_gguf, read_gguf
from relay_jax.logits_config import NO_RULES, LogitsRules
from relay_jax.models import gguf, hf_config, hf_generation, hf_weights
from relay_jax.models.decoder import unstack_layers
from relay_jax.solver import LoopedSolver, make_solver
from relay_jax.tokenizers import (
    IdTokenizer,
    Tokenizer,
    load_run_tokenizer,
    load_tokenizer,
)
from relay_jax.training import checkpoint, run_dir


class ModelFolder(NamedTuple):
    """A checked folder or file of a model; its parameters are not read yet."""

    path: epath.Path
    config: TrainConfig
    tokenizer: Tokenizer
    eos_ids: tuple[int, ...]  # the folder's, else the tokenizer's
    form: Literal["run", "hugging_face", "gguf"]
    chat_template: ChatTemplate | None = None
    rules: LogitsRules = NO_RULES  # that its texts are generated with by default

    def load_params(self, mesh: Mesh | None = None) -> PyTree:
        """The parameters, sharded over a mesh, or on the first device.

        Raises:
          ValueError: they are missing, damaged, or of another shape.
        """
        model = self.config.model
        if self.form == "hugging_face":
            return hf_weights.load_params(self.path, model, mesh)
        if self.form == "gguf":
            return gguf.load_params(read_gguf(self.path), model, mesh)
        return checkpoint.load_params(self.path, mesh)[1]

    def load_decoder(self, mesh: Mesh | None = None) -> LanguageModel:
        """The decoder with its parameters. Raises ValueError: see `load_params`."""
        return LanguageModel(
            config=self.config.model,
            params=unstack_layers(self.load_params(mesh)),
            tokenizer=self.tokenizer,
            eos_ids=self.eos_ids,
            name=self.config.name,
            mesh=mesh if mesh is not None and mesh.size > 1 else None,
            chat_template=self.chat_template,
            rules=self.rules,
        )


def load(
    path: epath.PathLike,
    *,
    dtype: str = "",
    tokenizer: epath.PathLike = "",
    mesh: Mesh | None = None,
) -> LanguageModel | LoopedSolver:
    """Loads a model: a decoder as `LanguageModel`, a looped model as `LoopedSolver`.

    Args:
      path: a Hugging Face folder (Llama, Mistral, Qwen2), a GGUF file (Llama, Qwen2) or
        a run directory.
      dtype: of a published model's parameters and compute, "float32", "bfloat16" or
        "float16"; by default the folder's, and float32 for quantized parameters.
      tokenizer: a tokenizer's file or folder; by default the model's.
      mesh: devices over which the parameters are sharded (`models.sharding.make_mesh`);
        by default they are on the first device.

    Raises:
      ValueError: it is not a model's folder; a file is missing, damaged or unsupported;
        or the tokenizer is that of another model.
    """
    folder = open_folder(path, dtype=dtype, tokenizer=tokenizer)
    if folder.config.model.kind == "looped":
        return make_solver(folder.config, folder.load_params(mesh))
    return folder.load_decoder(mesh)


def open_folder(
    path: epath.PathLike, *, dtype: str = "", tokenizer: epath.PathLike = ""
) -> ModelFolder:
    """Reads and checks a model's folder, except for its parameters.

    Args:
      dtype, tokenizer: see `load`.

    Raises:
      ValueError: see `load`.
    """
    path = epath.Path(path)
    if is_gguf(path):
        return _open_gguf(path, dtype, tokenizer)
    is_hugging_face = hf_config.is_hugging_face(path)
    if is_hugging_face:
        model = hf_weights.untie(path, hf_config.read_model(path, dtype))
        config = TrainConfig(model=model, name=path.name)
        hf_weights.check(path, model)
    elif dtype:
        raise ValueError(
            f"dtype={dtype} is for a published model, but {path} is a run "
            "directory, whose config fixes the type; leave dtype out"
        )
    elif not (path / "config.json").exists():
        raise ValueError(
            f"{path} is not a model: it has no config.json; give a Hugging Face folder, "
            "a GGUF file, or a run directory that experiments.train has made"
        )
    else:
        config = run_dir.read_config(path)
    model = config.model
    opened = (
        load_tokenizer(tokenizer)
        if tokenizer
        else load_run_tokenizer(path, model.num_numbers, model.text_vocab_size)
    )
    ends = hf_config.read_special(path, "eos_token_id")
    # Some published models have more embeddings than their tokenizer has tokens.
    may_be_fewer = is_hugging_face or not tokenizer
    _check_tokenizer(opened, model.vocab_size, may_be_fewer)
    if tokenizer:
        _check_end(opened, ends, tokenizer, path)
    form = "hugging_face" if is_hugging_face else "run"
    template = chat_template.find(_tokenizer_folder(path, tokenizer))
    settings = hf_generation.read_settings(path, model.vocab_size)
    if notice := settings.describe():
        logging.warning("%s", notice)
    ends = ends or (opened.eos_id,)
    return ModelFolder(path, config, opened, ends, form, template, settings.rules)


def _open_gguf(path: epath.Path, dtype: str, tokenizer: epath.PathLike) -> ModelFolder:
    """Reads and checks a GGUF file; see `open_folder`."""
    file = read_gguf(path)
    model = gguf.read_model(file, dtype)
    gguf.check(file, model)
    ends = gguf.read_special(file)["eos_token_id"]
    if tokenizer:
        opened = load_tokenizer(tokenizer)
        _check_end(opened, ends, tokenizer, path)
    elif gguf_tokenizer.has_tokenizer(file):
        opened = gguf_tokenizer.load_tokenizer(file)
    else:
        opened = IdTokenizer(str(path), model.text_vocab_size)
    _check_tokenizer(opened, model.vocab_size, may_be_fewer=True)
    config = TrainConfig(model=model, name=path.stem)
    template = chat_template.find(_tokenizer_folder(path, tokenizer))
    return ModelFolder(path, config, opened, ends or (opened.eos_id,), "gguf", template)


def check_decoder(folder: ModelFolder, needs_text: bool = True) -> None:
    """Checks that a folder contains a decoder and, if `needs_text`, its tokenizer.

    Raises:
      ValueError: it does not.
    """
    kind = folder.config.model.kind
    if kind != "decoder":
        raise ValueError(
            f"{folder.path} holds a {kind} model; decoding needs a decoder"
        )
    if needs_text and isinstance(folder.tokenizer, IdTokenizer):
        raise ValueError(folder.tokenizer.refusal())


def _tokenizer_folder(path: epath.Path, name: epath.PathLike) -> epath.Path:
    """The folder or GGUF file of the named tokenizer, else the model's: the chat template
    is there."""
    named = epath.Path(name or path)
    if named.is_dir() or is_gguf(named):
        return named
    return named.parent if named.exists() else path  # relay:64 is no file


def _check_tokenizer(tokenizer: Tokenizer, vocab_size: int, may_be_fewer: bool) -> None:
    too_few = tokenizer.vocab_size < vocab_size and not may_be_fewer
    if tokenizer.vocab_size > vocab_size or too_few:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model {vocab_size}; "
            "give the model's own tokenizer"
        )


def _check_end(
    tokenizer: Tokenizer, ends: tuple[int, ...], name: epath.PathLike, path: epath.Path
) -> None:
    """Checks that a text ends in the named tokenizer as it does in the model's folder."""
    if ends and tokenizer.eos_id not in ends:
        raise ValueError(
            f"the tokenizer {name} ends a text with the token {tokenizer.eos_id}, but "
            f"{path} with {', '.join(map(str, ends))}; give the model's own tokenizer"
        )
