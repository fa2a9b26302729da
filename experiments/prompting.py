"""The flags of every script that decodes: which run, with which words, from what."""

import itertools
import sys
from collections.abc import Iterator

from absl import flags
from etils import epath

from experiments import command, devices
from relay_jax.base import PyTree
from relay_jax.config import ModelConfig, TrainConfig
from relay_jax.data import corpora
from relay_jax.models import hf_config, hf_weights
from relay_jax.models.decoder import unstack_layers
from relay_jax.rest.index import AnyIndex, MeshIndex
from relay_jax.tokenizers import (
    IdTokenizer,
    Tokenizer,
    load_run_tokenizer,
    load_tokenizer,
)
from relay_jax.training import checkpoint, run_dir

_RUN = flags.DEFINE_string(
    "run",
    None,
    "The decoder: a run directory, or a Hugging Face folder.",
    required=True,
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    "",
    ["", "float32", "bfloat16", "float16"],
    "Type of a Hugging Face model; default: its own.",
)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", "", "A tokenizer's file or folder; default: that of the run."
)
_PROMPT = flags.DEFINE_multi_string("prompt", [], "A text to go on with; repeatable.")
_PROMPT_IDS = flags.DEFINE_multi_string("prompt_ids", [], "A prompt as ids: 1,2,3.")
_PROMPT_FILE = flags.DEFINE_string("prompt_file", "", "A file with a prompt a line.")
_JSONL = flags.DEFINE_list("prompts_jsonl", [], "JSON-lines files: a prompt a line.")
_KEY = flags.DEFINE_string("prompt_key", "prompt", "Field of the prompt.")
_FILES = flags.DEFINE_list("files", [], "Files, folders or patterns to go on with.")
_TOKEN_ARRAY = flags.DEFINE_string(
    "token_array", "", "A .npy file of documents, each to be gone on with."
)
_PIECE = flags.DEFINE_integer(
    "piece_tokens", 0, "Cut files and documents into pieces of so many first; 0: none."
)
_SKIP = flags.DEFINE_integer("skip_prompts", 0, "Prompts at the beginning left out.")
_CUT = flags.DEFINE_integer(
    "prompt_tokens", 64, "Tokens of a file or document that are the prompt.", 1
)


def open_run(needs_words: bool = True) -> tuple[TrainConfig, Tokenizer]:
    """Config and tokenizer of --run; no parameter is read yet, but what can be seen to
    be wrong is told.

    Args:
      needs_words: whether text is to be read or shown, for which ids do not suffice.

    Raises:
      ValueError: it holds no decoder, or lacks weights; there is no tokenizer, or it is
        another model's; --mesh does not fit the devices.
    """
    run = epath.Path(_RUN.value)
    devices.mesh()
    is_hugging_face_folder = hf_config.is_hugging_face(run)
    if is_hugging_face_folder:
        model = hf_config.read_model(run, _DTYPE.value)
        config = TrainConfig(model=model, name=run.name)
        hf_weights.check(run, model)
    elif _DTYPE.value:
        raise ValueError(
            f"--dtype={_DTYPE.value} is for a Hugging Face folder, but {run} is a run "
            "directory, whose config fixes the type; leave --dtype out"
        )
    else:
        config = run_dir.read_config(run)
    if config.model.kind != "decoder":
        raise ValueError(
            f"{run} holds a {config.model.kind} model; decoding needs a decoder"
        )
    tokenizer = _open_tokenizer(config.model, is_hugging_face_folder)
    if needs_words and isinstance(tokenizer, IdTokenizer):
        raise ValueError(tokenizer.refusal())
    return config, tokenizer


def _open_tokenizer(model: ModelConfig, is_hugging_face_folder: bool) -> Tokenizer:
    """That of --tokenizer, else of --run; see `open_run`."""
    run = _RUN.value
    if _TOKENIZER.value:
        tokenizer = load_tokenizer(_TOKENIZER.value)
    else:
        tokenizer = load_run_tokenizer(run, model.num_numbers, model.text_vocab_size)
    words, places = tokenizer.vocab_size, model.vocab_size
    # Some published models have places for words to come: less is no error there.
    may_be_less = is_hugging_face_folder or not _TOKENIZER.value
    if words > places or (words < places and not may_be_less):
        raise ValueError(
            f"the tokenizer has {words} words, the model {places}; give the model's own "
            "with --tokenizer"
        )
    ends, end = hf_config.read_special(run, "eos_token_id"), tokenizer.eos_id
    if _TOKENIZER.value and ends and end not in ends:
        raise ValueError(
            f"--tokenizer={_TOKENIZER.value} ends a text with the token {end}, but "
            f"{run} with {', '.join(map(str, ends))}; give the model's own"
        )
    return tokenizer


def end_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that end a text: those that --run names, else the tokenizer's."""
    return hf_config.read_special(_RUN.value, "eos_token_id") or (tokenizer.eos_id,)


def load_params(config: TrainConfig, index: AnyIndex | None) -> PyTree:
    """The parameters of --run, layer by layer, spread over --mesh, on the devices of the
    index.

    Raises:
      ValueError: they are missing, damaged, or of another shape.
    """
    mesh = index.mesh if isinstance(index, MeshIndex) else devices.mesh()
    if hf_config.is_hugging_face(_RUN.value):
        params = hf_weights.load_params(_RUN.value, config.model, mesh)
    else:
        params = checkpoint.load_params(_RUN.value, mesh)[1]
    return unstack_layers(params)


def check_length(model: ModelConfig, prompt: int, new: int) -> None:
    """Warns where texts outgrow what a model was made for: it may write nonsense then."""
    most = model.context_length
    if most and prompt + new > most:
        print(
            f"a prompt of {prompt} tokens and {new} new ones are more than the {most} "
            "that the model was made for; what it writes beyond them may be nonsense",
            file=sys.stderr,
        )


def read_prompts(tokenizer: Tokenizer, most: int = 0) -> list[list[int]]:
    """The prompts of all flags; at most so many if `most` is given.

    Raises:
      ValueError: a file is missing or holds something else; no prompt is given.
    """
    stop = _SKIP.value + most if most else None
    prompts = list(itertools.islice(_prompts(tokenizer), _SKIP.value, stop))
    if not prompts:
        raise ValueError(
            "no prompt: give --prompt, --prompt_ids, --prompt_file, --prompts_jsonl, or "
            "--files or --token_array with documents longer than --prompt_tokens "
            f"({_CUT.value})"
        )
    return prompts


def source() -> str:
    """Where the prompts come from, for records."""
    files = [*_JSONL.value, *_FILES.value]
    return ",".join(filter(None, [_PROMPT_FILE.value, *files, _TOKEN_ARRAY.value]))


def _prompts(tokenizer: Tokenizer) -> Iterator[list[int]]:
    yield from map(tokenizer.encode, _PROMPT.value)
    for ids in _PROMPT_IDS.value:
        yield list(command.whole_numbers("prompt_ids", ids))
    if _PROMPT_FILE.value:
        file = epath.Path(_PROMPT_FILE.value)
        if not file.exists():
            raise ValueError(f"--prompt_file: {file} does not exist")
        for line in file.read_text().splitlines():
            if line.strip():
                yield tokenizer.encode(line)
    if _JSONL.value:
        files = corpora.find_files(_JSONL.value)
        yield from map(tokenizer.encode, corpora.read_json_lines(files, _KEY.value))
    documents = map(
        tokenizer.encode, corpora.read_files(corpora.find_files(_FILES.value))
    )
    yield from _cut(documents)
    if _TOKEN_ARRAY.value:
        yield from _cut(corpora.read_tokens(_TOKEN_ARRAY.value, tokenizer.eos_id))


def _cut(documents) -> Iterator[list[int]]:
    """The first tokens of every document, or piece of one, that goes on after them."""
    for document in documents:
        size = _PIECE.value or len(document) or 1
        for first in range(0, len(document), size):
            piece = document[first : first + size]
            if len(piece) > _CUT.value + 1:
                yield list(map(int, piece[: _CUT.value]))
