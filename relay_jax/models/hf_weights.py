"""Conversion between Hugging Face weights and the decoder's parameters, both ways.

    ours, [l, ...] over all layers       theirs, one tensor per layer
    layers/attention/query/kernel        model.layers.7.self_attn.q_proj.weight
                    [l, d, h, e]                                 [h e, d]

Their matrices are transposed, with heads and head width in one axis. Tensors are copied
one by one from their file into the stacked leaf, each device reading the part that it
needs: the host holds one tensor at a time, never the whole model.
"""

import functools
import math
from collections.abc import Callable, Mapping
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
IGNORED = ("rotary_emb.inv_freq",)  # in old files; computed from the config here

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
    """One parameter of ours, and the tensors that it consists of."""

    path: str
    ours: jax.ShapeDtypeStruct  # with its sharding
    names: list[str]  # one tensor per layer if the parameter is stacked, else one

    @property
    def is_stacked(self) -> bool:
        """Whether the parameter has all layers along its first axis."""
        return self.path.startswith("layers/")

    @property
    def is_transposed(self) -> bool:
        """Whether the tensors have the output axis first, unlike the parameter."""
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
        """The sharding of a tensor for which no data moves into the leaf's shards."""
        ours = self.ours.sharding
        spec = (*ours.spec, None, None)  # axes that a spec leaves out are replicated
        spec = spec[1:3] if self.is_stacked else spec[:2]
        spec = spec[::-1] if self.is_transposed else spec
        return NamedSharding(ours.mesh, P(*spec[: len(self.their_shape)]))


def load_params(
    folder: epath.PathLike, model: ModelConfig, mesh: Mesh | None = None
) -> PyTree:
    """The decoder's parameters, as `model.param_dtype`, sharded over the mesh.

    Args:
      model: the folder's, see `hf_config.read_model`.
      mesh: see `sharding.make_mesh`; by default the first device alone.

    Raises:
      ValueError: a file or tensor is missing, has another shape or type, or is unknown
        to the decoder. No tensor has been read by then.
    """
    files = _find_tensors(epath.Path(folder))
    leaves, structure = _leaves(model, mesh)
    _check_tensors(files, leaves, epath.Path(folder))
    return jax.tree.unflatten(structure, [_load_leaf(leaf, files) for leaf in leaves])


def check(folder: epath.PathLike, model: ModelConfig) -> None:
    """Checks a folder's weights; only the headers of its files are read.

    Raises:
      ValueError: see `load_params`.
    """
    files = _find_tensors(epath.Path(folder))
    _check_tensors(files, _leaves(model)[0], epath.Path(folder))


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
    leaves, _ = _leaves(model)
    for leaf, array in zip(leaves, jax.tree.leaves(params), strict=True):
        size = math.prod(leaf.their_shape) * array.dtype.itemsize
        for layer, name in enumerate(leaf.names):
            if shards[-1] and size > room:
                shards, room = [*shards, {}], shard_bytes
            shards[-1][name] = functools.partial(_to_tensor, array, leaf, layer)
            room -= size
    return shards


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
    """The file of each tensor in a folder.

    Raises:
      ValueError: a file is missing or damaged.
    """
    if (folder / INDEX).exists():
        files = _named_files(folder / INDEX)
    elif (folder / WEIGHTS).exists():
        files = [WEIGHTS]
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
                found |= dict.fromkeys(tensors.keys(), folder / file)
        except SafetensorError as error:
            raise ValueError(f"{folder / file} is damaged: {error}") from None
    return found


def _named_files(index: epath.Path) -> list[str]:
    """The files that an index names."""
    weight_map = read_json(index).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(file, str) for file in names):
        raise ValueError(
            f"{index} must have a weight_map that names the file of each tensor; save "
            "the model again"
        )
    return sorted(set(names))


def _check_tensors(
    files: dict[str, epath.Path], leaves: list[Leaf], folder: epath.Path
) -> None:
    """Checks that the tensors are those of the leaves; reads headers only.

    Raises:
      ValueError: a tensor is missing, unknown, or of another shape or type.
    """
    wanted = {name: leaf for leaf in leaves for name in leaf.names}
    missing = [name for name in wanted if name not in files]
    if missing:
        raise ValueError(f"{folder} has no {missing[0]}, which its config asks for")
    is_tied = HEAD not in wanted  # then a file may hold a copy of the input embedding
    for file in sorted(set(files.values())):
        with safe_open(file, "np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                if name.endswith(IGNORED) or (is_tied and name == HEAD):
                    continue
                if name not in wanted:
                    raise ValueError(
                        f"{file} holds {name}, which is unknown to the decoder"
                    )
                _check_header(name, tensors.get_slice(name), wanted[name], file)


def _check_header(name: str, header: Any, leaf: Leaf, file: epath.Path) -> None:
    shape = tuple(header.get_shape())
    if shape != leaf.their_shape:
        raise ValueError(
            f"{name} in {file} has the shape {shape}; by the folder's config it must be "
            f"{leaf.their_shape}"
        )
    if header.get_dtype() not in DTYPES:
        raise ValueError(
            f"{name} in {file} is of type {header.get_dtype()}; only "
            f"{', '.join(DTYPES)} can be read, quantised weights cannot"
        )


def _load_leaf(leaf: Leaf, files: dict[str, epath.Path]) -> jax.Array:
    """A parameter of ours, on the devices."""

    def read(name: str) -> jax.Array:
        """A tensor on the devices; each of them reads its shard."""
        with safe_open(files[name], "np") as tensors:
            tensor = tensors.get_slice(name)
            return jax.make_array_from_callback(
                leaf.their_shape,
                leaf.their_sharding,
                lambda index: tensor[index].astype(leaf.ours.dtype),
            )

    if not leaf.is_stacked:
        return read(leaf.names[0])
    put = jax.jit(
        functools.partial(_put_layer, is_transposed=leaf.is_transposed),
        donate_argnums=0,
        out_shardings=leaf.ours.sharding,
    )
    stacked = jnp.zeros(leaf.ours.shape, leaf.ours.dtype, device=leaf.ours.sharding)
    for layer, name in enumerate(leaf.names):
        # Without waiting, all tensors would be in the host's memory at once.
        stacked = jax.block_until_ready(put(stacked, read(name), layer))
    return stacked


def _put_layer(stacked, tensor, layer, *, is_transposed: bool):
    tensor = tensor.T if is_transposed else tensor
    return stacked.at[layer].set(tensor.reshape(stacked.shape[1:]))


def _to_tensor(array: jax.Array, leaf: Leaf, layer: int) -> np.ndarray:
    """One tensor of theirs from a parameter of ours."""
    part = np.asarray(array[layer] if leaf.is_stacked else array)
    if leaf.is_transposed:
        part = part.reshape(len(part), -1).T
    return np.ascontiguousarray(part.reshape(leaf.their_shape))
