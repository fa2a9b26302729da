"""The bootstrap over texts, against drawing them one by one."""

import numpy as np

from relay_jax.rest import bootstrap


def drawn(rng, num=40):
    tokens = rng.integers(20, 200, num)
    steps = tokens // rng.integers(2, 6, num) + 1
    return np.stack([tokens, steps])


def test_the_interval_is_that_of_texts_drawn_one_by_one():
    rng = np.random.default_rng(0)
    one = drawn(rng)
    other = one + np.stack([np.zeros(40, int), rng.integers(0, 20, 40)])
    found = []
    for _ in range(4_000):
        at = [int(rng.integers(40)) for _ in range(40)]
        rates = [told[0, at].sum() / told[1, at].sum() for told in (one, other)]
        found.append(rates[0] - rates[1])
    mean, least, most = bootstrap.gain(one, other)
    assert mean == one[0].sum() / one[1].sum() - other[0].sum() / other[1].sum()
    wanted = np.quantile(found, [0.025, 0.975])
    np.testing.assert_allclose([least, most], wanted, atol=0.05 * (most - least) + 0.01)


def test_the_pairs_matter():
    """Texts differ among themselves far more than the drafters do."""
    rng = np.random.default_rng(1)
    tokens, steps = np.full(60, 600), rng.integers(60, 600, 60)
    one, other = np.stack([tokens, steps]), np.stack([tokens, steps + 3])
    _, least, most = bootstrap.gain(one, other)
    assert 0 < least < most
    shuffled = np.stack([tokens, rng.permutation(steps + 3)])
    _, least, most = bootstrap.gain(one, shuffled)
    assert least < 0 < most


def test_no_interval_of_equals():
    one = drawn(np.random.default_rng(2))
    np.testing.assert_array_equal(bootstrap.gain(one, one), 0)


def test_each_drafter_is_set_above_those_before_it():
    def line(drafter, num_draft, steps):
        told = {"tokens_of_texts": [12, 12], "steps_of_texts": steps}
        return {"drafter": drafter, "num_draft": num_draft} | told

    lines = [
        line("none", 0, [12, 12]),
        line("rest", 8, [6, 6]),
        line("mixed", 8, [4] * 2),
    ]
    told = bootstrap.add_gains(lines)
    assert [list(one["gain_over"]) for one in told] == [[], [], ["rest 8"]]
    assert told[2]["gain_over"]["rest 8"] == [1.0, 1.0, 1.0]
    table = bootstrap.make_gain_table(told)
    assert table.splitlines()[1:] == ["mixed 8 - rest 8: +1.00 (+1.00, +1.00)"]
