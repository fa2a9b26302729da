"""Weights of Hugging Face folders as the decoder's parameters, both ways.

`TENSORS` has their names for our parameters; `stored_params` has the layout.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.sharding import Mesh
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from relay_jax.base import PyTree
from relay_jax.config import ModelConfig
from relay_jax.files import read_json, write_json
from relay_jax.models import stored_params
from relay_jax.models.hf_config import write_model
from relay_jax.models.stored_params import Leaf, StoredTensor, make_leaves

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000
DTYPES = ("F32", "F16", "BF16")
IGNORED = ("rotary_emb.inv_freq",)  # in old files; computed from the config here

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ROWS = 4096  # of a matrix that are compared at once
LAYER = "model.layers.{}."
TENSORS = {
    "words/words": EMBEDDING,
    "head/words": HEAD,
    "norm/scale": "model.norm.weight",
    "layers/attention_norm/scale": LAYER + "input_layernorm.weight",
    "layers/attention/query/kernel": LAYER + "self_attn.q_proj.weight",
    "layers/attention/query/bias": LAYER + "self_attn.q_proj.bias",
    "layers/attention/key/kernel": LAYER + "self_attn.k_proj.weight",
    "layers/attention/key/bias": LAYER + "self_attn.k_proj.bias",
    "layers/attention/value/kernel": LAYER + "self_attn.v_proj.weight",
    "layers/attention/value/bias": LAYER + "self_attn.v_proj.bias",
    "layers/attention/out/kernel": LAYER + "self_attn.o_proj.weight",
    "layers/feed_forward_norm/scale": LAYER + "post_attention_layernorm.weight",
    "layers/feed_forward/up/kernel": LAYER + "mlp.up_proj.weight",
    "layers/feed_forward/gate/kernel": LAYER + "mlp.gate_proj.weight",
    "layers/feed_forward/down/kernel": LAYER + "mlp.down_proj.weight",
}


def load_params(
    folder: epath.PathLike, model: ModelConfig, mesh: Mesh | None = None
) -> PyTree:
    """The decoder's parameters, as `model.param_dtype`, sharded over the mesh.

    Args:
      model: the folder's, see `hf_config.read_model`.
      mesh: see `sharding.make_mesh`; by default the first device alone.

    Raises:
      ValueError: a file or tensor is missing, has another shape or type, or is unknown
        to the decoder; or the model is tied, but its files are not (`untie`).
    """
    folder = epath.Path(folder)
    tensors = _find_tensors(folder)
    if _has_two_tables(tensors, model):
        raise ValueError(
            f"{folder}: config.json says tie_word_embeddings, but {EMBEDDING} and {HEAD} "
            "differ; set tie_word_embeddings to false"
        )
    if (folder / WEIGHTS).exists() and (folder / INDEX).exists():
        logging.warning(
            "%s has %s and %s; as in transformers, the first is read alone",
            *(folder, WEIGHTS, INDEX),
        )
    leaves, structure = make_leaves(model, TENSORS, mesh)
    _check(tensors, leaves, folder)
    return stored_params.load_params(tensors, leaves, structure)


def untie(folder: epath.PathLike, model: ModelConfig) -> ModelConfig:
    """The model, not tied if its folder has two different tables of embeddings.

    As in transformers, the files then win over `tie_word_embeddings`; a warning says so.
    Both tables are read, but only where the config ties them and the files have both.

    Raises:
      ValueError: a file is missing or damaged.
    """
    if not model.tie_embeddings:
        return model
    if not _has_two_tables(_find_tensors(epath.Path(folder)), model):
        return model
    logging.warning(
        "%s: config.json says tie_word_embeddings, but %s and %s differ; as in "
        "transformers, both are used; set tie_word_embeddings to false, or remove %s",
        *(folder, EMBEDDING, HEAD, HEAD),
    )
    return dataclasses.replace(model, tie_embeddings=False)


def check(folder: epath.PathLike, model: ModelConfig) -> None:
    """Checks a folder's weights; only the headers of its files are read.

    Raises:
      ValueError: see `load_params`.
    """
    tensors = _find_tensors(epath.Path(folder))
    _check(tensors, make_leaves(model, TENSORS)[0], epath.Path(folder))


def save_params(
    params: PyTree,
    model: ModelConfig,
    folder: epath.PathLike,
    shard_bytes: int = SHARD_BYTES,
    special: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Writes the weights and config.json of a folder that transformers reads.

    Args:
      shard_bytes: the maximum size of a file.
      special: token ids for the config, see `hf_config.write_model`.

    Raises:
      ValueError: no supported architecture computes what this decoder does.
    """
    folder = epath.Path(folder)
    config = write_model(model, special)
    folder.mkdir(parents=True, exist_ok=True)
    shards, weight_map = _split_shards(params, model, shard_bytes), {}
    for number, shard in enumerate(shards, 1):
        numbered = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        file = WEIGHTS if len(shards) == 1 else numbered
        tensors = {name: make_tensor() for name, make_tensor in shard.items()}
        save_file(tensors, str(folder / file), {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    if len(shards) > 1:
        write_json(folder / INDEX, {"metadata": {}, "weight_map": weight_map})
    write_json(folder / "config.json", config)


def _split_shards(
    params: PyTree, model: ModelConfig, shard_bytes: int
) -> list[dict[str, Callable[[], np.ndarray]]]:
    """For each file its tensors by name, as functions that copy them from the device."""
    shards, room = [{}], shard_bytes
    leaves, _ = make_leaves(model, TENSORS)
    for leaf, array in zip(leaves, jax.tree.leaves(params), strict=True):
        size = math.prod(leaf.their_shape) * array.dtype.itemsize
        for layer, name in enumerate(leaf.names):
            if shards[-1] and size > room:
                shards, room = [*shards, {}], shard_bytes
            make_tensor = functools.partial(stored_params.to_tensor, array, leaf, layer)
            shards[-1][name] = make_tensor
            room -= size
    return shards


def _find_tensors(folder: epath.Path) -> dict[str, StoredTensor]:
    """The tensors of a folder by name, sorted by file; reads headers only.

    Raises:
      ValueError: a file is missing or damaged.
    """
    if (folder / WEIGHTS).exists():
        files, weight_map = [WEIGHTS], {}
    elif (folder / INDEX).exists():
        weight_map = _read_weight_map(folder / INDEX)
        files = sorted(set(weight_map.values()))
    else:
        raise ValueError(
            f"{folder} has neither {WEIGHTS} nor {INDEX}; weights in another format "
            "(pytorch_model.bin) must be saved as safetensors first, as save_pretrained "
            "of transformers does"
        )
    found = {}
    for file in files:
        if not (folder / file).exists():
            raise ValueError(f"{folder / file} is missing, though {INDEX} names it")
        try:
            with safe_open(folder / file, "np") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a dict)
                    if weight_map.get(name, file) != file:
                        continue  # the index names another file for it
                    header = tensors.get_slice(name)
                    found[name] = StoredTensor(
                        folder / file,
                        tuple(header.get_shape()),
                        header.get_dtype(),
                        functools.partial(_read, folder / file, name),
                    )
        except SafetensorError as error:
            raise ValueError(f"{folder / file} is damaged: {error}") from None
    return found


def _read_weight_map(index: epath.Path) -> dict[str, str]:
    """The file of each tensor that an index names."""
    found = read_json(index).get("weight_map")
    if (
        not isinstance(found, dict)
        or not found
        or not all(isinstance(file, str) for file in found.values())
    ):
        raise ValueError(
            f"{index} must have a weight_map that names the file of each tensor; save "
            "the model again"
        )
    return found


def _has_two_tables(tensors: Mapping[str, StoredTensor], model: ModelConfig) -> bool:
    """Whether the files of a tied model have two tables that differ in its type.

    The host holds some rows of them at a time.
    """
    if not model.tie_embeddings or not {EMBEDDING, HEAD} <= set(tensors):
        return False
    pair = tensors[EMBEDDING], tensors[HEAD]
    if pair[0].shape != pair[1].shape:
        return True
    num_rows = pair[0].shape[0]
    for first in range(0, num_rows, ROWS):
        rows = (slice(first, min(first + ROWS, num_rows)), slice(None))
        one, other = (table.read(rows).astype(model.param_dtype) for table in pair)
        if not np.array_equal(one, other):
            return True
    return False


def _read(file: epath.Path, name: str, index: tuple[slice, ...]) -> np.ndarray:
    with safe_open(file, "np") as tensors:
        return tensors.get_slice(name)[index]


def _check(
    tensors: Mapping[str, StoredTensor], leaves: list[Leaf], folder: epath.Path
) -> None:
    """Checks that the tensors are those of the leaves; see `load_params`."""
    is_tied = HEAD not in [name for leaf in leaves for name in leaf.names]

    def is_ignored(name: str) -> bool:  # a tied model may hold a copy of its embedding
        return name.endswith(IGNORED) or (is_tied and name == HEAD)

    stored_params.check_tensors(tensors, leaves, folder, DTYPES, is_ignored)
