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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relay_jax.arrays import Array, Bool, Float, Host, Int, Key, PyTree
from relay_jax.config import DraftConfig, ModelConfig, SamplingConfig
from relay_jax.models.cache import Cache, make_cache, write_cache
from relay_jax.models.decoder import run_decoder
from relay_jax.models.layers import KeyValues
from relay_jax.models.mesh import constrain
from relay_jax.rest import drafters
from relay_jax.rest.drafters import Text
from relay_jax.rest.index import place_beside
from relay_jax.rest.tree import Tree
from relay_jax.rest.verify import Choice, accept, choose
from relay_jax.tokens import check_ids

GREEDY = SamplingConfig()
PLAIN = DraftConfig(drafter="none", num_draft=0)
CHUNK = 128  # prompt tokens read at once
NO_EOS = -1
NO_LIMIT = 2**31 - 1  # steps
EndIds = int | tuple[int, ...]  # some models end a text with any of several tokens


class DecodeState(NamedTuple):
    """The carry of the loop."""

    tokens: Int[Array, "b m"]  # prompt, then what was written; 0 after it
    length: Int[Array, " b"]  # of the text; its last token is the next tree's root
    stop: Int[Array, " b"]  # the length at which a row ends
    done: Bool[Array, " b"]
    drafted: Bool[Array, "b m"]  # tokens that were drafted and kept
    confidence: Float[Array, " b"]  # the least probability of a token written
    steps: Int[Array, " b"]  # forward passes that wrote something to the row
    nodes: Int[Array, " b"]  # nodes drafted in them, in all
    keys: Key[Array, " b"]  # of each request, for sampling
    cache: Cache | None  # holds the text but for its last token


Target = Callable[[DecodeState, Tree], tuple[Choice, KeyValues | None]]


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
) -> DecodeState:
    """Continues prompts; see `written` for the new tokens.

    Args:
      prompts: token ids, a list for each text; they may differ in length.
      eos_id: ends a text (and is written), any of them if there are several; by default
        nothing does.
      index: the datastore, `index.load_index` or `HostIndex`.
      seed: of the noise when sampling; row i uses `fold_in(key(seed), i)`.
      width: room for prompts, so that different ones need no new compilation.

    Raises:
      ValueError: a prompt is empty, too long, or holds ids outside the vocabulary; the
        draft config cannot work.
    """
    drafters.check(draft, index)
    params = place_beside(params, index)
    tokens, length = pad_prompts(prompts, model.num_words, width)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be 1 or more, got {max_new_tokens}")
    state = start(
        params,
        tokens,
        length,
        request_keys(seed, len(tokens)),
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
    prompts: Sequence[Sequence[int] | Int[Host, "_"]], num_words: int, width: int = 0
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
    limit = f"but the model's vocabulary has {num_words} words"
    for row, prompt in zip(tokens, prompts):
        ids = np.asarray(prompt)
        check_ids(ids, num_words, "the prompt", limit)
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
    *,
    model: ModelConfig,
    max_new_tokens: int,
) -> DecodeState:
    """Reads the prompts, `CHUNK` tokens at a time, all but each one's last token."""
    batch_size, width = prompts.shape
    room = width + max_new_tokens
    chunk = min(width, CHUNK)
    num_chunks = -(-width // chunk)
    padded = jnp.pad(prompts, ((0, 0), (0, num_chunks * chunk - width)))

    def read(i, cache):
        first = i * chunk
        tokens = jax.lax.dynamic_slice_in_dim(padded, first, chunk, axis=1)
        place = first + jnp.arange(chunk)[None]
        positions = jnp.broadcast_to(place, tokens.shape)
        _, new = run_decoder(
            params, tokens, model=model, positions=positions, cache=cache
        )
        return write_cache(cache, new, place < length[:, None] - 1)

    # The barrier: of a cache that it knows to be empty, XLA would compute the attention
    # while it compiles.
    empty = jax.lax.optimization_barrier(make_cache(model, batch_size, room))
    cache = jax.lax.fori_loop(0, num_chunks, read, empty)
    tokens = jnp.pad(prompts, ((0, 0), (0, max_new_tokens)))
    stop = length + max_new_tokens
    return _lay_out(_first_state(tokens, length, stop, keys, cache), params)


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

    def target(state: DecodeState, tree: Tree) -> tuple[Choice, KeyValues]:
        root = jnp.take_along_axis(state.tokens, state.length[:, None] - 1, axis=1)
        depth = jnp.pad(tree.depth, ((0, 0), (1, 0)))
        valid = jnp.pad(tree.valid, ((0, 0), (1, 0)), constant_values=True)
        logits, new = run_decoder(
            params,
            jnp.concatenate([root, tree.tokens], axis=1),
            model=model,
            positions=state.length[:, None] - 1 + depth,
            mask=tree.ancestors & valid[:, None],
            cache=state.cache,
        )
        deepest = _deepest(draft)
        chosen = choose(logits, sampling, state.keys, state.length, depth, deepest)
        return chosen, new

    state = _loop(target, state, index, draft, eos_id, num_steps)
    return _lay_out(state, params)


def _lay_out(state: DecodeState, params: PyTree) -> DecodeState:
    """On a mesh the cache is spread by heads, and all else is seen by every process."""
    put = functools.partial(constrain, like=params)
    told = jax.tree.map(put, state._replace(cache=None))
    if state.cache is None:
        return told
    held = [put(part, "heads", None) for part in state.cache.key_values]
    return told._replace(cache=Cache(KeyValues(*held), put(state.cache.length)))


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
    state = _first_state(
        jnp.where(is_prompt, truth, 0), prompt_length, length, keys, None
    )

    def target(state: DecodeState, tree: Tree) -> tuple[Choice, None]:
        depth = jnp.pad(tree.depth, ((0, 0), (1, 0)))
        place = jnp.minimum(state.length[:, None] + depth, truth.shape[1] - 1)
        token = jnp.take_along_axis(truth, place, axis=1)
        return Choice(token, jnp.ones(token.shape)), None

    state = _loop(target, state, index, draft, NO_EOS, NO_LIMIT)
    return _lay_out(state, index)


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


def _first_state(tokens, length, stop, keys, cache) -> DecodeState:
    batch_size = len(length)
    none = jnp.zeros(batch_size, jnp.int32)
    return DecodeState(
        tokens=tokens.astype(jnp.int32),
        length=length.astype(jnp.int32),
        stop=stop.astype(jnp.int32),
        done=length >= stop,
        drafted=jnp.zeros(tokens.shape, bool),
        confidence=jnp.ones(batch_size),
        steps=none,
        nodes=none,
        keys=keys,
        cache=cache,
    )


def _loop(target: Target, state, index, draft, eos_id, num_steps) -> DecodeState:
    def is_open(carry):
        count, state = carry
        return ~jnp.all(state.done) & (count < num_steps)

    def step(carry):
        count, state = carry
        tree = drafters.draft(Text(state.tokens, state.length), index, draft)
        choice, new = target(state, tree)
        return count + 1, _keep(state, tree, choice, new, _deepest(draft), eos_id)

    _, state = jax.lax.while_loop(is_open, step, (jnp.zeros((), jnp.int32), state))
    return state


def _keep(state, tree, choice: Choice, new, deepest: int, eos_id) -> DecodeState:
    """Appends the accepted branch, and the token that the model says after it."""
    path, count = accept(tree, choice.token, deepest)
    # What follows each kept node: the next kept node's token, at last the model's own.
    said = jnp.take_along_axis(choice.token, path, axis=1)
    probability = jnp.take_along_axis(choice.probability, path, axis=1)
    place = jnp.arange(deepest + 1)[None]
    own = count[:, None] - 1  # the last token is the model's own
    ends = jnp.isin(said, jnp.asarray(eos_id)) & (place < count[:, None])
    first_end = jnp.argmax(ends, axis=1)
    ended = jnp.any(ends, axis=1)
    count = jnp.where(ended, first_end + 1, count)
    ended &= count <= state.stop - state.length
    count = jnp.minimum(count, state.stop - state.length)
    count = jnp.where(state.done, 0, count)

    is_new = place < count[:, None]
    row = jnp.arange(len(count))[:, None]
    size = state.tokens.shape[1]
    slot = jnp.where(is_new, state.length[:, None] + place, size + place)

    def put(array, values):
        return array.at[row, slot].set(values, mode="drop", unique_indices=True)

    cache = state.cache
    if new is not None:
        rows = path[None, :, :, None, None]
        kept = jax.tree.map(lambda x: jnp.take_along_axis(x, rows, axis=2), new)
        cache = write_cache(cache, kept, is_new)
    least = jnp.min(jnp.where(is_new, probability, 1.0), axis=1)
    length = state.length + count
    return DecodeState(
        tokens=put(state.tokens, said),
        length=length,
        stop=state.stop,
        done=state.done | ended | (length >= state.stop),
        drafted=put(state.drafted, place < own),
        confidence=jnp.minimum(state.confidence, least),
        steps=state.steps + ~state.done,
        nodes=state.nodes + jnp.where(state.done, 0, tree.valid.sum(axis=1)),
        keys=state.keys,
        cache=cache,
    )
