"""Where the completion of a function ends, for HumanEval.

    return max(2 * x for x in [
    1, 2
])                                # in brackets: nothing ends
    # or so
print(double(3))                  # the function ends before this line

HumanEval's authors stop sampling at `STOP_WORDS` at the start of a line (Chen et al.,
2021, section 3.1) and run what was sampled. Here texts are sampled on to their end, and
cut by these rules:

1. Nothing ends inside brackets or a string, or after a backslash.
2. Otherwise the function ends before the first statement at the left margin, be it one of
   the stop words, other code, or prose, which HumanEval would run and fail.
3. A comment at the left margin belongs to what follows it: it ends the function unless
   more of its body follows.
4. Of what follows the function, up to the first stop word, the imports and assignments are
   kept that bind a name which the function reads and nothing else binds; HumanEval runs
   them, too.
"""

import ast
import builtins
import itertools
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

STOP_WORDS = ("class", "def", "#", "if", "print")
_TOKEN = re.compile(
    r"""
    (?P<string> "{3} (\\.|[^\\])*? ("{3}|\Z)  |  '{3} (\\.|[^\\])*? ('{3}|\Z)
              | " (\\(\r\n|.)|[^"\\\n])* "?   |  ' (\\(\r\n|.)|[^'\\\n])* '? )
  | (?P<comment> \#[^\n]* )
  | (?P<open> [(\[{] )
  | (?P<close> [)\]}] )
  | (?P<continued> \\\r?\n )
  | (?P<margin> \n(?=[^ \t\f\r\n]) )
    """,
    re.DOTALL | re.VERBOSE,
)
_DEFINITIONS = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)


class Completion(NamedTuple):
    """A completion, as it is run, and how much was cut from it."""

    text: str
    num_cut: int  # characters


def cut_completion(prompt: str, completion: str) -> Completion:
    """The part of a completion that belongs to the prompt's function; see the rules.

    Args:
      prompt: a program that ends within a function; the completion's first line
        continues it.
    """
    text = prompt + completion
    margins = [i for i in _margins(text) if i >= len(prompt)]
    end = _function_end(text, margins)
    program = text[:end] + _needed_definitions(text, end, margins)
    return Completion(program[len(prompt) :], len(text) - len(program))


def _margins(text: str) -> Iterator[int]:
    """The newlines before lines at the left margin that continue no other line."""
    depth = 0
    for token in _TOKEN.finditer(text):
        if token["open"]:
            depth += 1
        elif token["close"]:
            depth = max(depth - 1, 0)
        elif token["margin"] and not depth:
            yield token.start()


def _function_end(text: str, margins: Sequence[int]) -> int:
    """The end of the function: of the comments at the margin and the first statement,
    the last one before which the program is complete."""
    ends = []
    for margin in margins:
        ends.append(margin)
        if text[margin + 1] != "#":
            break
    else:
        ends.append(len(text))
    complete = [end for end in ends if _parse(text[:end])] or ends[-1:]
    last = complete[-1]
    while len(ends) > 1 and (ends[-1] > last or _is_comment(text[ends[-2] : last])):
        ends.pop()
    return ends[-1]


def _is_comment(text: str) -> bool:
    """Whether every line is empty or a comment."""
    lines = map(str.strip, text.split("\n"))
    return all(not line or line.startswith("#") for line in lines)


def _needed_definitions(text: str, end: int, margins: Sequence[int]) -> str:
    """The imports and assignments after the function that it needs."""
    program = text[:end]
    ends = [*(margin for margin in margins if margin >= end), len(text)]
    for start, stop in itertools.pairwise(ends):
        tree = _parse(text[start + 1 : stop])
        if not tree or text.startswith(STOP_WORDS, start + 1):
            break
        is_definition = all(isinstance(node, _DEFINITIONS) for node in tree.body)
        if is_definition and _bound(tree) & _missing(program):
            program += text[start:stop]
    return program[end:]


def _missing(program: str) -> set[str]:
    """The names that a program reads and does not bind."""
    tree = _parse(program)
    if not tree:
        return set()
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    read = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    return read - _bound(tree) - set(dir(builtins))


def _bound(tree: ast.Module) -> set[str]:
    """The names that a program binds, anywhere."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.alias(name=name, asname=other):
                names.add(other or name.partition(".")[0])
    return names


def _parse(program: str) -> ast.Module | None:
    """The syntax tree of a program; None if it has an error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strange escapes in a string
            return ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
