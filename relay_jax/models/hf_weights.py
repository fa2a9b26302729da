"""Hugging Face model folders and the decoder: Llama and its relatives, both ways.

    ours, [l, ...] over all layers       theirs, a tensor a layer
    layers/attention/query/kernel        model.layers.7.self_attn.q_proj.weight
                    [l, d, h, e]                                 [h e, d]

Every matrix of theirs is the transpose of ours, with heads and their width in one axis.
Tensors go one by one from their file, in the parts that each device needs, to their
place in the stacked leaf: the host holds one tensor at a time, never the model.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from relay_jax.base import PyTree
from relay_jax.config import ModelConfig
from relay_jax.files import read_json, write_json
from relay_jax.models.decoder import Decoder
from relay_jax.models.hf_config import write_model
from relay_jax.models.sharding import named_leaves, with_shardings

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000
DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}
NOT_WEIGHTS = ("rotary_emb.inv_freq",)  # of old files; computed from the config here

HEAD = "lm_head.weight"
LAYER = "model.layers.{}."
TENSORS = {
    "words/words": "model.embed_tokens.weight",
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


class Leaf(NamedTuple):
    """One parameter of ours, and the tensors that it is made of."""

    path: str
    ours: jax.ShapeDtypeStruct  # with its sharding
    names: list[str]  # one for each layer if the parameter is stacked, else one

    @property
    def is_stacked(self) -> bool:
        return self.path.startswith("layers/")

    @property
    def is_transposed(self) -> bool:
        return self.path.endswith("/kernel")

    @property
    def their_shape(self) -> tuple[int, ...]:
        """The shape of each tensor."""
        if not self.is_stacked:
            return self.ours.shape
        _, first, *rest = self.ours.shape
        size = math.prod(rest)
        return (size, first) if self.is_transposed else (first * size,)

    @property
    def their_sharding(self) -> NamedSharding:
        """Where a tensor lies, so that its place in the leaf is on the same device."""
        ours = self.ours.sharding
        spec = (*ours.spec, None, None)  # an axis that is not told of is not spread
        spec = spec[1:3] if self.is_stacked else spec[:2]
        spec = spec[::-1] if self.is_transposed else spec
        return NamedSharding(ours.mesh, P(*spec[: len(self.their_shape)]))


def load_params(
    folder: epath.PathLike, model: ModelConfig, mesh: Mesh | None = None
) -> PyTree:
    """The decoder's parameters, as `model.param_dtype`, spread over the mesh.

    Args:
      model: of the folder, see `architecture.read_model`.
      mesh: of `mesh.make_mesh`; by default the first device alone.

    Raises:
      ValueError: a file or tensor is missing, of another shape or type, or is one that
        the decoder has no place for. Nothing has been read by then.
    """
    files = _find_tensors(epath.Path(folder))
    leaves, structure = _leaves(model, mesh)
    _check(files, leaves, epath.Path(folder))
    return jax.tree.unflatten(structure, [_load_leaf(leaf, files) for leaf in leaves])


def check(folder: epath.PathLike, model: ModelConfig) -> None:
    """Raises ValueError where `load_params` would; reads headers alone."""
    _check(_find_tensors(epath.Path(folder)), _leaves(model)[0], epath.Path(folder))


def save_params(
    params: PyTree,
    model: ModelConfig,
    folder: epath.PathLike,
    shard_bytes: int = SHARD_BYTES,
    special: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Writes the weights and config.json of a folder that transformers reads.

    Args:
      shard_bytes: of a file, at most.
      special: token ids for the config, see `write_model`.

    Raises:
      ValueError: no architecture of theirs is like this decoder.
    """
    folder = epath.Path(folder)
    config = write_model(model, special)
    folder.mkdir(parents=True, exist_ok=True)
    leaves, _ = _leaves(model)
    groups, room = [[]], shard_bytes
    for leaf, stored in zip(leaves, jax.tree.leaves(params), strict=True):
        size = math.prod(leaf.their_shape) * stored.dtype.itemsize
        for number, name in enumerate(leaf.names):
            if groups[-1] and size > room:
                groups, room = [*groups, []], shard_bytes
            groups[-1].append((name, functools.partial(_tensor, stored, leaf, number)))
            room -= size
    weight_map = {}
    for number, group in enumerate(groups, 1):
        several = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        file = WEIGHTS if len(groups) == 1 else several
        tensors = {name: make() for name, make in group}
        save_file(tensors, str(folder / file), {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    if len(groups) > 1:
        write_json(folder / INDEX, {"metadata": {}, "weight_map": weight_map})
    write_json(folder / "config.json", config)


def _leaves(model: ModelConfig, mesh: Mesh | None = None) -> tuple[list[Leaf], Any]:
    """The decoder's parameters in the order of its tree, and the tree's structure."""
    init = functools.partial(Decoder(model).init, jax.random.key(0))
    shapes = jax.eval_shape(init, jax.ShapeDtypeStruct((1, 1), jnp.int32))["params"]
    leaves = []
    for path, ours in named_leaves(with_shardings(shapes, mesh)).items():
        name = TENSORS[path]
        count = model.num_layers if "{}" in name else 1
        leaves.append(Leaf(path, ours, [name.format(i) for i in range(count)]))
    return leaves, jax.tree.structure(shapes)


def _find_tensors(folder: epath.Path) -> dict[str, epath.Path]:
    """The file of every tensor in a folder. Raises ValueError where a file is missing."""
    if (folder / INDEX).exists():
        files = _named_files(folder / INDEX)
    elif (folder / WEIGHTS).exists():
        files = [WEIGHTS]
    else:
        raise ValueError(
            f"{folder} has neither {WEIGHTS} nor {INDEX}; weights of another kind "
            "(pytorch_model.bin) must be saved as safetensors first, as save_pretrained "
            "of transformers does"
        )
    found = {}
    for file in files:
        if not (folder / file).exists():
            raise ValueError(f"{folder / file} is missing, though {INDEX} names it")
        try:
            with safe_open(folder / file, "np") as stored:
                found |= dict.fromkeys(stored.keys(), folder / file)
        except SafetensorError as error:
            raise ValueError(f"{folder / file} is damaged: {error}") from None
    return found


def _named_files(index: epath.Path) -> list[str]:
    """The files that an index names."""
    named = read_json(index).get("weight_map")
    named = list(named.values()) if isinstance(named, dict) else []
    if not named or not all(isinstance(file, str) for file in named):
        raise ValueError(
            f"{index} must have a weight_map that names the file of each tensor; save "
            "the model again"
        )
    return sorted(set(named))


def _check(files: dict[str, epath.Path], leaves: list[Leaf], folder) -> None:
    """Raises ValueError unless the tensors are those of the leaves; reads headers."""
    wanted = {name: leaf for leaf in leaves for name in leaf.names}
    passed_over = {HEAD} - set(wanted)  # a copy of tied words
    missing = [name for name in wanted if name not in files]
    if missing:
        raise ValueError(f"{folder} has no {missing[0]}, which its config asks for")
    for file in sorted(set(files.values())):
        with safe_open(file, "np") as stored:
            for name in stored.keys():  # noqa: SIM118 (not a dict)
                if name in passed_over or name.endswith(NOT_WEIGHTS):
                    continue
                if name not in wanted:
                    raise ValueError(
                        f"{file} holds {name}, for which the decoder has no place"
                    )
                part, shape = stored.get_slice(name), wanted[name].their_shape
                if tuple(part.get_shape()) != shape:
                    raise ValueError(
                        f"{name} in {file} has the shape {tuple(part.get_shape())}; by "
                        f"the folder's config it must be {shape}"
                    )
                if part.get_dtype() not in DTYPES:
                    raise ValueError(
                        f"{name} in {file} is of type {part.get_dtype()}; only "
                        f"{', '.join(DTYPES)} can be read, quantised weights cannot"
                    )


def _load_leaf(leaf: Leaf, files: dict[str, epath.Path]) -> jax.Array:
    def read(name: str) -> jax.Array:
        """A tensor on the devices; each part is read for those that hold it."""
        with safe_open(files[name], "np") as stored:
            part = stored.get_slice(name)
            return jax.make_array_from_callback(
                leaf.their_shape,
                leaf.their_sharding,
                lambda index: part[index].astype(leaf.ours.dtype),
            )

    if not leaf.is_stacked:
        return read(leaf.names[0])
    put = jax.jit(
        functools.partial(_put, is_transposed=leaf.is_transposed),
        donate_argnums=0,
        out_shardings=leaf.ours.sharding,
    )
    stacked = jnp.zeros(leaf.ours.shape, leaf.ours.dtype, device=leaf.ours.sharding)
    for layer, name in enumerate(leaf.names):
        # Waited for, or else all tensors would stand in the host's memory at once.
        stacked = jax.block_until_ready(put(stacked, read(name), layer))
    return stacked


def _put(stacked, tensor, layer, *, is_transposed: bool):
    tensor = tensor.T if is_transposed else tensor
    return stacked.at[layer].set(tensor.reshape(stacked.shape[1:]))


def _tensor(stored: jax.Array, leaf: Leaf, number: int) -> np.ndarray:
    """One tensor of theirs from a parameter of ours."""
    array = np.asarray(stored[number] if leaf.is_stacked else stored)
    if leaf.is_transposed:
        array = array.reshape(len(array), -1).T
    return np.ascontiguousarray(array.reshape(leaf.their_shape))
