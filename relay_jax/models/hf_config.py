"""The config.json of Hugging Face folders and ours: which decoder a folder holds.

Llama 1 to 3, CodeLlama and Vicuna are one architecture; Mistral adds a window, Qwen2
biases. Whatever else a config asks for is an error, never passed over.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

from relay_jax import config_io
from relay_jax.config import ModelConfig, PositionConfig
from relay_jax.files import read_json

# Name of theirs -> their model_type.
ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
}
# What must have one value, which is also what a missing key means.
FIXED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "partial_rotary_factor": 1.0,
    "quantization_config": None,
}
# RoPE scaling: fields of theirs and of `PositionConfig`.
ROPE_FIELDS = {
    "default": {},
    "linear": {"factor": "rope_factor"},
    "llama3": {
        "factor": "rope_factor",
        "low_freq_factor": "rope_slow",
        "high_freq_factor": "rope_fast",
        "original_max_position_embeddings": "rope_length",
    },
}
GENERATION = "generation_config.json"  # what it tells goes before the config
SPECIAL = ("bos_token_id", "eos_token_id")
LARGEST = 1 << 20  # of all sizes
# Where a config does not tell.
EPSILON, ROPE_BASE, MISTRAL_WINDOW = 1e-6, 10_000.0, 4096


def is_hugging_face(folder: epath.PathLike) -> bool:
    """Whether a folder is a Hugging Face model, not a run directory of ours."""
    file = epath.Path(folder) / "config.json"
    values = read_json(file) if file.exists() else {}
    return isinstance(values, dict) and "architectures" in values


def read_model(folder: epath.PathLike, dtype: str = "") -> ModelConfig:
    """The decoder of a Hugging Face folder.

    Args:
      dtype: of parameters and compute; by default that of the folder.

    Raises:
      ValueError: it is no such folder; an unsupported architecture, RoPE type or
        setting; a missing key.
    """
    if not is_hugging_face(folder):
        raise ValueError(
            f"{folder} is no Hugging Face folder: it has no config.json that names an "
            "architecture"
        )
    file = epath.Path(folder) / "config.json"
    return _parse(read_json(file), str(file), dtype)


def read_special(folder: epath.PathLike, key: str) -> tuple[int, ...]:
    """The token ids that a folder names under a key of `SPECIAL`: in its
    generation_config.json, else its config.json; none where neither tells.

    Raises:
      ValueError: it names something else.
    """
    for name in (GENERATION, "config.json"):
        file = epath.Path(folder) / name
        found = read_json(file).get(key) if file.exists() else None
        if found is None:
            continue
        ids = found if isinstance(found, list) else [found]
        if not all(type(index) is int for index in ids):
            raise ValueError(
                f"{file}: {key} must be a token id or a list of them, got {found!r}"
            )
        return tuple(ids)
    return ()


def special_token_fields(special: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """What `read_special` reads, for a file: an id, or a list of several."""
    pairs = special.items()
    return {key: ids[0] if len(ids) == 1 else list(ids) for key, ids in pairs if ids}


def write_model(
    model: ModelConfig, special: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, Any]:
    """The config.json of a decoder.

    Args:
      special: token ids by the keys of `SPECIAL`, as `read_special` gives them.

    Raises:
      ValueError: no architecture of theirs is like it.
    """
    position = model.position
    architecture = "LlamaForCausalLM"
    if model.qkv_bias:
        architecture = "Qwen2ForCausalLM"
    elif position.window:
        architecture = "MistralForCausalLM"
    values = {
        "architectures": [architecture],
        "model_type": ARCHITECTURES[architecture],
        "num_hidden_layers": model.num_layers,
        "hidden_size": model.dim,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.resolved_num_kv_heads,
        "head_dim": model.resolved_head_dim,
        "intermediate_size": model.mlp_dim,
        "rms_norm_eps": model.norm_epsilon,
        "hidden_act": "silu",
        "vocab_size": model.vocab_size,
        "tie_word_embeddings": model.tie_embeddings,
        "torch_dtype": model.param_dtype,
        "rope_theta": position.rope_base,
        "rope_scaling": None,
        "sliding_window": position.window or None,
    }
    if position.rope_scaling != "none":
        fields = ROPE_FIELDS[position.rope_scaling].items()
        scaling = {theirs: getattr(position, ours) for theirs, ours in fields}
        values["rope_scaling"] = {"rope_type": position.rope_scaling} | scaling
    if model.context_length:
        length = round(model.context_length / _stretch(position))
        values["max_position_embeddings"] = length
    values |= special_token_fields(special or {})
    # What such a config would be read as must be the decoder itself.
    read = config_io.to_dict(_parse(values, "config.json"))
    for key in ("kind", "norm", "activation", "qkv_bias", "number_code", "position"):
        wanted = config_io.to_dict(model)[key]
        if read[key] != wanted:
            raise ValueError(
                f"no Hugging Face architecture is like this decoder: its {key} is "
                f"{wanted!r}; the nearest one, {architecture}, has {read[key]!r}"
            )
    return values


def _parse(values: dict[str, Any], file: str, dtype: str = "") -> ModelConfig:
    named = values["architectures"]
    name = named[0] if named and isinstance(named, list) else named
    if name not in list(ARCHITECTURES):
        raise ValueError(
            f"{file}: the architecture {name} is not supported; supported are "
            f"{', '.join(ARCHITECTURES)}"
        )
    # Where RoPE is told of: transformers 5 has one place, older ones have two.
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    is_dict = isinstance(rope, dict)
    if not is_dict:
        raise ValueError(f"{file}: the settings of RoPE must be a dict, got {rope!r}")
    for key, wanted in FIXED.items():
        found = values.get(key, rope.get(key, wanted))
        if found != wanted:
            raise ValueError(
                f"{file}: {key} is {found!r}; only {wanted!r} is supported"
            )

    def size(key: str, minimum: int = 1, default: int | None = None) -> int:
        found = values.get(key)
        found = default if found is None else found
        if type(found) is not int or not minimum <= found <= LARGEST:
            raise ValueError(
                f"{file}: {key} must be a whole number from {minimum} to {LARGEST}, got "
                f"{found!r}"
            )
        return found

    kind = ARCHITECTURES[name]
    num_heads = size("num_attention_heads")
    dtype = dtype or values.get("dtype") or values.get("torch_dtype") or "float32"
    model = {
        "kind": "decoder",
        "num_layers": size("num_hidden_layers"),
        "dim": size("hidden_size"),
        "num_heads": num_heads,
        "num_kv_heads": size("num_key_value_heads", default=num_heads),
        "head_dim": size("head_dim", 0, default=0),
        "qkv_bias": kind == "qwen2",
        "mlp_dim": size("intermediate_size"),
        "norm": "rms",
        "norm_epsilon": _positive(values, "rms_norm_eps", file, EPSILON),
        "activation": "swiglu",
        "dropout": 0.0,
        "text_vocab_size": size("vocab_size"),
        "tie_embeddings": values.get("tie_word_embeddings", False),
        "dtype": dtype,
        "param_dtype": dtype,
        "position": _parse_rope(rope, values.get("rope_theta") or ROPE_BASE, file),
    }
    if kind == "mistral":
        window = 0 if "sliding_window" in values else MISTRAL_WINDOW  # null: none
        model["position"]["window"] = size("sliding_window", 0, default=window)
    built = config_io.build(ModelConfig, model, file)
    _check_heads(built, file)
    length = size("max_position_embeddings", 0, default=0) * _stretch(built.position)
    return dataclasses.replace(
        built,
        num_kv_heads=built.resolved_num_kv_heads,
        head_dim=built.resolved_head_dim,
        context_length=int(length),
    )


def _parse_rope(rope: dict[str, Any], base: float, file: str) -> dict[str, Any]:
    """RoPE as fields of `PositionConfig`; `base` where it does not tell."""
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in list(ROPE_FIELDS):
        raise ValueError(
            f"{file}: the RoPE type {kind!r} is not supported; supported are "
            f"{', '.join(ROPE_FIELDS)}"
        )
    missing = sorted(set(ROPE_FIELDS[kind]) - set(rope))
    if missing:
        raise ValueError(f"{file}: RoPE of type {kind!r} has no {missing[0]!r}")
    fields = {
        ours: _positive(rope, theirs, file)
        for theirs, ours in ROPE_FIELDS[kind].items()
    }
    if kind == "llama3" and fields["rope_slow"] >= fields["rope_fast"]:
        raise ValueError(
            f"{file}: RoPE's low_freq_factor must be below its high_freq_factor, got "
            f"{fields['rope_slow']} and {fields['rope_fast']}"
        )
    scaling = {} if kind == "default" else {"rope_scaling": kind}
    return {"rope_base": _positive(rope, "rope_theta", file, base)} | scaling | fields


def _stretch(position: PositionConfig) -> float:
    """By how much a text may be longer than `max_position_embeddings` tells: linear RoPE
    is told with the length from before it was stretched, llama3 with that from after."""
    return position.rope_factor if position.rope_scaling == "linear" else 1.0


def _positive(
    values: dict[str, Any], key: str, file: str, default: Any = None
) -> int | float:
    found = values.get(key, default)
    if type(found) not in (int, float) or not 0 < found < math.inf:
        raise ValueError(f"{file}: {key} must be a number above 0, got {found!r}")
    return found


def _check_heads(model: ModelConfig, file: str) -> None:
    if model.num_heads % model.resolved_num_kv_heads:
        raise ValueError(
            f"{file}: num_attention_heads ({model.num_heads}) must be a multiple of "
            f"num_key_value_heads ({model.resolved_num_kv_heads})"
        )
    if not model.head_dim and model.dim % model.num_heads:
        raise ValueError(
            f"{file}: without a head_dim, hidden_size ({model.dim}) must be a multiple "
            f"of num_attention_heads ({model.num_heads})"
        )
    if model.resolved_head_dim % 2:
        raise ValueError(
            f"{file}: the width of a head must be even for RoPE, got {model.resolved_head_dim}"
        )
