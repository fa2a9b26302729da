"""Added tokens: names that are recognized whole in a text, before it is tokenized.

    name <x>      text        parts
    no settings   a <x> b     "a ", <x>, " b"
    lstrip        a <x> b     "a", <x>, " b"      white space before it belongs to it
    rstrip        a <x> b     "a ", <x>, "b"      white space after it belongs to it
    single_word   a<x> b      "a<x> b"            next to a letter it is ordinary text

These are the rules of Hugging Face's `AddedToken`.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

# Unicode's White_Space: Python's `\s` has four control characters more.
_SPACE = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*"
_BEFORE, _AFTER = re.compile(rf"{_SPACE}\Z"), re.compile(_SPACE)
_WORD_END, _WORD_START = re.compile(r"\w\Z"), re.compile(r"\w")


class AddedToken(NamedTuple):
    """An added token and how it is recognized."""

    index: int
    is_special: bool = False  # omitted from decoded text
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    # Whether its name is looked for after those of other tokens, in normalized text (only
    # a tokenizer.json has a normalizer).
    normalized: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is recognized by its name alone."""
        return not (self.lstrip or self.rstrip or self.single_word)


def split(text: str, tokens: Mapping[str, AddedToken]) -> list[tuple[str, int | None]]:
    """The parts of a text: the added tokens, with their ids, and what is between them.

    Of names that begin at the same place, the longest is taken. `normalized` names are
    looked for last, in what is between the others.
    """
    first = {name: token for name, token in tokens.items() if not token.normalized}
    last = {name: token for name, token in tokens.items() if token.normalized}
    parts = _split(text, first)
    if last:
        found = [
            [pair] if pair[1] is not None else _split(pair[0], last) for pair in parts
        ]
        parts = [pair for pairs in found for pair in pairs]
    return parts


def _split(text: str, tokens: Mapping[str, AddedToken]) -> list[tuple[str, int | None]]:
    parts, start = [], 0
    for match in _pattern(frozenset(tokens)).finditer(text) if tokens else ():
        token = tokens[match[0]]
        first, stop = match.span()
        if token.single_word and _touches_a_word(text, first, stop):
            continue
        if token.lstrip:
            space = _BEFORE.search(text, start, first)
            first = space.start() if space else first
        if token.rstrip:
            space = _AFTER.match(text, stop)
            stop = space.end() if space else stop
        parts += [(text[start:first], None), (match[0], token.index)]
        start = stop
    parts.append((text[start:], None))
    return [(part, index) for part, index in parts if part]


def _touches_a_word(text: str, first: int, stop: int) -> bool:
    before = _WORD_END.search(text, max(first - 1, 0), first)
    return bool(before or _WORD_START.match(text, stop))


@functools.lru_cache(maxsize=64)
def _pattern(names: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))
