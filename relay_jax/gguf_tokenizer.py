"""The tokenizer in a GGUF file, as the files that a Hugging Face folder would have.

tokenizer.ggml.model   made of the metadata
llama                  tokenizer.model: SentencePiece, with the same pieces and scores
gpt2                   tokenizer.json: byte-level BPE, with the same merges
"""

import json
from typing import Any

import numpy as np
from etils import epath

from relay_jax.base import Host, Integer
from relay_jax.files import write_atomically, write_json
from relay_jax.gguf_file import GGUFFile
from relay_jax.gguf_splits import SPLITS, Split, byte_level, pre_tokenizers
from relay_jax.hf_tokenizer import HuggingFaceTokenizer
from relay_jax.sentencepiece_tokenizer import SentencePieceTokenizer
from relay_jax.tokenizer_files import SETTINGS, TokenizerFiles

KEY = "tokenizer.ggml."
UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6  # types of tokens; 1 is normal
LARGEST_TYPE = 6


def load_tokenizer(file: GGUFFile) -> SentencePieceTokenizer | HuggingFaceTokenizer:
    """The tokenizer in a file. Raises ValueError: see `read_files`."""
    files = read_files(file)
    kind = HuggingFaceTokenizer if _is_byte_level(file) else SentencePieceTokenizer
    return kind(files)


def has_tokenizer(file: GGUFFile) -> bool:
    """Whether a file contains a tokenizer, of a supported kind or another one."""
    return file.get(f"{KEY}model", str, "none") not in ("none", "no_vocab")


def read_files(file: GGUFFile) -> TokenizerFiles:
    """The tokenizer in a file as a Hugging Face folder would have it.

    Its settings have the names of special tokens and the chat template, if any.

    Raises:
      ValueError: its kind is unknown, or a part of it is missing or damaged.
    """
    is_byte_level, tokens = _is_byte_level(file), _read_tokens(file)
    split = _find_split(file) if is_byte_level else None
    if file.get(f"{KEY}add_eos_token", bool, False):
        raise ValueError(
            f"{file.path}: {KEY}add_eos_token is True; only False is supported, as a "
            "prompt is to be continued"
        )
    adds_bos = split is None or split.is_llama3
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast"
        if is_byte_level
        else "LlamaTokenizer",
        "add_bos_token": file.get(f"{KEY}add_bos_token", bool, adds_bos),
        "clean_up_tokenization_spaces": False,
    }
    roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    for role, name in roles.items():
        index = read_id(file, f"{name}_token_id")
        if index is not None:
            settings[f"{role}_token"] = tokens[index]
    for role in ("eos", "bos") if settings["add_bos_token"] else ("eos",):
        if f"{role}_token" not in settings:
            raise ValueError(
                f"{file.path} has no {KEY}{role}_token_id; convert it again"
            )
    added = _added_tokens(file, tokens)
    settings["added_tokens_decoder"] = {
        str(index): each for index, each in added.items()
    }
    if templates := read_templates(file):
        named = [{"name": key, "template": text} for key, text in templates.items()]
        settings["chat_template"] = named if len(named) > 1 else named[0]["template"]
    if split is not None:
        content = _byte_level_json(file, tokens, split, settings)
    else:
        content = _sentencepiece_model(file, tokens, settings)
    return TokenizerFiles(file.path, content, settings, added={}, roles={})


def write_files(file: GGUFFile, folder: epath.PathLike) -> None:
    """Writes the tokenizer of a file into a folder. Raises ValueError: see `read_files`."""
    files = read_files(file)
    name = "tokenizer.json" if _is_byte_level(file) else "tokenizer.model"
    folder = epath.Path(folder)
    write_atomically(folder / name, files.content)
    write_json(folder / SETTINGS, files.settings)


def read_templates(file: GGUFFile) -> dict[str, str]:
    """The chat templates of a file by name: "default", "tool_use"; {} if it has none."""
    keys = {"default": "", "tool_use": ".tool_use"}
    found = {
        name: file.get(f"tokenizer.chat_template{key}", str, "")
        for name, key in keys.items()
    }
    return (
        {name: text for name, text in found.items() if text} if found["default"] else {}
    )


def read_id(file: GGUFFile, name: str) -> int | None:
    """The token id under a key of the tokenizer, None if it is missing.

    Raises:
      ValueError: it is not a token of the file.
    """
    index = file.get(KEY + name, int)
    count = len(file.get(f"{KEY}tokens", list, []))
    if index is not None and count and not 0 <= index < count:
        raise ValueError(f"{file.path}: {KEY}{name} is {index}, of {count} tokens")
    return index


def _is_byte_level(file: GGUFFile) -> bool:
    """Whether the tokenizer is byte-level BPE rather than SentencePiece's."""
    kind = file.get(f"{KEY}model", str)
    if kind not in ("llama", "gpt2"):
        raise ValueError(
            f"{file.path}: the tokenizer kind {kind} ({KEY}model) is not supported; "
            "supported are llama, gpt2; or give another tokenizer"
        )
    return kind == "gpt2"


def _find_split(file: GGUFFile) -> Split:
    name = file.get(f"{KEY}pre", str, "default")
    if name not in SPLITS:
        raise ValueError(
            f"{file.path}: the pre-tokenizer {name!r:.60} ({KEY}pre) is not supported; "
            f"supported are {', '.join(SPLITS)}; or give another tokenizer"
        )
    return SPLITS[name]


def _read_tokens(file: GGUFFile) -> list[str]:
    tokens = file.get(f"{KEY}tokens", list)
    if not tokens:
        raise ValueError(f"{file.path} has no {KEY}tokens; convert it again")
    if len(set(tokens)) < len(tokens) or "" in tokens:
        seen = {""}
        twice = next(each for each in tokens if each in seen or seen.add(each))
        raise ValueError(
            f"{file.path}: {KEY}tokens must be unique and not empty, got {twice!r:.60}"
        )
    return tokens


def _read_numbers(file: GGUFFile, name: str, kinds: str) -> Host | None:
    """A number for each token, of the NumPy `kinds`; None if there are none."""
    found = file.metadata.get(KEY + name)
    if found is None:
        return None
    count = len(file.metadata[f"{KEY}tokens"])
    is_right = isinstance(found, np.ndarray) and found.dtype.kind in kinds
    if not is_right or len(found) != count or not np.isfinite(found).all():
        raise ValueError(
            f"{file.path}: {KEY}{name} must be an array of {count} numbers, one for each "
            "token; convert it again"
        )
    return found


def _read_types(file: GGUFFile) -> Integer[Host, " v"] | None:
    types = _read_numbers(file, "token_type", "iu")
    if types is not None and ((types < 1) | (types > LARGEST_TYPE)).any():
        raise ValueError(f"{file.path}: {KEY}token_type has a type that is not 1 to 6")
    return types


def _added_tokens(file: GGUFFile, tokens: list[str]) -> dict[int, dict[str, Any]]:
    """The tokens that are recognized whole in a text, by id, with transformers' keys."""
    types = _read_types(file)
    if types is None:
        names = [f"{role}_token_id" for role in ("bos", "eos", "unknown", "padding")]
        ids = [read_id(file, name) for name in names]
        whole = special = {index for index in ids if index is not None}
    else:
        special = set(np.flatnonzero(types == CONTROL).tolist())
        whole = special | set(np.flatnonzero(types == USER_DEFINED).tolist())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        i: {"content": tokens[i], **flags, "special": i in special}
        for i in sorted(whole)
    }


def _sentencepiece_model(
    file: GGUFFile, tokens: list[str], settings: dict[str, Any]
) -> bytes:
    """A SentencePiece model with the file's pieces."""
    from sentencepiece import sentencepiece_model_pb2

    scores, types = _read_numbers(file, "scores", "f"), _read_types(file)
    if scores is None or types is None:
        raise ValueError(f"{file.path} has no {KEY}scores or no {KEY}token_type")
    # The class is created at import time: the type checker cannot see it.
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore
    for piece, score, kind in zip(tokens, scores.tolist(), types.tolist()):
        model.pieces.add(piece=piece, score=score, type=kind)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type = trainer.BPE
    trainer.vocab_size = len(tokens)
    trainer.byte_fallback = bool((types == BYTE).any())
    for role in ("bos", "eos", "unk", "pad"):
        name = settings.get(f"{role}_token", f"<no {role}>")
        setattr(trainer, f"{role}_piece", name)
        is_there = f"{role}_token" in settings
        setattr(trainer, f"{role}_id", tokens.index(name) if is_there else -1)
    unknown = np.flatnonzero(types == UNKNOWN).tolist()
    if unknown:  # pieces name it even where no key does
        trainer.unk_piece, trainer.unk_id = tokens[unknown[0]], unknown[0]
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = file.get(f"{KEY}add_space_prefix", bool, True)
    normalizer.remove_extra_whitespaces = False
    return model.SerializeToString(deterministic=True)


def _byte_level_json(
    file: GGUFFile, tokens: list[str], split: Split, settings: dict[str, Any]
) -> bytes:
    """A tokenizer.json of byte-level BPE."""
    merges = file.get(f"{KEY}merges", list)
    if merges is None:
        raise ValueError(f"{file.path} has no {KEY}merges; convert it again")
    vocab = {token: index for index, token in enumerate(tokens)}
    start, special = [], {}
    if settings["add_bos_token"]:
        name = settings["bos_token"]
        start = [{"SpecialToken": {"id": name, "type_id": 0}}]
        special = {name: {"id": name, "ids": [vocab[name]], "tokens": [name]}}
    text = [{"Sequence": {"id": "A", "type_id": 0}}]
    value = {
        "version": "1.0",
        "added_tokens": [
            {"id": int(index)} | each
            for index, each in settings["added_tokens_decoder"].items()
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers(split)},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": start + text,
            "pair": start + text,
            "special_tokens": special,
        },
        "decoder": byte_level(),
        "model": {
            "type": "BPE",
            "ignore_merges": split.is_llama3,
            "vocab": vocab,
            "merges": merges,
        },
    }
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
