"""How likely nodes are to be accepted: the formula, its examples, what it takes in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.decoding import acceptance
from relay_jax.decoding.acceptance import AcceptanceModel
from relay_jax.decoding.draft_tree import END, DraftSequences, make_tree

# a b c, a b d, x with their weights; the kinds of their sources
TEXTS, WEIGHTS, KINDS = [(1, 2, 3), (1, 2, 4), (9,)], [4, 3, 5], [20, 12, 0]
NODES = {(1,): 1, (1, 2): 2, (9,): 3, (1, 2, 3): 4, (1, 2, 4): 5}
UPDATE = jax.jit(acceptance.update)
BUILD = jax.jit(make_tree, static_argnums=1)


def make(texts=TEXTS, weights=WEIGHTS, kinds=KINDS, num_draft=6):
    tokens = [[*text, *[END] * (3 - len(text))] for text in texts]
    parts = (jnp.array([part], jnp.int32) for part in (tokens, weights, kinds))
    return BUILD(DraftSequences(*parts), num_draft)


def draw_model(seed=0):
    rng = np.random.default_rng(seed)
    prior = acceptance.prior()
    return AcceptanceModel(
        *(jnp.array(rng.normal(size=x.shape), jnp.float32) for x in prior)
    )


def test_a_node_is_as_likely_as_its_path():
    model, tree = draw_model(), make()
    named = dict(zip(acceptance.FEATURES, np.asarray(model.coefficients).tolist()))
    kinds = {(1,): 20, (1, 2): 20, (9,): 0, (1, 2, 3): 20, (1, 2, 4): 12}
    weight = {(): 12, (1,): 7, (1, 2): 7, (9,): 5, (1, 2, 3): 4, (1, 2, 4): 3}
    expected = np.zeros(6)
    for path, node in NODES.items():
        chance = 1.0
        for depth in range(1, len(path) + 1):
            weight_here, above = weight[path[:depth]], weight[path[: depth - 1]]
            log_odds = float(model.bias[kinds[path[:depth]]]) + named["one"]
            log_odds += named["log_odds_of_share"] * np.log(
                (weight_here + 0.5) / (above - weight_here + 0.5)
            )
            log_odds += named["log_share"] * np.log((weight_here + 0.5) / (above + 0.5))
            log_odds += sum(named[f"depth_{d}"] for d in (2, 3, 5) if depth >= d)
            chance /= 1 + np.exp(-log_odds)
        expected[node - 1] = chance
    found = acceptance.path_probability(model, tree)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("following", "count", "examples", "right"),
    [
        ([1, 2, 4, 7], 4, {1, 2, 3, 4, 5}, {1, 2, 5}),
        ([1, 2, 4, 7], 1, {1, 3}, {1}),  # a plain step shows the first level
        ([1, 7, 4, 7], 4, {1, 2, 3}, {1}),
        ([9, 7, 0, 0], 2, {1, 3}, {3}),
        ([1, 2, 4, 7], 0, set(), set()),  # the row is done
    ],
)
def test_a_node_below_a_right_one_is_an_example(following, count, examples, right):
    """Whether it was verified or not."""
    found = acceptance.examples(
        make(), jnp.array([following], jnp.int32), jnp.array([count])
    )
    is_example, is_right = (set(np.flatnonzero(row[0]) + 1) for row in found)
    assert is_example == examples and is_right & examples == right


def test_what_was_right_becomes_likelier_and_is_forgotten():
    tree, prior = make(), acceptance.prior()
    path = jax.jit(acceptance.path_probability)

    def see(model, following, times):
        for _ in range(times):
            model = UPDATE(
                model, tree, jnp.array([following], jnp.int32), jnp.array([4])
            )
        return model

    before = path(prior, tree)[0]
    right = see(prior, [1, 2, 4, 7], 20)
    after = path(right, tree)[0]
    assert after[4] > before[4] + 0.05 and after[2] < before[2]
    wrong = path(see(prior, [5, 2, 4, 7], 100), tree)[0]
    assert wrong.max() < 0.2 < before.max()
    unseen = AcceptanceModel(*(np.asarray(x) for x in see(right, [5, 0, 0, 0], 1)))
    assert np.all(unseen.bias[30:] == np.asarray(prior.bias)[30:])
    back = see(see(prior, [5, 2, 4, 7], 100), [1, 2, 4, 7], 100)
    assert path(back, tree)[0, 4] > before[4]
    empty = make(weights=[0, 0, 0])
    same = UPDATE(right, empty, jnp.array([[1, 2, 4, 7]]), jnp.array([4]))
    jax.tree.map(np.testing.assert_array_equal, same, right)  # nothing was drafted


def test_rows_are_taken_together():
    """Two rows change the model as much as both of them, one by one."""
    one, two = make(), make(weights=[1, 8, 2])
    both = jax.tree.map(lambda *rows: jnp.concatenate(rows), one, two)
    following = jnp.array([[1, 2, 4, 7], [9, 1, 1, 1]], jnp.int32)
    prior = acceptance.prior()
    parts = [
        UPDATE(prior, tree, following[i : i + 1], jnp.array([4]))
        for i, tree in enumerate((one, two))
    ]
    expected = jax.tree.map(lambda a, b, start: a + b - start, *parts, prior)
    found = UPDATE(prior, both, following, jnp.array([4, 4]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected
    )


def test_every_drafter_tells_its_source():
    assert set(acceptance.SOURCES) >= {"datastore", "text", "table", "looped"}
    kinds = [
        acceptance.match_kind(name, jnp.arange(-1, 17)[None])[0]
        for name in ("datastore", "text")
    ]
    assert not set(np.asarray(kinds[0])) & set(np.asarray(kinds[1]))
    assert all(np.all(np.diff(kind) >= 0) for kind in kinds)
    chance = acceptance.chance_kind("table", jnp.array([[0.0, 0.5, 1.0]]))
    assert np.asarray(chance).tolist() == [[24, 28, 31]]


def test_the_prior_is_that_of_a_recorded_measurement():
    """Longer matches and larger shares are more likely to be right."""
    weights = acceptance.prior()
    named = dict(zip(acceptance.FEATURES, np.asarray(weights.coefficients).tolist()))
    assert named["log_odds_of_share"] > 0 and named["log_share"] > 0
    store = acceptance.match_kind("datastore", jnp.array([[1, 2, 3, 5, 16]]))
    assert np.all(np.diff(weights.bias[store]) > 0)


def test_a_tree_of_unknown_origin_is_refused():
    tree = make()._replace(evidence=None)
    assert isinstance(tree.head(2).tokens, jax.Array)
    with pytest.raises(ValueError, match="does not tell what its trees rest on"):
        acceptance.features(tree)
