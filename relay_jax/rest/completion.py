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
4. Of what follows the function, up to the first stop word, those imports, assignments,
   loops and `with` and `try` statements are kept that bind a name which the function
   reads and nothing before it binds, or change such an object; and those on which they
   depend. HumanEval runs them, too.
"""

import ast
import builtins
import itertools
import re
import symtable
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

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
_CLAUSE = re.compile(r"(elif|else|except|finally)\b")  # of the statement before it
_DEFINITIONS = (
    *(ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.AugAssign),
    *(ast.For, ast.While, ast.With, ast.Try),
)
_Read = TypeVar("_Read")


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
    """The statements after the function that bind or change what it reads."""
    names = _find_names(text[:end])
    needed, parts = names.read - names.bound, []
    for part, tree in reversed(list(_statements(text, end, margins))):
        bound, changed = _stored(tree)
        is_needed = needed & bound or (names.read | needed) & changed
        if "*" in bound:
            is_needed = needed - set(dir(builtins))
        if is_needed and all(isinstance(node, _DEFINITIONS) for node in tree.body):
            parts.append(part)
            needed |= _loaded(tree) | (changed - names.bound)
    return "".join(reversed(parts))


def _statements(
    text: str, end: int, margins: Sequence[int]
) -> Iterator[tuple[str, ast.Module]]:
    """The statements after the function, up to a stop word or what is no program."""
    starts = [end]
    starts += [i for i in margins if i > end and not _CLAUSE.match(text, i + 1)]
    for start, stop in itertools.pairwise([*starts, len(text)]):
        part = text[start:stop]
        tree = _parse(part)
        if not tree or part.startswith(STOP_WORDS, 1):
            return
        yield part, tree


class _Names(NamedTuple):
    """Names of a program's outermost level."""

    read: set[str]  # by its functions
    bound: set[str]


def _find_names(program: str) -> _Names:
    """The names that a program's functions read and those that it binds itself."""
    outermost = _read(_find_symbols, program)
    if not outermost:
        return _Names(set(), set())
    symbols = outermost.get_symbols()
    bound = {x.get_name() for x in symbols if x.is_assigned() or x.is_imported()}
    read, scopes = set(), outermost.get_children()
    while scopes:
        scope = scopes.pop()
        scopes += scope.get_children()
        read |= {name.get_name() for name in scope.get_symbols() if name.is_global()}
    return _Names(read, bound)


def _stored(tree: ast.Module) -> tuple[set[str], set[str]]:
    """The names that statements bind, and those of objects which they change."""
    bound, changed = set(), set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()):
                bound.add(name)
            case ast.alias(name=name, asname=other):
                bound.add(other or name.partition(".")[0])
            case ast.Attribute(ctx=ast.Store()) | ast.Subscript(ctx=ast.Store()):
                names = (x.id for x in ast.walk(node.value) if isinstance(x, ast.Name))
                changed.update(names)
    return bound, changed


def _loaded(tree: ast.Module) -> set[str]:
    """The names that statements read; what `+=` changes is read, too."""
    names = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    changed = [node for node in ast.walk(tree) if isinstance(node, ast.AugAssign)]
    return names | {x.target.id for x in changed if isinstance(x.target, ast.Name)}


def _parse(program: str) -> ast.Module | None:
    """The syntax tree of a program; None if it has an error."""
    return _read(ast.parse, program)


def _find_symbols(program: str) -> symtable.SymbolTable:
    return symtable.symtable(program, "program", "exec")


def _read(reader: Callable[[str], _Read], program: str) -> _Read | None:
    """What a function reads of a program; None if it has an error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strange escapes in a string
            return reader(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
