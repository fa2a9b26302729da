"""The published generators, one random choice at a time: an oracle for `relay_jax.tasks`.

    python -m tests.tasks.published arithmetic --modulus=11 --length=15 --count=512 > FILE
    python -m tests.tasks.published edit_distance --length=30 --border_cost=2 --chain
    python -m tests.tasks.published lis --length=100 --smallest=401 --number_range=802

Plain Python from the rules of Feng et al.'s data (CoT_benchmark), and nothing of
relay_jax. It prints a problem a line, as `experiments.evaluate --problems=FILE` reads it.
"""

import argparse
import random
from typing import NamedTuple


def arithmetic(rng: random.Random, length: int, modulus: int = 11) -> list[list[str]]:
    """The problem and its rounds, each a list of tokens; the last one is the answer.

    An expression grows by one operation at a time; its rounds undo that in reverse order.
    """
    expression = [str(rng.randrange(modulus))]
    history = [expression]
    for _ in range(length):
        expression = grow(rng, expression, modulus)
        history.append(expression)
    return history[::-1]


def grow(rng: random.Random, expression: list[str], modulus: int) -> list[str]:
    """The expression with one of its numbers replaced by an operation of that value."""
    positions = [i for i, token in enumerate(expression) if token.isdecimal()]
    position = rng.choice(positions)
    u, operator, v = operation(rng, int(expression[position]), modulus)
    before = expression[position - 1] if position > 0 else ""
    after = expression[position + 1] if position + 1 < len(expression) else ""
    new = [str(u), operator, str(v)]
    is_sum = operator in ("+", "-")
    beside_product = before == "*" or after in ("*", "/")
    if before == "/" or (is_sum and (beside_product or before == "-")):
        new = ["(", *new, ")"]
    return expression[:position] + new + expression[position + 1 :]


def operation(rng: random.Random, x: int, modulus: int) -> tuple[int, str, int]:
    """u, operator and v with `u operator v = x`."""
    while True:
        u, operator = rng.randrange(modulus), rng.choice("+-*/")
        if operator == "+":
            return u, operator, (x - u) % modulus
        if operator == "-":
            return u, operator, (u - x) % modulus
        if operator == "*":
            if u == 0 and x == 0:
                return u, operator, rng.randrange(modulus)
            if u != 0:
                return u, operator, x * pow(u, -1, modulus) % modulus
        if operator == "/":
            if u == 0 and x == 0:
                v = rng.randrange(modulus)
                if v != 0:
                    return u, operator, v
            if u != 0 and x != 0:
                return u, operator, u * pow(x, -1, modulus) % modulus


class Strings(NamedTuple):
    """A pair of strings of the edit distance."""

    first: str  # the shorter one
    second: str
    drawn: int  # the length of the string that was drawn; the other one is made of it
    is_related: bool  # whether the other one was made by edits


def edit_distance(rng: random.Random, length: int, using: int = 8) -> Strings:
    """A pair of strings, one of which has `length` letters."""
    edits = rng.randint(1, length)
    while True:
        letters = rng.sample("abcdefghijklmnopqrstuvwxyz", rng.randint(3, using + 2))
        one = [rng.choice(letters) for _ in range(length)]
        is_related = rng.random() >= 0.4
        if is_related:
            other = list(one)
            for _ in range(edits):
                edit(rng, other, letters)
        else:
            size = rng.randint(length - 3, length + 2)
            other = [rng.choice(letters) for _ in range(size)]
        if one != other and length - 3 <= len(other) <= length + 2:
            break
    first, second = (one, other) if len(one) <= len(other) else (other, one)
    return Strings("".join(first), "".join(second), length, is_related)


def edit(rng: random.Random, text: list[str], letters: list[str]) -> None:
    """Deletes, replaces or inserts a letter of `text` itself."""
    kind = rng.choice(["delete", "replace", "insert"])
    if kind == "delete" and len(text) > 2:
        del text[rng.randrange(len(text))]
    elif kind == "replace":
        text[rng.randrange(len(text))] = rng.choice(letters)
    else:
        text.insert(rng.randint(0, len(text)), rng.choice(letters))


def distances(first: str, second: str, border_cost: int = 1) -> list[list[int]]:
    """The matrix; published with borders of 1 a step, in the textbook they have 2."""
    matrix = [
        [border_cost * (i + j) for j in range(len(second) + 1)]
        for i in range(len(first) + 1)
    ]
    for i in range(1, len(first) + 1):
        for j in range(1, len(second) + 1):
            matrix[i][j] = min(
                matrix[i - 1][j] + 2,
                matrix[i][j - 1] + 2,
                matrix[i - 1][j - 1] + (0 if first[i - 1] == second[j - 1] else 3),
            )
    return matrix


def lis(
    rng: random.Random, length: int, smallest: int = 121, number_range: int = 250
) -> list[int]:
    """Numbers `smallest..number_range - 1` with increasing runs at random positions.

    Published is `smallest = length + 1`.
    """
    numbers = [rng.randrange(smallest, number_range) for _ in range(length)]
    planted = []
    for size in run_sizes(rng, length):
        planted += sorted(rng.sample(range(smallest, number_range), size))
    positions = sorted(rng.sample(range(length), len(planted)))
    for position, number in zip(positions, planted):
        numbers[position] = number
    return numbers


def run_sizes(rng: random.Random, length: int) -> list[int]:
    """How many numbers each of one to three runs has: together 3 to `length`."""
    runs, total = rng.randint(1, 3), rng.randint(3, length)
    if runs == 1:
        return [total]
    first = rng.randint(1, total // runs + 1)
    if runs == 2:
        return [first, total - first]
    second = rng.randint(1, (total - first) // 2 + 1)
    return [first, second, total - first - second]


def subsequence_lengths(numbers: list[int]) -> list[int]:
    """The length of the longest increasing subsequence that ends with each number."""
    values: list[int] = []
    for i, number in enumerate(numbers):
        below = [values[j] for j in range(i) if numbers[j] < number]
        values.append(1 + max(below, default=0))
    return values


def arithmetic_line(rng, length, chain, modulus):
    history = arithmetic(rng, length, modulus)
    shown = history if chain else [history[0], history[-1]]
    return " = ".join(" ".join(part) for part in shown)


def edit_distance_line(rng, length, chain, using, border_cost):
    pair = edit_distance(rng, length, using)
    matrix = distances(pair.first, pair.second, border_cost)
    rows = [" ".join(map(str, row[1:])) + " ," for row in matrix[1:]]
    problem = f"{' '.join(pair.first)} | {' '.join(pair.second)} <sep>"
    between = [*rows, "<sep>"] if chain else []
    return " ".join([problem, *between, str(matrix[-1][-1])])


def lis_line(rng, length, chain, smallest, number_range):
    numbers = lis(rng, length, smallest, number_range)
    values = subsequence_lengths(numbers)
    between = [*map(str, values), "<sep>"] if chain else []
    return " ".join([*map(str, numbers), "<sep>", *between, str(max(values))])


TASKS = {  # the line of a problem, and the options with their published values
    "arithmetic": (arithmetic_line, {"modulus": 11}),
    "edit_distance": (edit_distance_line, {"using": 8, "border_cost": 1}),
    "lis": (lis_line, {"smallest": 121, "number_range": 250}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    tasks = parser.add_subparsers(dest="task", required=True)
    for name, (_, options) in TASKS.items():
        task = tasks.add_parser(name)
        task.add_argument("--length", type=int, required=True)
        task.add_argument("--count", type=int, default=512)
        task.add_argument("--seed", type=int, default=0)
        task.add_argument("--chain", action="store_true", help="with the whole chain")
        for option, value in options.items():
            task.add_argument(f"--{option}", type=int, default=value)
    flags = parser.parse_args()
    write, options = TASKS[flags.task]
    rng = random.Random(flags.seed)
    chosen = {option: getattr(flags, option) for option in options}
    for _ in range(flags.count):
        print(write(rng, flags.length, flags.chain, **chosen))


if __name__ == "__main__":
    main()
