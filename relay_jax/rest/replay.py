"""Replay: how well are known texts drafted? Without a model, by the loop that decodes.

Targets are kept in a .npz file:

    tokens          [n] token ids of all texts, one after another
    starts          [k] where each text begins (or [k + 1]: and where the last one ends)
    prompt_lengths  [k] how many of its tokens are given; the others are to be drafted
"""

import io
import itertools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from tqdm import tqdm

from relay_jax import files
from relay_jax.base import Float, Host, Int
from relay_jax.config import DraftConfig
from relay_jax.decoding.decode import replay
from relay_jax.files import read_integer_arrays
from relay_jax.rest import drafters
from relay_jax.rest.drafters import Text
from relay_jax.tokenizers import check_ids

ARRAYS = ("tokens", "starts", "prompt_lengths")
WIDTH_STEP = 512  # texts of similar length are replayed together


class Target(NamedTuple):
    """A text that a model is taken to have written after its prompt."""

    tokens: Int[Host, " n"]
    prompt_length: int


class Score(NamedTuple):
    """What the replay of one text took."""

    new_tokens: int
    steps: int
    nodes: int  # drafted in all steps


def load_targets(path: epath.PathLike) -> list[Target]:
    """Reads targets. Texts with nothing to draft are left out.

    Raises:
      ValueError: the file is not such a file, or its numbers do not fit each other.
    """
    remedy = "experiments/make_targets.py makes one"
    tokens, starts, prompts = read_integer_arrays(path, ARRAYS, remedy)
    if len(starts) == len(prompts):
        starts = np.append(starts, len(tokens))
    starts = starts.astype(np.int64)  # unsigned differences are never below 0
    fits = len(starts) == len(prompts) + 1 and starts[-1] <= len(tokens)
    if not fits or np.any(np.diff(starts) < 0) or np.any(starts < 0):
        raise ValueError(
            f"{path}: starts must rise from 0 to at most {len(tokens)} and be as many "
            f"as prompt_lengths ({len(prompts)}), or one more; got {len(starts)}"
        )
    if np.any(prompts < 1):
        raise ValueError(f"{path}: every prompt needs at least one token")
    check_ids(tokens, 2**31, str(path), "which is no token id")
    texts = [tokens[a:b].astype(np.int32) for a, b in itertools.pairwise(starts)]
    pairs = zip(texts, map(int, prompts), strict=True)
    kept = [Target(text, prompt) for text, prompt in pairs if len(text) > prompt]
    if not kept:
        raise ValueError(f"{path} holds no text that is longer than its prompt")
    return kept


def check_place(path: epath.PathLike, overwrite: bool = False) -> None:
    """Raises ValueError where there is such a file, unless `overwrite`."""
    if epath.Path(path).exists() and not overwrite:
        raise ValueError(f"{path} exists; choose another file or give --overwrite")


def save_targets(
    path: epath.PathLike, targets: Sequence[Target], overwrite: bool = False
) -> None:
    """Writes targets in the format above.

    Raises:
      ValueError: there is such a file, unless `overwrite`, or nothing to write.
    """
    check_place(path, overwrite)
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
    """Raises ValueError at a token id outside the datastore's vocabulary."""
    limit = f"but the datastore's vocabulary has {vocab_size} words"
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
      ValueError: the draft config cannot work, or looks at a model's logits.
    """
    drafters.check(draft, index, has_logits=False)
    order = sorted(range(len(targets)), key=lambda i: len(targets[i].tokens))
    scores: list[Score] = [Score(0, 0, 0)] * len(targets)
    groups = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    for group in tqdm(groups, desc=draft.drafter, disable=not progress):
        rows = [targets[i] for i in group]
        truth, prompt, length = _as_arrays(rows, batch_size)
        state = replay(truth, prompt, length, index, draft=draft)
        steps, nodes = jax.device_get((state.steps, state.nodes))
        for row, i in enumerate(group):
            new = len(targets[i].tokens) - targets[i].prompt_length
            scores[i] = Score(new, int(steps[row]), int(nodes[row]))
    return scores


def time_drafter(
    texts: list[Text], index: Any, draft: DraftConfig
) -> Float[Host, " k"]:
    """Seconds of single calls, one for each batch of texts: retrieval and tree alone.

    First calls, which compile, are left out.
    """
    run = jax.jit(drafters.draft, static_argnames="config")
    for text in texts[:10]:
        jax.block_until_ready(run(text, index, config=draft))
    seconds = np.zeros(len(texts))
    for i, text in enumerate(texts):
        before = time.perf_counter()
        jax.block_until_ready(run(text, index, config=draft))
        seconds[i] = time.perf_counter() - before
    return seconds


def draw_texts(targets: list[Target], count: int) -> list[Text]:
    """Single texts up to places that are drawn evenly from all targets, in one width."""
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
        calls.append(Text(jnp.asarray(tokens), jnp.asarray([length], jnp.int32)))
    return calls


def _as_arrays(rows: list[Target], batch_size: int):
    widest = max(len(row.tokens) for row in rows)
    width = -(-widest // WIDTH_STEP) * WIDTH_STEP
    truth = np.zeros((batch_size, width), np.int32)
    prompt, length = np.ones((2, batch_size), np.int32)  # nothing to do in empty rows
    for i, row in enumerate(rows):
        truth[i, : len(row.tokens)] = row.tokens
        prompt[i], length[i] = row.prompt_length, len(row.tokens)
    return truth, prompt, length
