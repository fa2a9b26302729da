"""Where a completion of HumanEval ends: one case for each rule, and random programs."""

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay_jax.rest import sandbox
from relay_jax.rest.completion import STOP_WORDS, cut_completion

PROMPT = 'def double(x):\n    """Twice x: `double("(")` is no call."""\n'
TEST = "def check(candidate):\n    assert candidate(3) == 6\ncheck(double)\n"
BODY = "    return 2 * x\n"

# Right answers: what they are followed by must be cut, and nothing of them.
RIGHT = {
    "a bracket": "    return max([\n2 * x,\n])\n",
    "brackets in brackets": "    return sum([(\nx), {\n'x': x}['x'\n]])\n",
    "brackets in strings": "    s = ')' + \"]\" + '\\')'\n    return max([\n2 * x])\n",
    "the rest of a string": '    s = """a\nb (\n\'\'\' "\n"""\n    return 2 * x\n',
    "a string of the other quotes": "    s = f'''{x}\nprint(\"\"\"\n'''\n    return 2 * x\n",
    "an escaped quote": '    s = """\\"""\ndef f():\n"""\n    return 2 * x\n',
    "a line continued": "    return 2 \\\n* x\n",
    "a string continued": "    s = '\\\n('\n    return 2 * x\n",
    "quotes in a comment": '    # don\'t (\n    return 2 * x  # """\n',
    "a comment at the margin": "    y = 2\n# double it\n    return y * x\n",
    "comments at the margin": "# first\n    y = 2\n\n#\n# then\n    return y * x\n",
    "a docstring of code": '    """\n>>> double(2)\nprint(4)\n"""\n    return 2 * x\n',
    "no newline at the end": "    return 2 * x",
    "Windows lines": "    return max([\r\n2 * x])\r\n",
    "a string of Windows lines": "    s = 'a\\\r\nb('\r\n    return 2 * x\r\n",
    "blank lines and tabs": "\n\n    y = 2\n\n\t\n    return y * x\n",
    "an inner function": "    def f(y):\n        return 2 * y\n    return f(x)\n",
    "a stop word inside": "    if x:\n        print(x)\n    return 2 * x\n",
    "the function once more": "def double(x):\n    return 2 * x\n",
}
REST = {
    **{f"the stop word {stop}": f"{stop} (1)" for stop in STOP_WORDS},
    "prose": "This function doubles x, doesn't it?",
    "a fence": "```\n\nExplanation: ...",
    "a wrong test": "assert double(2) == 5",
    "reading": "n = int(input())\nprint(double(n))",
    "an unneeded import": "import no_such_module",
    "a comment and a call": "# Test (\n\nprint(double(1))",
    "a comment and an example": "# Examples\n    >>> double(2)\n    4",
    "a decorator": "@cache\ndef double(x):\n    return 3",
    "a closing bracket": ")\n",
    "an odd blank": "\u3000Note: right",
    "an unfinished function": "def main():\n    print(double(",
}


def run(completion):
    program = f"{PROMPT}{cut_completion(PROMPT, completion).text}\n{TEST}"
    exec(compile(program, "program", "exec"), {})  # noqa: S102
    return program


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_is_not_cut(name):
    found = cut_completion(PROMPT, RIGHT[name])
    assert found == (RIGHT[name], 0)
    run(RIGHT[name])


@pytest.mark.parametrize("name", REST)
def test_what_follows_an_answer_is_cut(name):
    for answer in [BODY, *RIGHT.values()]:
        completion = f"{answer.rstrip()}\n\n{REST[name]}"
        found, num_cut = cut_completion(PROMPT, completion)
        assert completion.startswith(found) and len(found) + num_cut == len(completion)
        assert found.strip() == answer.strip()
        run(completion)


@pytest.mark.parametrize(
    ("needed", "unneeded"),
    [
        ("import math", "import unittest"),
        ("from math import prod as math", "from os import path"),
        ("math = max", "other = min"),
        ("math: object = max", "math_2: int = 3"),
    ],
)
def test_definitions_are_kept_that_the_function_needs(needed, unneeded):
    body = "    assert math\n    return 2 * x\n"
    found = cut_completion(PROMPT, f"{body}\n{unneeded}\n{needed}\n\nprint(double(1))")
    assert found.text.split() == f"{body}{needed}".split()
    run(f"{body}\n{unneeded}\n{needed}\n\nprint(1)")
    for stop in STOP_WORDS:  # sampling ends there
        late = cut_completion(PROMPT, f"{body}\n{stop} (1)\n{needed}\n")
        assert late.text == body
    assert (
        cut_completion(f"import math\n{PROMPT}", f"{body}{needed}\n").text == body[:-1]
    )


@pytest.mark.parametrize(
    ("body", "rest"),
    [
        ("return y * x", "base = 1\ny = base + 1"),
        ("return D[0] * x", "import math\nD = {0: math.floor(2.5)}"),
        ("return floor(2.5) * x", "from math import *"),
        (
            "return tab[0] * x",
            "tab = {}\nfor i in range(3):\n    tab[i] = 2\nelse:\n    i = 0",
        ),
        ("return m[3] * x", "m = [0] * 4\nm[3] = 2"),
        ("return a * x", "a = 0\nwhile a < 2:\n    a += 1"),
        (
            "return np * x",
            "try:\n    import no_such as np\nexcept ImportError:\n    np = 2",
        ),
        ("return a * x", "a = 1\na += 1"),
        ("return double.k * x", "double.k = 2"),
        ("global n\n    n += 2\n    return n * x", "n = 0"),
        ("return max(x)", "max = lambda y: 2 * y"),
        ("f = lambda: [a for a in [2]][0]\n    return a * x", "a = 2"),
        ("return box.v * x", "kind = type('Box', (), {})\nbox = kind()\nbox.v = 2"),
    ],
)
def test_all_that_a_function_depends_on_is_kept(body, rest):
    """And nothing else: the statements between them would fail."""
    completion = f"    {body}\n\nother = 3\n{rest}\nlast = no_such\n"
    found = cut_completion(PROMPT, completion)
    assert found.text.split("\n\n")[-1].strip().endswith(rest)
    assert "other" not in found.text and "last" not in found.text
    run(completion)


@pytest.mark.parametrize(
    "rest",
    [
        "for i in range(2):\n    y = double(no_such)",
        "y = int(input())",
        "x = no_such",
        "len = no_such",
        "from no_such import *",
        "double_2.k = no_such",
        "with open('/no_such') as y:\n    pass",
    ],
)
def test_what_a_function_does_not_read_is_cut(rest):
    body = "    y = 2\n    return y * x"
    assert cut_completion(PROMPT, f"{body}\n{rest}\n").text == body


def test_a_function_without_scopes_is_no_error_of_ours():
    """It can be parsed, but not be compiled."""
    body = "    n = 1\n    global n\n    return n * x"
    assert cut_completion(PROMPT, f"{body}\nn = 2\n").text == body
    with pytest.raises(SyntaxError, match="global"):
        run(body)


def test_a_helper_after_the_function_is_cut_as_sampling_ends_there():
    completion = "    return twice(x)\n\ndef twice(x):\n    return 2 * x\n"
    assert cut_completion(PROMPT, completion) == ("    return twice(x)\n", 32)
    with pytest.raises(NameError, match="twice"):
        run(completion)


@pytest.mark.parametrize("end", ["'''", '"""', "(", "[1,", "\\", "'", "#"])
def test_an_unfinished_answer_is_no_error_of_ours(end):
    for completion in (f"    return {end}", f"    x = 1\n    return {end}\nprint(1)"):
        text, num_cut = cut_completion(PROMPT, completion)
        assert completion.startswith(text) and len(text) + num_cut == len(completion)


LITERALS = st.recursive(
    st.sampled_from(
        ["x", "'('", '"#"', '"""a\n]b"""', "'''\ndef'''", "1 # )\n", "1\\\n"]
    ),
    lambda inner: st.builds(
        "{}\n{},\n{}{}".format,
        *(st.sampled_from("[({"), inner, inner, st.just("")),
    ).map(lambda text: text + {"[": "]", "(": ")", "{": "}"}[text[0]]),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(LITERALS, min_size=1, max_size=3), st.sampled_from(list(REST.values())))
def test_random_programs_are_cut_behind_their_end(literals, rest):
    """The oracle is Python's parser: the function ends with its last statement."""
    body = "".join(f"    y = ({literal})\n" for literal in literals) + BODY
    tree = ast.parse(PROMPT + body)
    assert len(tree.body) == 1
    assert cut_completion(PROMPT, body) == (body, 0)
    found = cut_completion(PROMPT, f"{body}{rest}").text
    assert ast.dump(ast.parse(PROMPT + found)) == ast.dump(tree)


def test_a_program_that_is_no_text_runs_in_the_sandbox():
    try:
        sandbox.check()
    except ValueError as error:
        pytest.skip(str(error))
    text = cut_completion(PROMPT, "    s = 'cut \ud83d'\n    return 2 * x\n").text
    assert sandbox.run(f"{PROMPT}{text}\n{TEST}") == "passed"
