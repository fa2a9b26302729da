"""The decode loop: draft, verify, keep; one jitted loop for a batch of texts.

    draft    the drafter's rows -> a tree of C nodes under the text's last token
    verify   one forward pass over root and nodes, under tree attention
    keep     the branch the model itself would have said goes into text and cache

Plain decoding is the same loop with the drafter `none`: a tree of the root alone. The
result is the same, token for token; only the number of steps differs (REST, section 3).

`decode` runs to the end; `start` and `advance` are for those who look on meanwhile;
`replay` lets a known text play the model, to see how well it is drafted.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from relay_jax.base import Array, Host, Int, Key, PyTree
from relay_jax.config import DraftConfig, ModelConfig, SamplingConfig
from relay_jax.decoding.draft_tree import Tree
from relay_jax.decoding.state import (
    DecodeState,
    Verification,
    append_accepted,
    first_state,
    lay_out,
    nodes,
)
from relay_jax.decoding.verify import TargetTokens, sample
from relay_jax.models.decoder import run_decoder
from relay_jax.models.kv_cache import make_cache, write_cache
from relay_jax.rest import drafters, token_recycling
from relay_jax.rest.drafters import Text
from relay_jax.rest.index import shard_like
from relay_jax.rest.token_recycling import AdjacencyTable
from relay_jax.tokenizers import check_ids

GREEDY = SamplingConfig()
PLAIN = DraftConfig(drafter="none", num_draft=0)
CHUNK = 128  # prompt tokens read at once
NO_EOS = -1
NO_LIMIT = 2**31 - 1  # steps
EndIds = int | tuple[int, ...]  # some models end a text with any of several tokens


Target = Callable[[DecodeState, Tree], Verification]


def decode(
    params: PyTree,
    prompts: Sequence[Sequence[int] | Int[Host, "_"]],
    *,
    model: ModelConfig,
    max_new_tokens: int,
    eos_id: EndIds = NO_EOS,
    draft: DraftConfig = PLAIN,
    sampling: SamplingConfig = GREEDY,
    index: Any = None,
    seed: int = 0,
    width: int = 0,
    known: AdjacencyTable | None = None,
) -> DecodeState:
    """Continues prompts; see `written` for the new tokens.

    Args:
      prompts: token ids, a list for each text; they may differ in length.
      eos_id: ends a text (and is written), any of them if there are several; by default
        nothing does.
      index: the datastore, `index.load_index` or `HostIndex`.
      seed: of the noise when sampling; row i uses `fold_in(key(seed), i)`.
      width: room for prompts, so that different ones need no new compilation.
      known: followers to begin with, those of the texts before; by default none.

    Raises:
      ValueError: a prompt is empty, too long, or holds ids outside the vocabulary; the
        draft config cannot work.
    """
    drafters.check(draft, index)
    params = shard_like(params, index)
    tokens, length = pad_prompts(prompts, model.vocab_size, width)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be 1 or more, got {max_new_tokens}")
    state = start(
        params,
        tokens,
        length,
        request_keys(seed, len(tokens)),
        known or drafters.initial_table(draft, model.vocab_size),
        model=model,
        max_new_tokens=max_new_tokens,
    )
    return advance(
        params,
        state,
        index,
        model=model,
        draft=draft,
        sampling=sampling,
        eos_id=eos_id,
        num_steps=NO_LIMIT,
    )


def pad_prompts(
    prompts: Sequence[Sequence[int] | Int[Host, "_"]], vocab_size: int, width: int = 0
) -> tuple[Int[Host, "b p"], Int[Host, " b"]]:
    """Prompts as one array, filled up on the right; raises ValueError at bad ones."""
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
    limit = f"but the model's vocabulary has {vocab_size} words"
    for row, prompt in zip(tokens, prompts):
        ids = np.asarray(prompt)
        check_ids(ids, vocab_size, "the prompt", limit)
        row[: len(ids)] = ids
    return tokens, length


def request_keys(seed: int, num: int) -> Key[Array, " b"]:
    """A key for each request: `fold_in(key(seed), its number)`."""
    fold = functools.partial(jax.random.fold_in, jax.random.key(seed))
    return jax.vmap(fold)(jnp.arange(num))


@functools.partial(jax.jit, static_argnames=("model", "max_new_tokens"))
def start(
    params: PyTree,
    prompts: Int[Array, "b p"],
    length: Int[Array, " b"],
    keys: Key[Array, " b"],
    known: AdjacencyTable | None = None,
    *,
    model: ModelConfig,
    max_new_tokens: int,
) -> DecodeState:
    """Reads the prompts, `CHUNK` tokens at a time, all but each one's last token.

    Args:
      known: the followers to begin with (`drafters.initial_table`), where the drafter
        to come looks at them; the prompts are learnt too.
    """
    batch_size, width = prompts.shape
    room = width + max_new_tokens
    chunk = min(width, CHUNK)
    num_chunks = -(-width // chunk)
    padded = jnp.pad(prompts, ((0, 0), (0, num_chunks * chunk - width)))

    def read(i, carry):
        cache, known = carry
        first = i * chunk
        tokens = jax.lax.dynamic_slice_in_dim(padded, first, chunk, axis=1)
        place = first + jnp.arange(chunk)[None]
        positions = jnp.broadcast_to(place, tokens.shape)
        logits, new = run_decoder(
            params, tokens, model=model, positions=positions, cache=cache
        )
        is_read = place < length[:, None] - 1
        if known is not None:
            told = token_recycling.top_candidates(logits, known.tokens.shape[1])
            known = token_recycling.update(known, tokens, told, is_read)
        return write_cache(cache, new, is_read), known

    # The barrier: of a cache that it knows to be empty, XLA would compute the attention
    # while it compiles.
    empty = jax.lax.optimization_barrier(make_cache(model, batch_size, room))
    cache, known = jax.lax.fori_loop(0, num_chunks, read, (empty, known))
    tokens = jnp.pad(prompts, ((0, 0), (0, max_new_tokens)))
    stop = length + max_new_tokens
    return lay_out(first_state(tokens, length, stop, keys, cache, known), params)


@functools.partial(
    jax.jit,
    static_argnames=("model", "draft", "sampling"),
    donate_argnames="state",
)
def advance(
    params: PyTree,
    state: DecodeState,
    index: Any = None,
    *,
    model: ModelConfig,
    draft: DraftConfig = PLAIN,
    sampling: SamplingConfig = GREEDY,
    eos_id: EndIds | Int[Array, ""] | tuple[Int[Array, ""], ...] = NO_EOS,
    num_steps: int | Int[Array, ""] = NO_LIMIT,
) -> DecodeState:
    """Decodes until every row is done, at most `num_steps` steps. Donates `state`.

    Compiled once for a batch size and a draft config, however many steps are taken.
    """

    def target(state: DecodeState, tree: Tree) -> Verification:
        depth = jnp.pad(tree.depth, ((0, 0), (1, 0)))
        valid = jnp.pad(tree.valid, ((0, 0), (1, 0)), constant_values=True)
        logits, new = run_decoder(
            params,
            nodes(state, tree),
            model=model,
            positions=state.length[:, None] - 1 + depth,
            mask=tree.ancestors & valid[:, None],
            cache=state.cache,
        )
        deepest = _deepest(draft)
        chosen = sample(logits, sampling, state.keys, state.length, depth, deepest)
        told = None
        if state.followers is not None:
            told = token_recycling.top_candidates(
                logits, state.followers.tokens.shape[1]
            )
        return Verification(chosen, new, told)

    state = _loop(target, state, index, draft, eos_id, num_steps)
    return lay_out(state, params)


@functools.partial(jax.jit, static_argnames="draft")
def replay(
    truth: Int[Array, "b m"],
    prompt_length: Int[Array, " b"],
    length: Int[Array, " b"],
    index: Any = None,
    *,
    draft: DraftConfig,
) -> DecodeState:
    """Decodes known texts as if a model said them: the very loop, without a model."""
    is_prompt = jnp.arange(truth.shape[1])[None] < prompt_length[:, None]
    keys = request_keys(0, len(truth))
    state = first_state(
        jnp.where(is_prompt, truth, 0), prompt_length, length, keys, None
    )

    def target(state: DecodeState, tree: Tree) -> Verification:
        depth = jnp.pad(tree.depth, ((0, 0), (1, 0)))
        place = jnp.minimum(state.length[:, None] + depth, truth.shape[1] - 1)
        token = jnp.take_along_axis(truth, place, axis=1)
        return Verification(TargetTokens(token, jnp.ones(token.shape)), None, None)

    state = _loop(target, state, index, draft, NO_EOS, NO_LIMIT)
    return lay_out(state, index)


def written(state: DecodeState, prompt_length: Int[Host, " b"]) -> list[Int[Host, "_"]]:
    """The new tokens of every row."""
    tokens, length = np.asarray(state.tokens), np.asarray(state.length)
    return [row[a:b] for row, a, b in zip(tokens, prompt_length, length)]


def tokens_per_step(state: DecodeState, prompt_length: Int[Host, " b"]) -> float:
    """M of the paper: tokens written by each forward pass, over all rows."""
    new = np.asarray(state.length) - np.asarray(prompt_length)
    return float(new.sum() / max(np.asarray(state.steps).sum(), 1))


def mark_drafted(
    state: DecodeState,
    row: int,
    first: int,
    read: Callable[[Int[Host, "_"], Sequence[int]], list[str]],
) -> str:
    """A row's text from token `first` on; runs of accepted drafts in quotes: «so».

    Args:
      read: ids of a whole text, and places in it -> the text between two places, as
        `tokens.decode_spans` of a tokenizer does.
    """
    tokens, drafted = np.asarray(state.tokens[row]), np.asarray(state.drafted[row])
    length = int(state.length[row])
    changes = np.flatnonzero(np.diff(drafted[first:length])) + first + 1
    cuts = [first, *changes.tolist(), length]
    marked = zip(read(tokens, cuts), cuts)
    return "".join(f"«{text}»" if drafted[cut] else text for text, cut in marked)


def _deepest(draft: DraftConfig) -> int:
    return draft.depth if draft.num_draft and draft.drafter != "none" else 0


def _loop(target: Target, state, index, draft, eos_id, num_steps) -> DecodeState:
    def is_open(carry):
        count, state = carry
        return ~jnp.all(state.done) & (count < num_steps)

    def step(carry):
        count, state = carry
        text = Text(state.tokens, state.length, state.followers)
        tree = drafters.draft(text, index, draft)
        verdict = target(state, tree)
        return count + 1, append_accepted(state, tree, verdict, _deepest(draft), eos_id)

    _, state = jax.lax.while_loop(is_open, step, (jnp.zeros((), jnp.int32), state))
    return state
