"""Small GGUF files, written with the package gguf: random models, any tokenizer."""

import json
import pathlib
from typing import Any

import gguf
import numpy as np
import sentencepiece

KINDS = gguf.GGMLQuantizationType
SIZES = {
    "block_count": 2,
    "context_length": 64,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "head_count": 4,
    "head_count_kv": 2,
    "layer_norm_rms_eps": 1e-5,
    "rope_freq_base": 10_000.0,
}
VOCAB = 600
TOKENIZER = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["a", "b", "ab", *(f"<{i}>" for i in range(3, VOCAB))],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 1,
}


def make_tensors(
    architecture: str, is_tied: bool = False, **changes: int
) -> dict[str, np.ndarray]:
    """Random tensors of a model of `SIZES`, large enough that its texts vary."""
    sizes, rng = SIZES | changes, np.random.default_rng(0)
    dim, mlp = sizes["embedding_length"], sizes["feed_forward_length"]
    kv = dim * sizes["head_count_kv"] // sizes["head_count"]
    matrices = {
        "attn_q": (dim, dim),
        "attn_k": (kv, dim),
        "attn_v": (kv, dim),
        "attn_output": (dim, dim),
        "ffn_up": (mlp, dim),
        "ffn_gate": (mlp, dim),
        "ffn_down": (dim, mlp),
    }
    shapes = {"token_embd.weight": (VOCAB, dim), "output_norm.weight": (dim,)}
    if not is_tied:
        shapes["output.weight"] = (VOCAB, dim)
    for layer in range(sizes["block_count"]):
        start = f"blk.{layer}."
        shapes |= {f"{start}{name}.weight": shape for name, shape in matrices.items()}
        shapes |= {f"{start}{name}_norm.weight": (dim,) for name in ("attn", "ffn")}
        if architecture == "qwen2":
            names = [name for name in matrices if name[-2:] in ("_q", "_k", "_v")]
            shapes |= {f"{start}{name}.bias": matrices[name][:1] for name in names}
    tensors = {}
    for name, shape in shapes.items():
        drawn = rng.normal(size=shape).astype(np.float32)
        tensors[name] = 1 + 0.1 * drawn if "norm" in name else 0.2 * drawn
    return tensors


def write(
    path: pathlib.Path,
    architecture: str = "llama",
    tensors: dict[str, np.ndarray] | None = None,
    kind: Any = KINDS.Q4_0,
    fields: dict[str, Any] | None = None,
) -> pathlib.Path:
    """Writes a file.

    Args:
      kind: of the matrices; vectors are float32, as llama.cpp writes them.
      fields: metadata by whole keys, beside or instead of that of `SIZES`; None leaves a
        key out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    for name, value in SIZES.items():
        getattr(writer, f"add_{name}")(value)
    for key, value in (fields or {}).items():
        writer.kv_data[0].pop(key, None)
        if value is not None:
            add_field(writer, key, value)
    tensors = make_tensors(architecture) if tensors is None else tensors
    for name, tensor in tensors.items():
        stored = KINDS.F32 if tensor.ndim == 1 else kind
        writer.add_tensor(name, gguf.quantize(tensor, stored), raw_dtype=stored)
    write_all(writer)
    return path


def write_all(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_field(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Adds a value under the type that llama.cpp's converter takes for it."""
    kinds = {
        bool: "bool",
        int: "uint32",
        float: "float32",
        str: "string",
        list: "array",
    }
    getattr(writer, f"add_{kinds[type(value)]}")(key, value)


def sentencepiece_fields(model: pathlib.Path) -> dict[str, Any]:
    """The metadata of a SentencePiece model, as llama.cpp's converter writes it."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    types = []
    for i in range(len(pieces)):
        kinds = {
            gguf.TokenType.UNKNOWN: pieces.is_unknown(i),
            gguf.TokenType.CONTROL: pieces.is_control(i),
            gguf.TokenType.BYTE: pieces.is_byte(i),
            gguf.TokenType.NORMAL: True,
        }
        types.append(next(int(kind) for kind, is_it in kinds.items() if is_it))
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [pieces.id_to_piece(i) for i in range(len(pieces))],
        "tokenizer.ggml.scores": [pieces.get_score(i) for i in range(len(pieces))],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": pieces.bos_id(),
        "tokenizer.ggml.eos_token_id": pieces.eos_id(),
        "tokenizer.ggml.unknown_token_id": pieces.unk_id(),
    }


def byte_level_fields(file: pathlib.Path, split: str) -> dict[str, Any]:
    """The metadata of a tokenizer.json with the special tokens 0 and 1."""
    model = json.loads(file.read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    control, normal = int(gguf.TokenType.CONTROL), int(gguf.TokenType.NORMAL)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": split,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [
            control if i < 2 else normal for i in range(len(tokens))
        ],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
