"""Near-ties: a model whose passes over several tokens round otherwise, by a known amount."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import near_ties
from relay_jax.config import SamplingConfig
from relay_jax.decoding import decode
from relay_jax.decoding.target_model import TargetModel
from tests.experiments.test_scripts import refusal

VOCAB, DELTA = 16, 2.0**-16
TEXT = [3, 4, 5, 7]  # after 7, two tokens are nearly as likely


def apply(params, tokens, positions, mask, cache):
    """A bigram model, whose token 1 gains `DELTA` in passes over several tokens."""
    is_several = positions.shape[1] > 1
    return params[tokens].at[..., 1].add(DELTA * is_several), ()


MODEL = TargetModel(
    apply=apply,
    init_cache=lambda batch_size, max_length: (),
    write_cache=lambda cache, entries, nodes, mask: cache,
    vocab_size=VOCAB,
)


@pytest.fixture
def work():
    params = np.zeros((VOCAB, VOCAB), np.float32)
    for one, two in itertools.pairwise(TEXT):
        params[one, two] = 5
    params[7, 1], params[7, 2] = 5, 5 + DELTA / 4
    params[[1, 2], 9] = 5
    params[9, 9] = 5
    prompts, sampling = [[9], TEXT[:1]], SamplingConfig()
    return near_ties.Workload(
        *(jnp.asarray(params), MODEL, "float32", prompts, 1, 8),
        *(decode.NO_EOS, sampling, 0),
    )


def test_a_difference_inside_a_branch_is_found_and_measured(work):
    plain = near_ties.run(work)
    assert [row[:4].tolist() for row in plain.tokens] == [[9] * 4, [4, 5, 7, 2]]
    chain = jnp.asarray(np.stack(plain.tokens)[:, :4])
    drafted = near_ties.run(work, near_ties.CHAIN._replace(max_depth=4), chain)
    assert drafted.tokens[1][:4].tolist() == [4, 5, 7, 1]
    compared, (found,) = near_ties.compare(work, plain, drafted)
    assert compared == 8 + 4
    assert (found["text"], found["position"], found["tokens"]) == (1, 3, [2, 1])
    assert found["kind"] == "tie" and found["gap"] == DELTA / 4
    ulp = float(np.spacing(np.float32(5)))
    assert found["gap_in_ulps"] == pytest.approx(found["gap"] / ulp)
    # One of 16 tokens moves by DELTA: the standard deviation is DELTA sqrt(15) / 16.
    assert found["rounding"] == pytest.approx(2**0.5 * DELTA * 15**0.5 / 16)
    assert near_ties.typical_rounding(work, plain, 4) == pytest.approx(
        [found["rounding"]] * 2
    )
    assert json.loads(json.dumps(found)) == found  # as the batch's line is written


def test_equal_texts_have_no_difference(work):
    plain = near_ties.run(work)
    assert near_ties.compare(work, plain, plain) == (16, [])


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_gap_is_that_of_the_noisy_scores(temperature):
    plain, noise = np.float32([3, 2, -9]), np.float32([0.5, 1.6, 0])
    candidates = near_ties.Candidates(plain, plain + 0.01, noise, (1, 0))
    found = near_ties.measure(candidates, SamplingConfig(temperature), "bfloat16")
    gap = abs(3 + temperature * 0.5 - (2 + temperature * 1.6))
    assert found["kind"] == "tie" and found["gap"] == pytest.approx(gap)
    assert found["gap_in_ulps"] == pytest.approx(gap / 2**-6)


def test_a_token_at_the_edge_of_top_p():
    """It is allowed in one pass alone, because likelier ones sum to just below top-p."""
    plain = np.log([0.5001, 0.3, 0.1999]).astype(np.float32)
    drafted = np.log([0.4998, 0.3, 0.2002]).astype(np.float32)
    noise = np.float32([0, 9, 0])
    candidates = near_ties.Candidates(plain, drafted, noise, (0, 1))
    found = near_ties.measure(candidates, SamplingConfig(1.0, 0.5), "float32")
    assert found["kind"] == "edge"
    assert found["gap"] == pytest.approx(1e-4, rel=0.01)
    assert found["rounding"] == pytest.approx(3e-4, rel=0.01)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--drafters=rset"], "unknown rset; samplings are greedy, nucleus, drafters"),
        (["--model=/nowhere", "--problems=/nowhere"], "/nowhere does not exist"),
    ],
)
def test_bad_flags(flags, message, tmp_path):
    arguments = [*flags, f"--workdir={tmp_path}"]
    assert message in refusal("benchmarks.exactness", *arguments)
