"""The bootstrap over texts against a loop that resamples one by one."""

import numpy as np

from relay_jax.rest import bootstrap


def random_counts(rng, num=40):
    tokens = rng.integers(20, 200, num)
    steps = tokens // rng.integers(2, 6, num) + 1
    return np.stack([tokens, steps])


def test_the_interval_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    one = random_counts(rng)
    other = one + np.stack([np.zeros(40, int), rng.integers(0, 20, 40)])
    differences = []
    for _ in range(4_000):
        at = [int(rng.integers(40)) for _ in range(40)]
        rates = [counts[0, at].sum() / counts[1, at].sum() for counts in (one, other)]
        differences.append(rates[0] - rates[1])
    gain, low, high = bootstrap.bootstrap_gain(one, other)
    assert gain == one[0].sum() / one[1].sum() - other[0].sum() / other[1].sum()
    expected = np.quantile(differences, [0.025, 0.975])
    np.testing.assert_allclose([low, high], expected, atol=0.05 * (high - low) + 0.01)


def test_the_pairs_matter():
    """Texts differ among themselves far more than the drafters do."""
    rng = np.random.default_rng(1)
    tokens, steps = np.full(60, 600), rng.integers(60, 600, 60)
    one, other = np.stack([tokens, steps]), np.stack([tokens, steps + 3])
    _, low, high = bootstrap.bootstrap_gain(one, other)
    assert 0 < low < high
    shuffled = np.stack([tokens, rng.permutation(steps + 3)])
    _, low, high = bootstrap.bootstrap_gain(one, shuffled)
    assert low < 0 < high


def test_equal_drafters_have_no_gain():
    one = random_counts(np.random.default_rng(2))
    np.testing.assert_array_equal(bootstrap.bootstrap_gain(one, one), 0)


def test_each_drafter_is_compared_with_those_before_it():
    def line(drafter, num_draft, steps):
        counts = {"tokens_of_texts": [12, 12], "steps_of_texts": steps}
        return {"drafter": drafter, "num_draft": num_draft} | counts

    lines = [
        line("none", 0, [12, 12]),
        line("rest", 8, [6, 6]),
        line("mixed", 8, [4] * 2),
    ]
    extended = bootstrap.add_gains(lines)
    assert [list(one["gain_over"]) for one in extended] == [[], [], ["rest 8"]]
    assert extended[2]["gain_over"]["rest 8"] == [1.0, 1.0, 1.0]
    table = bootstrap.make_gain_table(extended)
    assert table.splitlines()[1:] == ["mixed 8 - rest 8: +1.00 (+1.00, +1.00)"]
