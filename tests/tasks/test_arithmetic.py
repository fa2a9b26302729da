"""Arithmetic against a recursive-descent parser."""

import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.base import Scratchpad
from relay_jax.data.alignment import looped_batch
from relay_jax.tasks import TASKS, Task
from relay_jax.tasks.arithmetic import Arithmetic, needs_brackets
from relay_jax.vocabulary import ARI, FIRST_NUMBER, PAD, TaskTokenizer

TOKENIZER = TaskTokenizer(101)
SYMBOLS = [TOKENIZER.decode([i]) for i in range(TOKENIZER.vocab_size)]
encode = TOKENIZER.encode


def symbols(ids):
    """Ids without padding -> a list of strings, one per token."""
    return [SYMBOLS[i] for i in ids.tolist() if i != PAD]


def parse(text):
    """`+ -` bind weaker than `* /`, all from left to right. An operation is
    (operator, left, right, index of the operator), a number is its index."""
    position = 0

    def level(operators, below):
        nonlocal position
        left = below()
        while position < len(text) and text[position] in operators:
            here, position = position, position + 1
            left = text[here], left, below(), here
        return left

    def atom():
        nonlocal position
        here, position = position, position + 1
        if text[here] != "(":
            assert text[here].isdecimal(), text
            return here
        inner = level("+-", lambda: level("*/", atom))
        assert text[position] == ")", text
        position += 1
        return inner

    tree = level("+-", lambda: level("*/", atom))
    assert position == len(text), text
    return tree


def value_of(tree, numbers, p):
    if isinstance(tree, int):
        return int(numbers[tree]) % p
    operator, left, right, _ = tree
    x, y = value_of(left, numbers, p), value_of(right, numbers, p)
    if operator == "/":
        assert y, "division by zero"
        return x * pow(y, -1, p) % p
    return {"+": x + y, "-": x - y, "*": x * y}[operator] % p


def evaluate(text, p):
    return value_of(parse(text), text, p)


def operations(tree):
    if isinstance(tree, int):
        return []
    return [*operations(tree[1]), tree, *operations(tree[2])]  # from left to right


def reduce_leftmost(text, p):
    """Does the leftmost operation on two numbers, and removes brackets around its value."""
    done = next(
        node
        for node in operations(parse(text))
        if isinstance(node[1], int) and isinstance(node[2], int)
    )
    first, last = done[3] - 1, done[3] + 2
    if text[first - 1 : first] == ["("] and text[last : last + 1] == [")"]:
        first, last = first - 1, last + 1
    return [*text[:first], str(value_of(done, text, p)), *text[last:]]


def bracket_pairs(text):
    opened, pairs = [], []
    for position, symbol in enumerate(text):
        if symbol == "(":
            opened.append(position)
        if symbol == ")":
            pairs.append((opened.pop(), position))
    return pairs


def means_the_same(text, other, rng, p=1_000_003):
    """Whether two expressions with the same numbers are equal for any such numbers."""
    count = sum(symbol.isdecimal() for symbol in text)
    drawn = rng.integers(1, p, size=count).tolist()

    def refill(symbols):
        left = iter(drawn)
        return [str(next(left)) if symbol.isdecimal() else symbol for symbol in symbols]

    return evaluate(refill(text), p) == evaluate(refill(other), p)


def sample(modulus, lengths, seed=0, right_heavy=False):
    task = Arithmetic(modulus, right_heavy)
    return task, task.sample(np.random.default_rng(seed), np.asarray(lengths))


@pytest.mark.parametrize(
    ("modulus", "right_heavy"),
    [(2, False), (3, False), (5, False), (11, False), (101, False), (5, True)],
)
def test_every_chain_solves_its_problem(modulus, right_heavy):
    _, examples = sample(modulus, np.arange(600) % 15 + 1, right_heavy=right_heavy)
    for problem, rounds, count, answer, length in zip(*examples):
        problem = symbols(problem)
        assert problem[0] == "[ARI]" and problem[-1] == "=" and count == length
        text = problem[1:-1]
        assert len(operations(parse(text))) == length
        assert evaluate(text, modulus) == answer - FIRST_NUMBER
        for t, actual in enumerate(map(symbols, rounds), 1):
            if t > count:
                assert not actual
                continue
            text = reduce_leftmost(text, modulus)
            assert actual == (text if t == count else [*text, "="])
        assert text == [str(answer - FIRST_NUMBER)]


def test_brackets_occur_only_where_precedence_needs_them():
    _, examples = sample(11, np.arange(800) % 12 + 1, seed=1)
    rng = np.random.default_rng(2)
    seen = 0
    for row in (
        *examples.problem,
        *examples.rounds.reshape(-1, examples.rounds.shape[-1]),
    ):
        text = [symbol for symbol in symbols(row) if symbol not in ("[ARI]", "=")]
        for first, last in bracket_pairs(text) if text else ():
            seen += 1
            without = [w for i, w in enumerate(text) if i not in (first, last)]
            assert not means_the_same(text, without, rng), (text, without)
    assert seen > 1000


@pytest.mark.parametrize("operator", "+-*/")
@pytest.mark.parametrize("before", ["", "+", "-", "*", "/"])
@pytest.mark.parametrize("after", ["", "+", "-", "*", "/"])
def test_needs_brackets_is_precedence(before, operator, after):
    inner = ["3", operator, "4"]
    left, right = ["2", before] * bool(before), [after, "5"] * bool(after)
    bare, bracketed = [*left, *inner, *right], [*left, "(", *inner, ")", *right]
    needed = not means_the_same(bare, bracketed, np.random.default_rng(0))
    ids = [
        encode(symbol)[:1] if symbol else [PAD] for symbol in (before, operator, after)
    ]
    assert needs_brackets(*map(np.array, ids)).tolist() == [needed]


def test_answers_are_equally_frequent_and_every_number_occurs():
    _, examples = sample(5, np.full(4000, 3))
    results = np.bincount(examples.answer - FIRST_NUMBER, minlength=5) / 4000
    assert np.all(np.abs(results - 0.2) < 0.03)
    numbers = examples.problem[examples.problem >= FIRST_NUMBER] - FIRST_NUMBER
    assert set(numbers.tolist()) == set(range(5))


@pytest.mark.parametrize("value", [0, 3])
def test_every_operation_has_its_probability(value):
    """Each x and operator as likely, but for those that leave no y (or y = 0 in 0/y)."""
    p, count = 5, 40_000
    drawn = Arithmetic(p)._operations(np.random.default_rng(0), np.full(count, value))
    triples, counts = np.unique(np.stack(drawn), axis=1, return_counts=True)
    seen = dict(zip(map(tuple, triples.T.tolist()), counts / count))
    plus, minus, times, divide = encode("+-*/")
    expected = {}
    for x in range(p):
        expected[x, plus, (value - x) % p] = expected[x, minus, (x - value) % p] = 1
        if value:
            if x:
                expected[x, times, value * pow(x, -1, p) % p] = 1
                expected[x, divide, x * pow(value, -1, p) % p] = 1
        elif x:
            expected[x, times, 0] = 1
        else:
            expected |= {(0, times, y): 1 / p for y in range(p)}
            expected |= {(0, divide, y): 1 / p for y in range(1, p)}
    assert seen.keys() == expected.keys()
    for triple, weight in expected.items():
        assert abs(seen[triple] - weight / sum(expected.values())) < 0.006, triple


def test_a_problem_is_extended_at_random_positions():
    """With two operators the second one replaces either number, equally often."""
    _, examples = sample(11, np.full(4000, 2))
    bracketed = [symbols(row)[1:-1] for row in examples.problem]
    left = np.mean([text[0] == "(" for text in bracketed])
    right = np.mean([text[-1] == ")" for text in bracketed])
    # Left: a sum beside * or /: 1/2 * 1/2 * 1/2. Right: also after -, and after /.
    assert abs(left - 1 / 8) < 0.02
    assert abs(right - 1 / 2 * (1 / 4 + 1 / 4 * 1 / 2 + 1 / 4 * 1 / 2)) < 0.02


def test_half_of_right_heavy_expressions_have_many_tokens_left_of_the_next_operation():
    def measure(right_heavy):
        _, examples = sample(5, np.full(4000, 4), right_heavy=right_heavy)
        size = np.sum(examples.problem != PAD, axis=1)
        text = examples.problem[:, 1 : examples.rounds.shape[-1] + 1]
        left = np.argmax(text != examples.rounds[:, 0], axis=1)
        later = np.arange(text.shape[1]) > left[:, None] + 3
        is_operator = np.isin(text, encode("+-*/"))
        return (left >= 4) & np.any(is_operator & later, axis=1), size

    (plain, size), (right_heavy_share, heavy_size) = measure(False), measure(True)
    assert plain.mean() < 0.12 and 0.17 < right_heavy_share.mean() < 0.25
    assert size.mean() + 0.7 < heavy_size.mean()
    # The other half is as without `right_heavy`: short expressions still occur.
    assert 0.4 < np.mean(heavy_size == size.min()) / np.mean(size == size.min()) < 0.8


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_bounds_are_reached_and_never_exceeded(length):
    task, examples = sample(3, np.full(60_000 if length == 4 else 5000, length))
    size = (examples.problem != PAD).sum(axis=1)
    actual = (examples.rounds != PAD).sum(axis=-1)
    assert size.max() == task.problem_size(length) == examples.problem.shape[1]
    assert actual.max() <= task.round_size(length) == examples.rounds.shape[2]
    if length > 1:
        assert actual.max() == task.round_size(length)
    assert task.num_rounds(length) == examples.rounds.shape[1] == length
    assert max(examples.problem.max(), examples.rounds.max()) - FIRST_NUMBER == 2
    assert task.max_number(length) == 2


def test_a_problem_depends_on_the_generator_alone():
    for one, two in zip(sample(11, [1, 5, 3])[1], sample(11, [1, 5, 3])[1]):
        np.testing.assert_array_equal(one, two)


def test_scratchpad_shows_the_problem_then_each_round():
    problem = jnp.array([encode("[ARI]3*2+6/3="), [PAD] * 4 + encode("[ARI]1+2=")])
    space = Arithmetic().scratchpad(problem, 3)
    assert isinstance(space, Scratchpad) and isinstance(Arithmetic(), Task)
    drawn = [[PAD, *encode("3*2+6/3=")], [PAD] * 5 + encode("1+2=")]
    np.testing.assert_array_equal(space.initial, drawn)
    np.testing.assert_array_equal(space.copy_from, np.tile(np.arange(9), (3, 2, 1)))
    np.testing.assert_array_equal(space.constants, np.full((3, 2, 9), -1))
    np.testing.assert_array_equal(space.pointers, np.zeros((3, 2, 9, 2)))
    assert not space.shows_problem and not space.has_differences


def test_memory_is_the_last_round(memories):
    task, examples = sample(11, np.arange(40) % 6 + 1)
    batch = looped_batch(examples, task, 6)
    seen = memories(task.scratchpad(jnp.array(batch.problem), 6), batch.rounds)
    assert np.all(seen[0] == np.where(batch.problem == ARI, PAD, batch.problem))
    for t in range(6):
        np.testing.assert_array_equal(seen[t + 1], batch.rounds[t])


def test_messages():
    for modulus in (-3, 0, 1, 4, 9, 121):
        with pytest.raises(ValueError) as error:
            Arithmetic(modulus)
        assert str(error.value) == (
            f"arithmetic: modulus must be a prime, got {modulus}"
        )
    with pytest.raises(ValueError) as error:
        sample(11, [3, 0])
    assert str(error.value) == (
        "arithmetic: length 0 is out of range; problems have a length of 1 or more"
    )


def test_it_is_registered_under_its_name():
    assert all(task.name == name for name, task in TASKS.items())
    assert TASKS["arithmetic"]() == Arithmetic(11)
