"""Where texts with drafts first differ from those of plain decoding, and by how little.

A forward pass over a root and eight nodes rounds otherwise than one over a root alone, so
that of two candidates whose scores are nearly equal either may come first. `compare`
finds the first token at which two decodes differ. Both are then repeated up to this
token, and their scores are computed again:

    tie     both candidates are allowed by top-p: `gap` is the distance of their scores
    edge    one of them is at the edge of top-p: `gap` is the distance of the probability
            of all likelier tokens from top_p

`rounding` is how much the two passes differ: of the difference of two tokens' scores, or
of this probability.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relay_jax.base import Array, Float, Host, Int, PyTree
from relay_jax.config import ModelConfig, SamplingConfig
from relay_jax.decoding import decode, drafter, result, verify
from relay_jax.decoding.decode import DecodeState
from relay_jax.decoding.draft_tree import DraftTree
from relay_jax.decoding.drafter import DecodedText, Drafter
from relay_jax.decoding.target_model import TargetModel, make_target

TOP = 100  # likely tokens, of whose scores the rounding is measured


class Workload(NamedTuple):
    """A batch of prompts, and everything that their continuations depend on."""

    params: PyTree
    model: ModelConfig | TargetModel
    dtype: str  # in which the model computes
    prompts: list[list[int]]
    width: int  # to which prompts are padded
    max_new_tokens: int
    eos_ids: decode.EndIds
    sampling: SamplingConfig
    seed: int

    def start(self, drafter: Drafter) -> DecodeState:
        """The state after the prompts."""
        tokens, length = decode.pad_prompts(
            self.prompts, self.model.vocab_size, self.width
        )
        keys = decode.request_keys(self.seed, len(tokens))
        return decode.start(
            *(self.params, tokens, length, keys, drafter),
            model=self.model,
            max_new_tokens=self.max_new_tokens,
        )

    def advance(
        self,
        state: DecodeState,
        drafter: Drafter,
        index: Any,
        num_steps: int = decode.NO_LIMIT,
    ) -> DecodeState:
        """The state after some steps; by default at the end. Donates `state`."""
        return decode.advance(
            *(self.params, state, drafter, index),
            model=self.model,
            sampling=self.sampling,
            eos_id=self.eos_ids,
            num_steps=num_steps,
        )


class Decoded(NamedTuple):
    """A decoded batch, and how it was drafted."""

    drafter: Drafter
    index: Any
    tokens: list[Int[Host, " n"]]  # the new ones of each text
    drafted: list[Int[Host, " n"]]  # which of them were drafts
    num_steps: int  # of all texts


class Candidates(NamedTuple):
    """The model's logits for the token at which two decodes differ, in each of them."""

    plain: Float[Host, " v"]
    drafted: Float[Host, " v"]
    noise: Float[Host, " v"]  # the same in both
    tokens: tuple[int, int]  # the plain and the drafted text's


def run(work: Workload, drafter: Drafter = drafter.no_drafter, index: Any = None):
    """The batch, decoded to its end."""
    state = work.advance(work.start(drafter), drafter, index)
    lengths = list(map(len, work.prompts))
    rows = zip(np.asarray(state.drafted), lengths, np.asarray(state.length))
    return Decoded(
        *(drafter, index, result.new_tokens(state, lengths)),
        drafted=[row[start:end] for row, start, end in rows],
        num_steps=int(np.asarray(state.steps).sum()),
    )


def compare(
    work: Workload, plain: Decoded, drafted: Decoded
) -> tuple[int, list[dict[str, Any]]]:
    """The number of tokens that were compared, and the first difference of each text.

    A text is compared up to its first difference, after which it is another text.
    """
    count, positions = 0, {}
    for row, (one, two) in enumerate(zip(plain.tokens, drafted.tokens)):
        size = min(len(one), len(two))
        differs = np.flatnonzero(one[:size] != two[:size])
        count += int(differs[0]) + 1 if differs.size else size
        if differs.size:
            positions[row] = int(differs[0])
        elif len(one) != len(two):
            raise AssertionError(f"text {row} ends twice: {len(one)}, {len(two)}")
    if not positions:
        return count, []
    logits = [logits_at(work, each, positions) for each in (plain, drafted)]
    noise = noise_at(work, positions)
    found = []
    for row, position in positions.items():
        tokens = int(plain.tokens[row][position]), int(drafted.tokens[row][position])
        parts = logits[0][row], logits[1][row], noise[row]
        gap = measure(Candidates(*parts, tokens), work.sampling, work.dtype)
        found.append({"text": row, "position": position, "tokens": list(tokens)} | gap)
    return count, found


def measure(
    candidates: Candidates, sampling: SamplingConfig, dtype: str
) -> dict[str, Any]:
    """How near to each other two candidates are, and how much their scores round.

    Returns:
      `kind`, `gap`, `rounding` and `gap_in_rounding` (see the module's docstring). Of a
      tie, gap and rounding are in logits, and `gap_in_ulps` counts numbers of the type
      `dtype` that lie between the two logits.
    """
    scale = sampling.temperature or 1.0
    one, two, noise, tokens = candidates
    index = list(tokens)
    if sampling.temperature:
        allowed = [_is_allowed(x, sampling)[index] for x in (one, two)]
        if not np.all(allowed):
            return _edge(candidates, sampling, np.all(allowed, axis=0))
    scores = one[index] + scale * noise[index]
    gap = abs(float(scores[0]) - float(scores[1]))
    rounding = rounding_of(one, two)
    largest = float(np.abs(one[index]).max())
    ulp = float(jnp.finfo(dtype).eps) * 2.0 ** math.floor(math.log2(largest))
    return {
        "kind": "tie",
        "gap": gap,
        "rounding": rounding,
        "gap_in_rounding": gap / rounding,
        "gap_in_ulps": gap / ulp,
    }


def rounding_of(one: Float[Host, " v"], two: Float[Host, " v"]) -> float:
    """How much the difference of two likely tokens' logits varies between two passes.

    The root mean square over pairs of the `TOP` likeliest tokens.
    """
    top = np.argsort(-one)[:TOP]
    return float(np.sqrt(2) * np.std((one - two)[top].astype(np.float64)))


def _edge(candidates: Candidates, sampling: SamplingConfig, always) -> dict[str, Any]:
    """`measure` for candidates of which one is at the edge of top-p."""
    token = candidates.tokens[int(np.argmin(always))]
    above = [
        _mass_above(x, token, sampling) for x in (candidates.plain, candidates.drafted)
    ]
    gap, rounding = abs(above[0] - sampling.top_p), abs(above[0] - above[1])
    return {
        "kind": "edge",
        "gap": gap,
        "rounding": rounding,
        "gap_in_rounding": gap / max(rounding, 1e-12),
    }


def _is_allowed(logits: Float[Host, " v"], sampling: SamplingConfig):
    return np.isfinite(np.asarray(verify.filter_logits(jnp.asarray(logits), sampling)))


def _mass_above(logits, token: int, sampling: SamplingConfig) -> float:
    """The probability of all tokens that are likelier than a token."""
    scaled = logits.astype(np.float64) / sampling.temperature
    weights = np.exp(scaled - scaled.max())
    return float(weights[scaled > scaled[token]].sum() / weights.sum())


def logits_at(
    work: Workload, decoded: Decoded, positions: dict[int, int]
) -> dict[int, Float[Host, " v"]]:
    """The logits of the token at a position of some texts, as the decode computed them.

    The decode is repeated: the step that generated the token begins after the last token
    before it that was no draft.
    """
    steps = {
        row: int((~decoded.drafted[row][:position]).sum())
        for row, position in positions.items()
    }
    state, taken, found = work.start(decoded.drafter), 0, {}
    for row in sorted(steps, key=steps.__getitem__):
        more = steps[row] - taken
        state = work.advance(state, decoded.drafter, decoded.index, more)
        taken += more
        logits, tree = read_tree(
            *(work.params, state, decoded.drafter, decoded.index), model=work.model
        )
        begin = int(state.length[row]) - len(work.prompts[row])
        branch = decoded.tokens[row][begin : positions[row]]
        found[row] = np.asarray(logits[row, find_node(tree, row, branch)])
    return found


@functools.partial(jax.jit, static_argnames=("drafter", "model"))
def read_tree(
    params: PyTree, state: DecodeState, drafter: Drafter, index: Any, *, model: Any
) -> tuple[Float[Array, "b q v"], DraftTree]:
    """The logits and the tree of the next step, which is not taken."""
    text = DecodedText(state.tokens, state.length)
    tree = drafter.draft(index, state.drafter_state, text)
    return decode.apply_to_tree(make_target(model), params, state, tree)[0], tree


def find_node(tree: DraftTree, row: int, branch: Sequence[int]) -> int:
    """The number of the node at the end of a branch, which is in the tree."""
    node = 0
    for token in branch:
        is_next = np.asarray(tree.tokens[row] == token) & np.asarray(tree.valid[row])
        node = 1 + int(np.flatnonzero(is_next & (tree.parent[row] == node))[0])
    return node


def noise_at(work: Workload, positions: dict[int, int]) -> dict[int, Float[Host, " v"]]:
    """The sampling noise at a position of some texts."""
    keys = decode.request_keys(work.seed, len(work.prompts))
    found = {}
    for row, position in positions.items():
        start = jnp.array([len(work.prompts[row]) + position])
        size = work.model.vocab_size
        noise = verify.gumbel_noise(keys[row : row + 1], start, 1, size)
        found[row] = np.asarray(noise)[0, 0] * bool(work.sampling.temperature)
    return found


def typical_rounding(work: Workload, plain: Decoded, num_nodes: int) -> list[float]:
    """The rounding in the middle of every text: of a root alone, and with nodes.

    Both passes read the same cache; the nodes are the text's own next tokens.
    """
    middle = min(map(len, plain.tokens)) // 2
    state = work.advance(work.start(plain.drafter), plain.drafter, None, middle)
    rows = [tokens[middle : middle + num_nodes] for tokens in plain.tokens]
    padded = [np.pad(row, (0, num_nodes - len(row))) for row in rows]
    chain = jnp.asarray(np.stack(padded), jnp.int32)
    logits = [
        np.asarray(read_tree(work.params, state, each, chain, model=work.model)[0])
        for each in (plain.drafter, CHAIN)
    ]
    return [rounding_of(one[0], two[0]) for one, two in zip(*logits)]


def _draft_chain(index: Int[Array, "b s"], state: Any, text: DecodedText) -> DraftTree:
    """Drafts the index itself, as one branch."""
    del state
    num = index.shape[1]
    number = jnp.broadcast_to(jnp.arange(num)[None], index.shape)
    shape = (len(text.length), num + 1, num + 1)
    ancestors = jnp.broadcast_to(jnp.tril(jnp.ones((num + 1, num + 1), bool)), shape)
    valid = jnp.ones(index.shape, bool)
    return DraftTree(index, number, number + 1, valid, ancestors)


CHAIN = Drafter(drafter.no_state, _draft_chain, drafter.ignore_logits)
