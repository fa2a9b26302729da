"""The target model: the interface between the decode loop and a language model.

Our own decoder is one instance, made from its config. Any other JAX model can decode
with drafts too, once it is wrapped as a `TargetModel`:

    apply(params, tokens, positions, mask, cache) -> logits, entries

runs q new tokens of each text at once: the nodes of a draft tree, or a chunk of the
prompt. Token i attends to all tokens of its text in the cache, and among the new tokens
to those j with mask[i, j]. Siblings in a tree share a position, so `positions` is not a
range: the model must use it wherever it encodes positions. An example is the tree of a
root and three drafted tokens, for a text of 7 tokens of which 6 are in the cache:

    the - cat - sat       tokens     the  cat  sat  dog
       \\- dog            positions   6    7    8    7
                          mask        1    0    0    0    the
                                      1    1    0    0    cat
                                      1    1    1    0    sat
                                      1    0    0    1    dog

`apply` does not modify the cache and returns the `entries` of the new tokens, their
keys and values, as any pytree. Once the branch "the cat" is accepted, the loop calls

    write_cache(cache, entries, nodes=[0, 1, ..], mask=[True, True, False, ..])

which appends entry nodes[i] where mask[i] is true. Accepted nodes come first, in the
order of the text. The token that the model predicts after the branch is not in the cache
yet: it is the root of the next tree.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from relay_jax.base import PyTree
from relay_jax.config import ModelConfig
from relay_jax.models import kv_cache
from relay_jax.models.decoder import run_decoder


def keep_cache_layout(cache: PyTree, params: PyTree) -> PyTree:
    """The `constrain_cache` of a model on one device."""
    del params
    return cache


class TargetModel(NamedTuple):
    """A model as the decode loop uses it; a static argument, so build it once.

    Its functions are traced inside jit. Shapes: b texts, q new tokens, at most m tokens
    of a text, s tokens along a branch, v tokens of the vocabulary.
    """

    # params, tokens [b q], positions [b q], mask [b q q], cache -> logits [b q v] in
    # float32, entries. See the module's docstring.
    apply: Callable[[Any, Any, Any, Any, Any], tuple[Any, Any]]
    # b, m -> an empty cache with room for m tokens of each of b texts.
    init_cache: Callable[[int, int], PyTree]
    # cache, entries, nodes [b s], mask [b s] -> the cache with the entries nodes[i]
    # appended in order where mask[i] is true; their number may differ between rows.
    write_cache: Callable[[Any, Any, Any, Any], PyTree]
    vocab_size: int  # v
    # cache, params -> the cache with the sharding that it should have on a mesh.
    constrain_cache: Callable[[Any, Any], PyTree] = keep_cache_layout


def make_target(model: ModelConfig | TargetModel) -> TargetModel:
    """The target model of a decoder's config; a target model is returned as it is."""
    return model if isinstance(model, TargetModel) else _decoder_target(model)


@functools.cache
def _decoder_target(config: ModelConfig) -> TargetModel:
    def apply(params, tokens, positions, mask, cache):
        return run_decoder(
            params, tokens, model=config, positions=positions, mask=mask, cache=cache
        )

    return TargetModel(
        apply=apply,
        init_cache=functools.partial(kv_cache.make_cache, config),
        write_cache=kv_cache.write_nodes,
        vocab_size=config.vocab_size,
        constrain_cache=kv_cache.constrain_cache,
    )
