"""The decode loop: draft, verify, append; one jitted loop for a batch of texts.

    draft    the drafter proposes a tree of C nodes under each text's last token
    verify   one forward pass of the target model over root and nodes
    append   the branch that the model itself would have generated joins text and cache

Plain decoding is the same loop with `no_drafter`, whose tree is the root alone. The
generated tokens are the same whatever is drafted; only the number of steps differs
(REST, section 3).

`decode` runs to the end. `start` and `advance` are its two halves, for callers that
look at the texts in between. The loop itself is in `loop.py`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relay_jax.base import Array, Float, Host, Int, Key, PyTree
from relay_jax.config import ModelConfig, SamplingConfig
from relay_jax.decoding import tree_size
from relay_jax.decoding.draft_tree import DraftTree
from relay_jax.decoding.drafter import Drafter, no_drafter, shard_like
from relay_jax.decoding.logits_rules import apply_rules, node_texts
from relay_jax.decoding.loop import Verification, run_loop
from relay_jax.decoding.state import (
    DecodeState,
    constrain_state,
    first_state,
    node_tokens,
)
from relay_jax.decoding.target_model import TargetModel, make_target
from relay_jax.decoding.verify import sample
from relay_jax.jax_settings import check_keys, make_key, standard_settings
from relay_jax.tokenizers import check_ids

GREEDY = SamplingConfig()
CHUNK = 128  # prompt tokens read at once
NO_EOS = -1
NO_LIMIT = 2**31 - 1  # steps
EndIds = int | tuple[int, ...]  # some models end a text with any of several tokens


def decode(
    params: PyTree,
    prompts: Sequence[Sequence[int] | Int[Host, "_"]],
    drafter: Drafter = no_drafter,
    index: Any = None,
    *,
    model: ModelConfig | TargetModel,
    max_new_tokens: int,
    eos_id: EndIds = NO_EOS,
    sampling: SamplingConfig = GREEDY,
    seed: int = 0,
    width: int = 0,
    drafter_state: Any = None,
) -> DecodeState:
    """Continues prompts to their end; `new_tokens` reads the result.

    Args:
      params: the model's parameters; they are moved to the index's mesh if it has one.
      prompts: token ids, a list for each text; they may differ in length.
      drafter: see `rest.drafters.make_drafter`, which makes one from a `DraftConfig`.
      index: what the drafter searches, if it searches anything.
      model: the decoder's config, or any other JAX model as a `TargetModel`.
      max_new_tokens: the maximum number of new tokens of each text.
      eos_id: the token or tokens that end a text; the token itself is generated too.
      sampling: temperature, top-p, top-k, min-p, and rules that change the logits by the
        text so far; greedy and without rules by default.
      seed: of the sampling noise; row i uses `fold_in(key(seed), i)`.
      width: the padded length of prompts, so that longer ones need no new compilation;
        by default that of the longest.
      drafter_state: the initial state, such as that of an earlier decode; by default
        `drafter.init`'s.

    Raises:
      ValueError: a prompt is empty, too long, or has ids outside the vocabulary; the
        drafter does not work with this index.
    """
    params = shard_like(params, index)
    tokens, length = pad_prompts(prompts, model.vocab_size, width)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be 1 or more, got {max_new_tokens}")
    state = start(
        *(params, tokens, length, request_keys(seed, len(tokens))),
        *(drafter, drafter_state),
        model=model,
        max_new_tokens=max_new_tokens,
    )
    return advance(
        *(params, state, drafter, index),
        model=model,
        sampling=sampling,
        eos_id=eos_id,
        num_steps=NO_LIMIT,
    )


def pad_prompts(
    prompts: Sequence[Sequence[int] | Int[Host, "_"]], vocab_size: int, width: int = 0
) -> tuple[Int[Host, "b p"], Int[Host, " b"]]:
    """Prompts as one array, padded on the right, and their lengths.

    Raises:
      ValueError: a prompt is empty, longer than `width`, or has ids outside the
        vocabulary.
    """
    length = np.array([len(prompt) for prompt in prompts], np.int32)
    if not length.size or length.min() == 0:
        raise ValueError(
            "a prompt is empty: decoding continues a text, so give at least one token"
        )
    width = width or int(length.max())
    if length.max() > width:
        raise ValueError(
            f"a prompt has {length.max()} tokens, but there is room for {width}; "
            "shorten it or raise the room for prompts"
        )
    tokens = np.zeros((len(prompts), width), np.int32)
    limit = f"but the model's vocabulary has {vocab_size} tokens"
    for row, prompt in zip(tokens, prompts):
        ids = np.asarray(prompt)
        check_ids(ids, vocab_size, "the prompt", limit)
        row[: len(ids)] = ids
    return tokens, length


@standard_settings()
def request_keys(seed: int, num: int) -> Key[Array, " b"]:
    """A key for each request: `fold_in(key(seed), its number)`.

    Raises:
      ValueError: the seed is not 0..MAX_SEED.
    """
    fold = functools.partial(jax.random.fold_in, make_key(seed))
    return jax.vmap(fold)(jnp.arange(num))


@standard_settings()
def start(
    params: PyTree,
    prompts: Int[Array | Host, "b p"],
    length: Int[Array | Host, " b"],
    keys: Key[Array, " b"],
    drafter: Drafter = no_drafter,
    drafter_state: Any = None,
    *,
    model: ModelConfig | TargetModel,
    max_new_tokens: int,
) -> DecodeState:
    """Reads the prompts, which the drafter observes; the arguments are `decode`'s.

    All but each prompt's last token are read, `CHUNK` tokens at a time.

    Args:
      keys: one for each text, see `request_keys`.

    Raises:
      ValueError: the keys are of another implementation.
    """
    check_keys(keys)
    if drafter_state is None:
        drafter_state = drafter.init(model.vocab_size)
    state = read_prompts(
        *(params, prompts, length, keys, drafter_state),
        model=model,
        observe=drafter.observe,
        max_new_tokens=max_new_tokens,
    )
    if drafter.sizes:
        state = state._replace(sizing=tree_size.first_sizing(drafter.sizes))
    return state


@functools.partial(jax.jit, static_argnames=("model", "observe", "max_new_tokens"))
@standard_settings()
def read_prompts(
    params: PyTree,
    prompts: Int[Array | Host, "b p"],
    length: Int[Array | Host, " b"],
    keys: Key[Array, " b"],
    drafter_state: Any,
    *,
    model: ModelConfig | TargetModel,
    observe: Callable[[Any, Any, Any, Any], Any],
    max_new_tokens: int,
) -> DecodeState:
    """`start`, compiled; of the drafter it needs only the function `observe`."""
    target = make_target(model)
    batch_size, width = prompts.shape
    chunk = min(width, CHUNK)
    num_chunks = -(-width // chunk)
    padded = jnp.pad(prompts, ((0, 0), (0, num_chunks * chunk - width)))
    causal = jnp.tril(jnp.ones((batch_size, chunk, chunk), bool))
    nodes = jnp.broadcast_to(jnp.arange(chunk)[None], (batch_size, chunk))

    def read(i, carry):
        cache, drafter_state = carry
        first = i * chunk
        tokens = jax.lax.dynamic_slice_in_dim(padded, first, chunk, axis=1)
        positions = first + nodes
        logits, entries = target.apply(params, tokens, positions, causal, cache)
        is_read = positions < length[:, None] - 1
        drafter_state = observe(drafter_state, tokens, logits, is_read)
        return target.write_cache(cache, entries, nodes, is_read), drafter_state

    # Without the barrier XLA would see that the cache is empty, and compute the
    # attention over it while it compiles.
    empty = target.init_cache(batch_size, width + max_new_tokens)
    carry = jax.lax.optimization_barrier(empty), drafter_state
    cache, drafter_state = jax.lax.fori_loop(0, num_chunks, read, carry)
    tokens = jnp.pad(prompts, ((0, 0), (0, max_new_tokens)))
    stop = length + max_new_tokens
    state = first_state(tokens, length, stop, keys, cache, drafter_state)
    return constrain_state(state, params, target.constrain_cache)


@functools.partial(
    jax.jit,
    static_argnames=("drafter", "model", "sampling"),
    donate_argnames="state",
)
@standard_settings()
def advance(
    params: PyTree,
    state: DecodeState,
    drafter: Drafter = no_drafter,
    index: Any = None,
    *,
    model: ModelConfig | TargetModel,
    sampling: SamplingConfig = GREEDY,
    eos_id: EndIds | Int[Array, ""] | tuple[Int[Array, ""], ...] = NO_EOS,
    num_steps: int | Int[Array, ""] = NO_LIMIT,
) -> DecodeState:
    """Decodes until every row is done, at most `num_steps` steps. Donates `state`.

    It is compiled once for a batch size and a drafter, however many steps are taken.
    """
    target_model = make_target(model)

    def verify(state: DecodeState, tree: DraftTree, max_depth: int) -> Verification:
        logits, entries = apply_to_tree(target_model, params, state, tree)
        texts = node_texts(state, tree)
        allowed = apply_rules(logits, texts, sampling.rules, eos_id)
        target = sample(
            *(allowed, sampling, state.keys, state.length),
            *(tree.depth_with_root, max_depth),
        )
        return Verification(target, logits, entries)

    state = run_loop(
        *(verify, target_model.write_cache, state, drafter, index, eos_id, num_steps)
    )
    return constrain_state(state, params, target_model.constrain_cache)


def apply_to_tree(
    target: TargetModel, params: PyTree, state: DecodeState, tree: DraftTree
) -> tuple[Float[Array, "b q v"], Any]:
    """The forward pass over every text's last token and the tree of drafts below it.

    Returns:
      The logits after each node, and the nodes' entries for the cache.
    """
    return target.apply(
        params,
        node_tokens(state, tree),
        state.length[:, None] - 1 + tree.depth_with_root,
        tree.ancestors & tree.valid_with_root[:, None],
        state.cache,
    )
