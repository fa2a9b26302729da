"""A gate: no drafter may propose worse drafts than are recorded in data/gate.json.

`python -m tests.rest.test_gate` records them anew; say in the commit what changed M.

The text is an earlier version of this project's code, data/gate_text.txt: one half is
the datastore, of the other some pieces are decoded. Their tokens are the arg-max of a
target model that knows them, so that M does not depend on the machine; its other
candidates are the followers of each token in the datastore.
"""

import functools
import json
import pathlib
import re
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.config import DraftConfig
from relay_jax.decoding import decode, result
from relay_jax.decoding.target_model import TargetModel
from relay_jax.rest import drafters
from relay_jax.rest.build import build_datastore
from relay_jax.rest.drafters import AUTOTUNE, make_drafter
from relay_jax.rest.index import load_index
from relay_jax.rest.looped_draft import LoopedDraft

DATA = pathlib.Path(__file__).parent / "data"
PIECES, PROMPT, NEW = 6, 40, 200  # texts; tokens of each
WRONG = 13  # in the predicted text, one token of so many is wrong
MAX_LOSS = 0.02  # of M
DEEP = 33  # layers of a model for which few sizes are compiled
CASES = {
    name: DraftConfig(name, num_draft=16)
    for name in drafters.DRAFTERS
    if name != "none"
}
CASES["rest, auto"] = DraftConfig("rest", num_draft=AUTOTUNE)
CASES["mixed, auto"] = DraftConfig("mixed", num_draft=AUTOTUNE)


@functools.cache
def gate():
    """The pieces, the index of the datastore, and the target model's parameters."""
    symbols = re.findall(r"\w+|\s+|[^\w\s]", (DATA / "gate_text.txt").read_text())
    ids = {
        symbol: number for number, symbol in enumerate(dict.fromkeys(symbols), start=2)
    }
    tokens, half = np.array([ids[symbol] for symbol in symbols]), len(symbols) // 2
    size = PROMPT + NEW
    starts = half + np.arange(PIECES) * ((half - size) // PIECES)
    pieces = np.stack([tokens[start : start + size] for start in starts])
    bigrams = np.zeros((len(ids) + 2, len(ids) + 2), np.float32)
    np.add.at(bigrams, (tokens[: half - 1], tokens[1:half]), 1)
    with tempfile.TemporaryDirectory() as folder:
        vocab = {"tokenizer": "gate", "vocab_size": len(bigrams), "eos_id": 1}
        index = load_index(build_datastore([tokens[:half]], f"{folder}/store", **vocab))
        jax.block_until_ready(index.tokens)
    params = {"pieces": jnp.asarray(pieces), "bigrams": jnp.log1p(bigrams)}
    return pieces, index, params


def apply(params, tokens, positions, mask, cache):
    following = jnp.minimum(positions + 1, params["pieces"].shape[1] - 1)
    truth = jnp.take_along_axis(params["pieces"], following, axis=1)
    known = 100.0 * jax.nn.one_hot(truth, len(params["bigrams"]))
    return params["bigrams"][tokens] + known, ()


def measure(name):
    """M of a drafter."""
    pieces, index, params = gate()
    target = TargetModel(
        apply=apply,
        init_cache=lambda batch_size, size: (),
        write_cache=lambda cache, entries, nodes, mask: cache,
        vocab_size=len(params["bigrams"]),
    )
    draft, needs = CASES[name], drafters.DRAFTERS[CASES[name].drafter].index
    if needs == drafters.LOOPED_DRAFT:
        is_wrong = np.arange(pieces.shape[1]) % WRONG == 0
        predicted = np.where(is_wrong, 0, pieces).astype(np.int32)
        index = LoopedDraft(predicted, np.full(PIECES, pieces.shape[1], np.int32))
    state = decode.decode(
        *(params, list(pieces[:, :PROMPT]), make_drafter(draft, DEEP)),
        index if needs else None,
        model=target,
        max_new_tokens=NEW,
    )
    np.testing.assert_array_equal(state.tokens, pieces)
    return result.tokens_per_step(state, [PROMPT] * PIECES)


@pytest.mark.parametrize("name", CASES)
def test_no_drafter_becomes_worse(name):
    recorded = json.loads((DATA / "gate.json").read_text())
    assert set(recorded) == set(CASES), "record M of every drafter, see above"
    assert measure(name) >= (1 - MAX_LOSS) * recorded[name]


if __name__ == "__main__":
    found = {name: round(measure(name), 4) for name in CASES}
    (DATA / "gate.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found), file=sys.stderr)
