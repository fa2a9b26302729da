"""Replay: evaluates drafters on known texts, with the decode loop but without a model.

Targets are texts that a model is assumed to have generated. They are stored as .npz:

    tokens          [n] token ids of all texts, concatenated
    starts          [k] where each text begins (or [k + 1]: and where the last one ends)
    prompt_lengths  [k] length of each text's prompt; the tokens after it are drafted
"""

import functools
import io
import itertools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from tqdm import tqdm

from relay_jax import files
from relay_jax.base import Array, Float, Host, Int
from relay_jax.config import DraftConfig
from relay_jax.decoding import decode
from relay_jax.decoding.draft_tree import DraftTree
from relay_jax.decoding.drafter import DecodedText, Drafter
from relay_jax.decoding.loop import Verification, run_loop
from relay_jax.decoding.state import DecodeState, constrain_state, first_state
from relay_jax.decoding.tree_size import first_sizing
from relay_jax.decoding.verify import TargetTokens
from relay_jax.files import read_integer_arrays
from relay_jax.jax_settings import standard_settings
from relay_jax.rest import drafters
from relay_jax.rest.drafters import make_drafter
from relay_jax.tokenizers import check_ids

ARRAYS = ("tokens", "starts", "prompt_lengths")
WIDTH_STEP = 512  # texts of similar length are replayed together


class Target(NamedTuple):
    """A prompt and the text that a model is assumed to have generated after it."""

    tokens: Int[Host, " n"]
    prompt_length: int


class Score(NamedTuple):
    """The number of steps that the replay of one text took."""

    new_tokens: int
    steps: int
    nodes: int  # drafted in all steps


@functools.partial(jax.jit, static_argnames="drafter")
@standard_settings()
def replay(
    tokens: Int[Array, "b m"],
    prompt_lengths: Int[Array, " b"],
    length: Int[Array, " b"],
    index: Any = None,
    *,
    drafter: Drafter,
) -> DecodeState:
    """Decodes known texts as if a model predicted them: `loop.run_loop` without one.

    Args:
      tokens: the texts, prompts included, padded on the right.
      prompt_lengths: the number of tokens of each prompt.
      length: the number of tokens of each text, prompt included.
      drafter: a drafter that does not observe logits.
    """
    is_prompt = jnp.arange(tokens.shape[1])[None] < prompt_lengths[:, None]
    prompts, keys = jnp.where(is_prompt, tokens, 0), decode.request_keys(0, len(tokens))
    state = first_state(prompts, prompt_lengths, length, keys, (), ())
    if drafter.sizes:
        state = state._replace(sizing=first_sizing(drafter.sizes))

    def verify(state: DecodeState, tree: DraftTree, max_depth: int) -> Verification:
        del max_depth
        depth = tree.depth_with_root
        position = jnp.minimum(state.length[:, None] + depth, tokens.shape[1] - 1)
        following = jnp.take_along_axis(tokens, position, axis=1)
        target = TargetTokens(following, jnp.ones(following.shape))
        return Verification(target, logits=None, entries=())

    def write_cache(cache, entries, nodes, mask):
        return cache

    state = run_loop(
        *(verify, write_cache, state, drafter, index),
        *(decode.NO_EOS, decode.NO_LIMIT),
    )
    return constrain_state(state, index)


def load_targets(path: epath.PathLike) -> list[Target]:
    """Reads targets, without the texts that are no longer than their prompts.

    Raises:
      ValueError: the file has another format, or its arrays contradict each other.
    """
    remedy = "experiments/replay.py --make makes one"
    tokens, starts, prompts = read_integer_arrays(path, ARRAYS, remedy)
    if len(starts) == len(prompts):
        starts = np.append(starts, len(tokens))
    starts = starts.astype(np.int64)  # unsigned differences are never below 0
    fits = len(starts) == len(prompts) + 1 and starts[-1] <= len(tokens)
    if not fits or np.any(np.diff(starts) < 0) or np.any(starts < 0):
        raise ValueError(
            f"{path}: starts must increase from 0 to at most {len(tokens)} and be as "
            f"many as prompt_lengths ({len(prompts)}), or one more; got {len(starts)}"
        )
    if np.any(prompts < 1):
        raise ValueError(f"{path}: every prompt needs at least one token")
    check_ids(tokens, 2**31, str(path), "which is no token id")
    texts = [tokens[a:b].astype(np.int32) for a, b in itertools.pairwise(starts)]
    pairs = zip(texts, map(int, prompts), strict=True)
    targets = [Target(text, prompt) for text, prompt in pairs if len(text) > prompt]
    if not targets:
        raise ValueError(f"{path} holds no text that is longer than its prompt")
    if num_short := len(texts) - len(targets):
        logging.warning(
            "%s: %d of %d texts are left out, as they are no longer than their prompts",
            *(path, num_short, len(texts)),
        )
    return targets


def check_path(path: epath.PathLike, overwrite: bool = False) -> None:
    """Raises ValueError if the file exists, unless `overwrite`."""
    if epath.Path(path).exists() and not overwrite:
        raise ValueError(f"{path} exists; choose another file or give --overwrite")


def save_targets(
    path: epath.PathLike, targets: Sequence[Target], overwrite: bool = False
) -> None:
    """Writes targets in the format above.

    Raises:
      ValueError: the file exists, unless `overwrite`; there are no targets.
    """
    check_path(path, overwrite)
    if not targets:
        raise ValueError("no text is longer than its prompt: there is nothing to draft")
    sizes = [len(target.tokens) for target in targets]
    arrays = (
        np.concatenate([target.tokens for target in targets]),
        np.cumsum([0, *sizes]),
        np.array([target.prompt_length for target in targets]),
    )
    stream = io.BytesIO()
    np.savez_compressed(stream, **dict(zip(ARRAYS, arrays)))
    files.write_atomically(path, stream.getvalue())


def check_targets(targets: list[Target], vocab_size: int) -> None:
    """Raises ValueError if a token id is outside the datastore's vocabulary."""
    limit = f"but the datastore's vocabulary has {vocab_size} tokens"
    for i, target in enumerate(targets):
        check_ids(target.tokens, vocab_size, f"text {i}", limit)


def replay_targets(
    targets: list[Target],
    index: Any,
    draft: DraftConfig,
    batch_size: int = 16,
    progress: bool = False,
) -> list[Score]:
    """Replays every target, in batches of similar length.

    Raises:
      ValueError: the draft config is not valid, or its drafter needs a model's logits.
    """
    drafters.check(draft, index, has_logits=False)
    order = sorted(range(len(targets)), key=lambda i: len(targets[i].tokens))
    scores: list[Score] = [Score(0, 0, 0)] * len(targets)
    groups = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    for group in tqdm(groups, desc=draft.drafter, disable=not progress):
        rows = [targets[i] for i in group]
        arrays = _as_arrays(rows, batch_size)
        state = replay(*arrays, index, drafter=make_drafter(draft))
        steps, nodes = jax.device_get((state.steps, state.nodes))
        for row, i in enumerate(group):
            new = len(targets[i].tokens) - targets[i].prompt_length
            scores[i] = Score(new, int(steps[row]), int(nodes[row]))
    return scores


def time_drafter(
    texts: list[DecodedText], index: Any, draft: DraftConfig, drafter_state: Any = ()
) -> Float[Host, " k"]:
    """Seconds of single calls of a drafter, one for each batch of texts.

    A call is retrieval and the draft tree, without the model. The first calls, which
    compile, are not counted.
    """
    run = jax.jit(standard_settings()(make_drafter(draft).draft))
    for text in texts[:10]:
        jax.block_until_ready(run(index, drafter_state, text))
    seconds = np.zeros(len(texts))
    for i, text in enumerate(texts):
        before = time.perf_counter()
        jax.block_until_ready(run(index, drafter_state, text))
        seconds[i] = time.perf_counter() - before
    return seconds


def sample_texts(targets: list[Target], count: int) -> list[DecodedText]:
    """Batches of one text each, cut at random positions and padded to one width."""
    widths = np.array([len(target.tokens) for target in targets])
    width = -(-int(np.quantile(widths, 0.9)) // WIDTH_STEP) * WIDTH_STEP
    texts = [target for target in targets if len(target.tokens) <= width]
    rng = np.random.default_rng(0)
    calls = []
    for i in range(count):
        target = texts[i % len(texts)]
        length = rng.integers(target.prompt_length, len(target.tokens)) or 1
        tokens = np.zeros((1, width), np.int32)
        tokens[0, :length] = target.tokens[:length]
        calls.append(DecodedText(jnp.asarray(tokens), jnp.asarray([length], jnp.int32)))
    return calls


def _as_arrays(rows: list[Target], batch_size: int):
    widest = max(len(row.tokens) for row in rows)
    width = -(-widest // WIDTH_STEP) * WIDTH_STEP
    tokens = np.zeros((batch_size, width), np.int32)
    prompt, length = np.ones((2, batch_size), np.int32)  # empty rows are done at once
    for i, row in enumerate(rows):
        tokens[i, : len(row.tokens)] = row.tokens
        prompt[i], length[i] = row.prompt_length, len(row.tokens)
    return tokens, prompt, length
