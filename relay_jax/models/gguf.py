"""The model in a GGUF file: its config and parameters.

The metadata is translated to what a config.json would say and checked as that is; the
tensors have names of their own. Keys that change what the model computes and are not
translated are an error, never ignored.
"""

import functools
from typing import Any, NoReturn

import numpy as np
from etils import epath
from jax.sharding import Mesh

from relay_jax import gguf_tokenizer
from relay_jax.base import Float, Host, PyTree
from relay_jax.config import ModelConfig
from relay_jax.gguf_file import GGUFFile, GGUFTensor
from relay_jax.models import hf_config, hf_rope, stored_params
from relay_jax.models.stored_params import StoredTensor, make_leaves

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
# Keys after the name of the architecture -> keys of config.json.
KEYS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}
# Other keys with the one value that the decoder computes.
FIXED = {
    "attention.causal": True,
    "attention.sliding_window": 0,
    "expert_count": 0,
    "expert_used_count": 0,
    "tensor_data_layout": "Meta AI original pth",  # the rotated layout of q and k
}
# Translated by code below, or without an effect.
OTHER = dict.fromkeys(
    [
        *("attention.value_length", "rope.dimension_count", "rope.scaling.type"),
        *("rope.scaling.factor", "rope.scaling.finetuned"),
        "rope.scaling.original_context_length",
    ]
)
EPSILON = "attention.layer_norm_rms_epsilon"
WIDTH, ROTATED = "attention.key_length", "rope.dimension_count"
EMBEDDING, HEAD, ROPE_FACTORS = (
    "token_embd.weight",
    "output.weight",
    "rope_freqs.weight",
)
LAYER = "blk.{}."
TENSORS = {
    "words/words": EMBEDDING,
    "head/words": HEAD,
    "norm/scale": "output_norm.weight",
    "layers/attention_norm/scale": LAYER + "attn_norm.weight",
    "layers/attention/query/kernel": LAYER + "attn_q.weight",
    "layers/attention/query/bias": LAYER + "attn_q.bias",
    "layers/attention/key/kernel": LAYER + "attn_k.weight",
    "layers/attention/key/bias": LAYER + "attn_k.bias",
    "layers/attention/value/kernel": LAYER + "attn_v.weight",
    "layers/attention/value/bias": LAYER + "attn_v.bias",
    "layers/attention/out/kernel": LAYER + "attn_output.weight",
    "layers/feed_forward_norm/scale": LAYER + "ffn_norm.weight",
    "layers/feed_forward/up/kernel": LAYER + "ffn_up.weight",
    "layers/feed_forward/gate/kernel": LAYER + "ffn_gate.weight",
    "layers/feed_forward/down/kernel": LAYER + "ffn_down.weight",
}
# Llama 3.1's scaling of RoPE is stored as its factors; all models have these settings.
LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def read_model(file: GGUFFile, dtype: str = "") -> ModelConfig:
    """The config of the decoder in a file.

    Args:
      dtype: of parameters and compute; by default that of the tensors, float32 if they
        are quantized.

    Raises:
      ValueError: the architecture or a setting is not supported; a key is missing.
    """
    name = file.get("general.architecture", str)
    if name not in ARCHITECTURES:
        raise ValueError(
            f"{file.path}: the architecture {name} is not supported; supported are "
            f"{', '.join(ARCHITECTURES)}"
        )
    prefix = f"{name}."
    values = {
        key.removeprefix(prefix): value
        for key, value in file.metadata.items()
        if key.startswith(prefix)
    }
    _check_keys(file, prefix, values)
    config = {theirs: values[ours] for ours, theirs in KEYS.items() if ours in values}
    config |= {
        "architectures": [ARCHITECTURES[name]],
        "tie_word_embeddings": HEAD not in file.tensors,
        "dtype": _find_dtype(file),
        "rope_scaling": _read_scaling(file, prefix),
    }
    config.setdefault("vocab_size", _count_tokens(file))
    if ROTATED in values:
        config.setdefault("head_dim", values[ROTATED])
    return hf_config.parse(config, str(file.path), dtype)


def read_special(file: GGUFFile) -> dict[str, tuple[int, ...]]:
    """The token ids that begin and end a text, by the keys of `hf_config.SPECIAL`.

    Besides the end of a text, the end of a turn and of a message end one.

    Raises:
      ValueError: one is not a token id.
    """
    names = {"bos_token_id": ["bos"], "eos_token_id": ["eos", "eot", "eom"]}
    special = {}
    for key, each in names.items():
        ids = [gguf_tokenizer.read_id(file, f"{name}_token_id") for name in each]
        special[key] = tuple(dict.fromkeys(i for i in ids if i is not None))
    return special


def check(file: GGUFFile, model: ModelConfig) -> None:
    """Checks the names and shapes of a file's tensors, which are not read.

    Args:
      model: see `read_model`.

    Raises:
      ValueError: a tensor is missing, unknown or of another shape.
    """
    leaves, _ = make_leaves(model, TENSORS)
    _check(_find_tensors(file, model), leaves, file.path)


def load_params(file: GGUFFile, model: ModelConfig, mesh: Mesh | None = None) -> PyTree:
    """The decoder's parameters, as `model.param_dtype`, sharded over the mesh.

    Args:
      model: see `read_model`.
      mesh: see `sharding.make_mesh`; by default the first device alone.

    Raises:
      ValueError: see `check`. No tensor has been read by then.
    """
    tensors = _find_tensors(file, model)
    leaves, structure = make_leaves(model, TENSORS, mesh)
    _check(tensors, leaves, file.path)
    return stored_params.load_params(tensors, leaves, structure)


def _check_keys(file: GGUFFile, prefix: str, values: dict[str, Any]) -> None:
    """Checks the keys of the architecture, which `values` has without their prefix."""

    def refuse(key: str, expected: str) -> NoReturn:
        raise ValueError(
            f"{file.path}: {prefix}{key} must be {expected}, got {values.get(key)!r:.60}"
        )

    for key, value in values.items():
        if isinstance(value, list | np.ndarray):
            refuse(key, "one value for all layers")
        if key in FIXED and value != FIXED[key]:
            refuse(key, f"{FIXED[key]!r}, as nothing else is supported")
        if key not in KEYS | FIXED | OTHER:
            raise ValueError(f"{file.path}: the setting {prefix}{key} is not supported")
    num_layers = values.get("block_count")
    if type(num_layers) is int and num_layers > len(file.tensors):
        refuse("block_count", f"below the number of tensors, {len(file.tensors)}")
    if EPSILON not in values:
        refuse(EPSILON, "a number")
    if WIDTH in values:
        for key in (ROTATED, "attention.value_length"):
            if values.get(key, values[WIDTH]) != values[WIDTH]:
                refuse(key, f"{WIDTH}, {values[WIDTH]!r:.20}")


def _count_tokens(file: GGUFFile) -> int:
    """The size of the vocabulary where no key has it."""
    if tokens := file.get(f"{gguf_tokenizer.KEY}tokens", list):
        return len(tokens)
    return file.tensors[EMBEDDING].shape[0] if EMBEDDING in file.tensors else 0


def _find_dtype(file: GGUFFile) -> str:
    kinds = {tensor.kind.name for tensor in file.tensors.values()}
    names = {"BF16": "bfloat16", "F16": "float16"}
    if kinds <= {*names, "F32"}:  # norms are float32 in every file
        for kind, name in names.items():
            if kind in kinds:
                return name
    return "float32"


def _read_scaling(file: GGUFFile, prefix: str) -> dict[str, Any]:
    """The scaling of RoPE as in a config.json."""
    kind = file.get(f"{prefix}rope.scaling.type", str, "none")
    if kind != "none":
        if (
            ROPE_FACTORS in file.tensors
            and (file.tensors[ROPE_FACTORS].read() != 1).any()
        ):
            raise ValueError(
                f"{file.path}: {prefix}rope.scaling.type is {kind}, and {ROPE_FACTORS} "
                "scales RoPE too; only one of them is supported"
            )
        factor = file.get(f"{prefix}rope.scaling.factor", float)
        return {"rope_type": kind} | ({} if factor is None else {"factor": factor})
    if ROPE_FACTORS not in file.tensors:
        return {}
    factors = file.tensors[ROPE_FACTORS].read()
    base = file.get(f"{prefix}rope.freq_base", float, hf_rope.BASE)
    factor = float(factors.max())
    with np.errstate(all="ignore"):  # of a damaged file
        wanted = _llama3_factors(factors.size, base, factor)
        is_llama3 = factors.ndim == 1 and np.allclose(factors, wanted, rtol=1e-3)
    if not is_llama3:
        raise ValueError(
            f"{file.path}: {ROPE_FACTORS} is not the scaling of Llama 3.1, the only one "
            "that is supported"
        )
    return LLAMA3 | {"factor": factor}


def _llama3_factors(half: int, base: float, factor: float) -> Float[Host, " half"]:
    """By how much Llama 3.1 divides each frequency (`positions.rope_frequencies`)."""
    frequency = base ** (-np.arange(half) / half)
    turns = LLAMA3["original_max_position_embeddings"] * frequency / (2 * np.pi)
    slow, fast = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    unscaled = np.clip((turns - slow) / (fast - slow), 0, 1)
    return 1 / (unscaled + (1 - unscaled) / factor)


def _find_tensors(file: GGUFFile, model: ModelConfig) -> dict[str, StoredTensor]:
    """The tensors of a file, with the rows of queries and keys in our order."""
    heads = {"attn_q": model.num_heads, "attn_k": model.resolved_num_kv_heads}
    is_rotated = file.metadata["general.architecture"] == "llama"
    found = {}
    for name, tensor in file.tensors.items():
        part = name.split(".")[-2] if "." in name else name
        num_heads = heads.get(part, 0) if is_rotated else 0
        read = functools.partial(_read, tensor, num_heads)
        found[name] = StoredTensor(file.path, tensor.shape, "F32", read)
    return found


def _read(
    tensor: GGUFTensor, num_heads: int, index: tuple[slice, ...]
) -> Float[Host, "..."]:
    """A part of a tensor; of queries and keys that are rotated if `num_heads`.

    RoPE pairs neighbouring coordinates of a head there, but i and i + e/2 here:

        row of the file   0 2 4 1 3 5
        row here          0 1 2 3 4 5
    """
    order = None
    if num_heads:
        pairs = np.arange(tensor.shape[0]).reshape(num_heads, -1, 2)
        order = pairs.swapaxes(1, 2).reshape(-1)
    return tensor.read(index, order)


def _check(
    tensors: dict[str, StoredTensor],
    leaves: list[stored_params.Leaf],
    path: epath.Path,
) -> None:
    def is_ignored(name: str) -> bool:
        return name == ROPE_FACTORS  # in the config

    stored_params.check_tensors(tensors, leaves, path, ("F32",), is_ignored)
