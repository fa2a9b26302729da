"""The tasks' problems are distributed as those of the published generators.

`published.py` has these, one random choice at a time. Each statistic gives one category a
problem; a chi-square test of homogeneity compares how often ours and theirs have each.
"""

import collections
import itertools
import random
import re
import sys

import numpy as np
import pytest
from scipy import stats

from relay_jax.tasks.arithmetic import Arithmetic
from relay_jax.tasks.edit_distance import EditDistance
from relay_jax.tasks.lis import MAX_RUNS, LongestIncreasingSubsequence
from relay_jax.vocabulary import FIRST_LETTER
from tests.tasks import published
from tests.tasks.test_arithmetic import operations, parse, symbols, value_of
from tests.tasks.test_edit_distance import strings
from tests.tasks.test_lis import numbers_of

SIGNIFICANCE = 1e-3  # of one test; seeds are fixed
MIN_EXPECTED = 10  # categories that occur less often are counted together


def p_value(ours, theirs):
    """Of the hypothesis that two lists of categories are samples of one distribution."""
    counts = [collections.Counter(ours), collections.Counter(theirs)]
    table = np.array([[c[k] for k in counts[0] | counts[1]] for c in counts])
    is_common = table.sum(axis=0) >= 2 * MIN_EXPECTED
    rare = table[:, ~is_common].sum(axis=1, keepdims=True)
    table = np.concatenate([table[:, is_common], rare], axis=1)
    return stats.chi2_contingency(table[:, table.any(axis=0)]).pvalue


def our_expressions(modulus, length, count):
    task, rng = Arithmetic(modulus), np.random.default_rng(0)
    problem = task.sample(rng, np.full(count, length)).problem
    return [symbols(row)[1:-1] for row in problem]


def their_expressions(modulus, length, count):
    rng = random.Random(1)
    return [published.arithmetic(rng, length, modulus)[0] for _ in range(count)]


def multiplies_by_zero(text, modulus):
    products = [node for node in operations(parse(text)) if node[0] == "*"]
    return any(value_of(right, text, modulus) == 0 for _, _, right, _ in products)


def bracket_depth(text):
    return max(np.cumsum([(w == "(") - (w == ")") for w in text]))


# Of an expression `u operator v`.
OPERATION_STATISTICS = {
    "operator": lambda text, p: text[1],
    "u, given the operator": lambda text, p: tuple(text[:2]),
    "v, given the operator": lambda text, p: tuple(text[1:]),
    "the value": lambda text, p: value_of(parse(text), text, p),
    "all": lambda text, p: (*text, value_of(parse(text), text, p)),
}
EXPRESSION_STATISTICS = {
    "the value": lambda text, p: value_of(parse(text), text, p),
    "the first operator": lambda text, p: next(w for w in text if w in "+-*/"),
    "the first number": lambda text, p: next(w for w in text if w.isdecimal()),
    "the last number": lambda text, p: next(w for w in text[::-1] if w.isdecimal()),
    "zeros": lambda text, p: text.count("0"),
    "products": lambda text, p: text.count("*"),
    "quotients": lambda text, p: text.count("/"),
    "brackets": lambda text, p: text.count("("),
    "depth of brackets": lambda text, p: bracket_depth(text),
    "tokens before the first bracket": lambda text, p: [*text, "("].index("("),
    "multiplies by 0": multiplies_by_zero,
}


@pytest.fixture(scope="module")
def expressions():
    """Ours and theirs: operations, and expressions of six operators."""
    sampled = {}
    for modulus, length, count in ((5, 1, 30_000), (11, 1, 60_000), (11, 6, 5000)):
        sizes = modulus, length, count
        sampled[modulus, length] = our_expressions(*sizes), their_expressions(*sizes)
    return sampled


@pytest.mark.parametrize("statistic", OPERATION_STATISTICS)
@pytest.mark.parametrize("modulus", [5, 11])
def test_operations_are_drawn_as_published(modulus, statistic, expressions):
    measure = OPERATION_STATISTICS[statistic]
    ours, theirs = ([measure(t, modulus) for t in ts] for ts in expressions[modulus, 1])
    assert p_value(ours, theirs) > SIGNIFICANCE


@pytest.mark.parametrize("statistic", EXPRESSION_STATISTICS)
def test_expressions_are_distributed_as_published(statistic, expressions):
    measure = EXPRESSION_STATISTICS[statistic]
    ours, theirs = ([measure(t, 11) for t in ts] for ts in expressions[11, 6])
    assert len(set(theirs)) > 1
    assert p_value(ours, theirs) > SIGNIFICANCE


@pytest.mark.parametrize(("length", "share"), [(15, 0.21), (30, 0.37)])
def test_products_by_zero_are_as_common_as_published(length, share):
    sizes = 11, length, 1500
    ours, theirs = (
        [multiplies_by_zero(text, 11) for text in sample(*sizes)]
        for sample in (our_expressions, their_expressions)
    )
    assert abs(np.mean(ours) - share) < 0.04
    assert p_value(ours, theirs) > SIGNIFICANCE


def test_published_chains_undo_one_operation_a_round():
    rng = random.Random(2)
    for _ in range(200):
        problem, *rounds = published.arithmetic(rng, 5, 5)
        for left, text in zip(range(4, -1, -1), rounds, strict=True):
            assert len(operations(parse(text))) == left
            values = [value_of(parse(t), t, 5) for t in (problem, text)]
            assert values[0] == values[1]


@pytest.fixture(scope="module")
def pairs():
    """Strings of which the shorter one has 12 letters: ours, and theirs with all that
    can give one of 12."""
    sampled = EditDistance().sample(np.random.default_rng(0), np.full(4000, 12))
    rng, theirs = random.Random(1), []
    while len(theirs) < 4000:
        pair = published.edit_distance(rng, rng.randint(12, 15))
        if len(pair.first) == 12:
            theirs.append(pair)
    return [strings(row) for row in sampled.problem], theirs


def test_letters_of_strings_are_as_published(pairs):
    ours, theirs = pairs
    counts = [len(set(first)) for first, _ in ours]
    assert p_value(counts, [len(set(pair.first)) for pair in theirs]) > SIGNIFICANCE
    letters = [chr(first[0] - FIRST_LETTER + ord("a")) for first, _ in ours]
    assert p_value(letters, [pair.first[0] for pair in theirs]) > SIGNIFICANCE


def test_strings_differ_from_the_published_ones_as_documented(pairs):
    """docs/departures.md: the second string is 0 to 3 letters longer, with probabilities
    of 1, 2, 2 and 1 sixths where the strings are unrelated; ours is 0 to 2."""
    ours, theirs = pairs
    extra = [len(second) - len(first) for first, second in ours]
    assert set(extra) == {0, 1, 2}
    unrelated = [len(p.second) - len(p.first) for p in theirs if not p.is_related]
    shares = np.bincount(unrelated) / len(unrelated)
    np.testing.assert_allclose(shares, np.array([1, 2, 2, 1]) / 6, atol=0.05)
    related = np.mean([pair.is_related for pair in theirs])
    assert (
        0.54 < related < 0.6
    )  # 0.6 of those drawn; too long or short ones are drawn anew
    assert any(first == second for first, second in ours)
    assert all(pair.first != pair.second for pair in theirs)


@pytest.mark.parametrize("length", [3, 7, 30])
def test_runs_are_as_published(length):
    rng, count = random.Random(1), 6000
    task = LongestIncreasingSubsequence()
    planted, stop = task._runs(np.random.default_rng(0), np.full(count, length))
    sizes = np.diff(stop, axis=1, prepend=0)
    np.testing.assert_array_equal(sizes.sum(axis=1), planted)
    ours = [tuple(row) for row in sizes.tolist()]
    theirs = [published.run_sizes(rng, length) for _ in range(count)]
    padded = [(*row, *[0] * (MAX_RUNS - len(row))) for row in theirs]
    assert p_value(ours, padded) > SIGNIFICANCE


LIS_STATISTICS = {
    "the answer": lambda row: max(published.subsequence_lengths(row)),
    "rises": lambda row: sum(a < b for a, b in itertools.pairwise(row)),
    "the first number, in tens": lambda row: row[0] // 10,
    "the last number, in tens": lambda row: row[-1] // 10,
    "equal numbers": lambda row: len(row) - len(set(row)),
    "the longest rise": lambda row: max(
        (b - a for a, b in itertools.pairwise(row) if b > a), default=0
    ),
}


@pytest.fixture(scope="module")
def sequences():
    sampled = {}
    for length, count in ((4, 6000), (30, 3000)):
        limits = {"smallest": length + 1, "number_range": 100}
        task, rng = LongestIncreasingSubsequence(**limits), random.Random(1)
        problem = task.sample(np.random.default_rng(0), np.full(count, length)).problem
        theirs = [published.lis(rng, length, **limits) for _ in range(count)]
        sampled[length] = [numbers_of(row) for row in problem], theirs
    return sampled


@pytest.mark.parametrize("statistic", LIS_STATISTICS)
@pytest.mark.parametrize("length", [4, 30])
def test_sequences_are_distributed_as_published(length, statistic, sequences):
    measure = LIS_STATISTICS[statistic]
    ours, theirs = ([measure(row) for row in rows] for rows in sequences[length])
    assert p_value(ours, theirs) > SIGNIFICANCE


def test_p_values_tell_distributions_apart():
    rng = np.random.default_rng(0)
    fair, again = rng.integers(6, size=(2, 2000)).tolist()
    loaded = rng.choice(6, p=[0.25, *[0.15] * 5], size=2000).tolist()
    assert p_value(fair, again) > SIGNIFICANCE > p_value(fair, loaded)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("arithmetic --length=2 --modulus=5", r"[-+*/()0-4 ]+ = [0-4]"),
        (
            "edit_distance --length=4 --chain",
            r"[a-z ]+ \| [a-z ]+ <sep> [0-9, ]+ <sep> \d+",
        ),
        ("lis --length=5", r"(\d{3} ){5}<sep> \d"),
    ],
)
def test_it_prints_a_problem_a_line(arguments, line, monkeypatch, capsys):
    command = ["published", *arguments.split(), "--count=3"]
    monkeypatch.setattr(sys, "argv", command)
    published.main()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3
    assert all(re.fullmatch(line, text) for text in printed), printed
