"""The config.json of Hugging Face folders and our decoder's config, both ways.

Llama 1 to 3, CodeLlama and Vicuna are one architecture; Mistral adds a sliding window,
Qwen2 adds biases. Any other setting that a config asks for is an error, never ignored.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from absl import logging
from etils import epath

from relay_jax import config_io
from relay_jax.config import ModelConfig
from relay_jax.files import read_json
from relay_jax.models import hf_rope
from relay_jax.models.hf_rope import positive

# Architecture -> model_type.
ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
}
# Keys with one supported meaning: its spellings, of which the first is the default.
FIXED = {
    "hidden_act": ("silu", "swish"),  # two names of one function
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "is_causal": (True,),
    "partial_rotary_factor": (1.0, None),
    "quantization_config": (None,),
}
GENERATION = "generation_config.json"  # has priority over config.json
SPECIAL = ("bos_token_id", "eos_token_id")
LAYERS = "full_attention", "sliding_attention"
MAX_SIZE = 1 << 20  # of every size in a config
EPSILON, MISTRAL_WINDOW = 1e-6, 4096  # defaults


def is_hugging_face(folder: epath.PathLike) -> bool:
    """Whether a folder is a Hugging Face model, not a run directory of ours."""
    file = epath.Path(folder) / "config.json"
    values = read_json(file) if file.exists() else {}
    return isinstance(values, dict) and "architectures" in values


def read_model(folder: epath.PathLike, dtype: str = "") -> ModelConfig:
    """The config of the decoder in a Hugging Face folder.

    Args:
      dtype: of parameters and compute; by default the folder's.

    Raises:
      ValueError: it is not such a folder; an architecture, RoPE type or setting is not
        supported; a key is missing.
    """
    if not is_hugging_face(folder):
        raise ValueError(
            f"{folder} is no Hugging Face folder: it has no config.json that names an "
            "architecture"
        )
    file = epath.Path(folder) / "config.json"
    return parse(read_json(file), str(file), dtype)


def parse(values: dict[str, Any], file: str, dtype: str = "") -> ModelConfig:
    """The decoder that the contents of a config.json describe.

    Args:
      file: where they are from, for messages.
      dtype: see `read_model`.

    Raises:
      ValueError: see `read_model`.
    """
    names = values["architectures"]
    name = names[0] if names and isinstance(names, list) else names
    if name not in list(ARCHITECTURES):
        raise ValueError(
            f"{file}: the architecture {name} is not supported; supported are "
            f"{', '.join(ARCHITECTURES)}"
        )
    rope = hf_rope.find(values, file)
    for key, accepted in FIXED.items():
        for settings in (values, rope):
            found = settings.get(key, accepted[0])
            if found not in accepted:
                raise ValueError(
                    f"{file}: {key} is {found!r}; only {accepted[0]!r} is supported"
                )
    kind = ARCHITECTURES[name]
    if values.get("model_type", kind) != kind:
        logging.warning(
            "%s: model_type is %r, but architectures names %s, of type %r; the "
            "architecture is taken, transformers may take the type",
            *(file, values["model_type"], name, kind),
        )
    dtype = dtype or _find_dtype(values, file)
    position = hf_rope.parse(rope, file)
    if kind == "mistral":
        position["window"] = _window(values, file)
    model = _sizes(values, file) | {
        "kind": "decoder",
        "qkv_bias": kind == "qwen2",
        "norm": "rms",
        "norm_epsilon": positive(values, "rms_norm_eps", file, EPSILON),
        "activation": "swiglu",
        "dropout": 0.0,
        "tie_embeddings": values.get("tie_word_embeddings", False),
        "dtype": dtype,
        "param_dtype": dtype,
        "position": position,
    }
    built = config_io.build(ModelConfig, model, file)
    _check_heads(built, file)
    length = _size(values, "max_position_embeddings", file, 0, 0)
    return dataclasses.replace(
        built,
        num_kv_heads=built.resolved_num_kv_heads,
        head_dim=built.resolved_head_dim,
        context_length=int(length * hf_rope.context_factor(built.position)),
    )


def _window(values: dict[str, Any], file: str) -> int:
    """Mistral's window, in tokens; 0: none."""
    default = 0 if "sliding_window" in values else MISTRAL_WINDOW  # null: none
    window = _size(values, "sliding_window", file, 0, default)
    kinds = values.get("layer_types") or [LAYERS[window > 0]]
    if not isinstance(kinds, list) or kinds not in ([k] * len(kinds) for k in LAYERS):
        raise ValueError(
            f"{file}: layer_types is {kinds!r:.200}; only layers of one type are "
            f"supported, {' or '.join(LAYERS)}"
        )
    return 0 if kinds[0] == LAYERS[0] else window


def read_special(folder: epath.PathLike, key: str) -> tuple[int, ...]:
    """The token ids under a key of `SPECIAL`, such as all ids that end a text.

    They are read from generation_config.json, or else from config.json; () if neither
    has the key.

    Raises:
      ValueError: the value is not a token id or a list of them.
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
    """The entries of a config.json that `read_special` reads back."""
    pairs = special.items()
    return {key: ids[0] if len(ids) == 1 else list(ids) for key, ids in pairs if ids}


def write_model(
    model: ModelConfig, special: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, Any]:
    """The contents of a config.json for a decoder.

    Args:
      special: token ids by the keys of `SPECIAL`, as `read_special` returns them.

    Raises:
      ValueError: no supported architecture computes what this decoder does.
    """
    values = _to_json(model) | special_token_fields(special or {})
    # What the written config would be read as must be the decoder itself.
    read = config_io.to_dict(parse(values, "config.json"))
    for key in ("kind", "norm", "activation", "qkv_bias", "number_code", "position"):
        wanted = config_io.to_dict(model)[key]
        if read[key] != wanted:
            raise ValueError(
                f"no Hugging Face architecture is like this decoder: its {key} is "
                f"{wanted!r}; the nearest one, {values['architectures'][0]}, has "
                f"{read[key]!r}"
            )
    return values


def _to_json(model: ModelConfig) -> dict[str, Any]:
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
        "rope_scaling": hf_rope.to_json(position),
        "sliding_window": position.window or None,
    }
    if model.context_length:
        length = round(model.context_length / hf_rope.context_factor(position))
        values["max_position_embeddings"] = length
    return values


def _find_dtype(values: dict[str, Any], file: str) -> str:
    """The type of the parameters: transformers 5 writes `dtype`, earlier ones the other."""
    found = [values[key] for key in ("dtype", "torch_dtype") if values.get(key)]
    if len(set(map(str, found))) > 1:
        logging.warning(
            "%s: dtype is %r, but torch_dtype %r; dtype is taken, as in transformers",
            *(file, *found),
        )
    return found[0] if found else "float32"


def _sizes(values: dict[str, Any], file: str) -> dict[str, int]:
    """The sizes of a config.json as fields of `ModelConfig`."""
    num_heads = _size(values, "num_attention_heads", file)
    return {
        "num_layers": _size(values, "num_hidden_layers", file),
        "dim": _size(values, "hidden_size", file),
        "num_heads": num_heads,
        "num_kv_heads": _size(values, "num_key_value_heads", file, default=num_heads),
        "head_dim": _size(values, "head_dim", file, 0, 0),
        "mlp_dim": _size(values, "intermediate_size", file),
        "text_vocab_size": _size(values, "vocab_size", file),
    }


def _size(values: dict, key: str, file: str, low: int = 1, default: Any = None) -> int:
    found = values.get(key)
    found = default if found is None else found
    if type(found) is not int or not low <= found <= MAX_SIZE:
        raise ValueError(
            f"{file}: {key} must be a whole number from {low} to {MAX_SIZE}, got "
            f"{found!r}"
        )
    return found


def _check_heads(model: ModelConfig, file: str) -> None:
    num_kv_heads, head_dim = model.resolved_num_kv_heads, model.resolved_head_dim
    if model.num_heads % num_kv_heads:
        raise ValueError(
            f"{file}: num_attention_heads ({model.num_heads}) must be a multiple of "
            f"num_key_value_heads ({num_kv_heads})"
        )
    if not model.head_dim and model.dim % model.num_heads:
        raise ValueError(
            f"{file}: without a head_dim, hidden_size ({model.dim}) must be a multiple "
            f"of num_attention_heads ({model.num_heads})"
        )
    if head_dim % 2:
        raise ValueError(
            f"{file}: the width of a head must be even for RoPE, got {head_dim}"
        )
