"""The closed vocabulary of the RELAY tasks, in which every number is one token.

    id      0      1      2      3     4     5   6 7 8 9 10 11-14  15-40  41, 42, ...
    token   <pad>  <eos>  [ARI]  [ED]  [LIS] <sep> | , = (  )  +-*/  a-z    0,  1, ...

Numbers come last, so a vocabulary with fewer of them is a prefix of a larger one.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, SupportsInt

PAD, EOS, ARI, ED, LIS, SEP, BAR, COMMA, EQUALS, OPEN, CLOSE = range(11)
PLUS, MINUS, TIMES, DIVIDE = range(11, 15)
FIRST_LETTER = 15
NUM_LETTERS = 26
FIRST_NUMBER = FIRST_LETTER + NUM_LETTERS

_SYMBOLS = (
    *("<pad>", "<eos>", "[ARI]", "[ED]", "[LIS]", "<sep>"),
    *"|,=()+-*/",
    *"abcdefghijklmnopqrstuvwxyz",
)
_TOKEN = re.compile(r"<[a-z]+>|\[[A-Z]+\]|\d+|\S")


class TaskTokenizer(NamedTuple):
    """The closed vocabulary of the RELAY tasks, with the numbers 0..num_numbers - 1."""

    num_numbers: int = 256

    @property
    def vocab_size(self) -> int:
        return FIRST_NUMBER + self.num_numbers

    @property
    def identity(self) -> str:
        return f"relay-tasks-v1-{self.num_numbers}"

    @property
    def eos_id(self) -> int:
        return EOS

    @property
    def special_tokens(self) -> dict[str, str]:
        return {"eos_token": _SYMBOLS[EOS]}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text such as `"[ARI] 3*2="`.

        Args:
          add_special_tokens: makes no difference: nothing is added to a text.

        Raises:
          ValueError: a symbol or number is not in the vocabulary.
        """
        return [self._id(symbol) for symbol in _TOKEN.findall(text)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """The text of token ids, with spaces only where two symbols would merge.

        Raises:
          ValueError: an id is not in the vocabulary.
        """
        text = ""
        for symbol in (self._symbol(int(i)) for i in ids):
            is_separate = not text or not (text[-1].isalnum() and symbol[0].isalnum())
            is_letter = len(symbol) == 1 and symbol.isalpha() and text[-1:].isalpha()
            text += symbol if is_separate or is_letter else f" {symbol}"
        return text

    def _id(self, symbol: str) -> int:
        if symbol.isdecimal():
            if int(symbol) >= self.num_numbers:
                raise ValueError(
                    f"the number {symbol} is not in the vocabulary, which ends at "
                    f"{self.num_numbers - 1}; raise `num_numbers` in the model's config"
                )
            return FIRST_NUMBER + int(symbol)
        if symbol not in _SYMBOLS:
            raise ValueError(
                f"{symbol!r} is not in the task vocabulary, which consists of numbers and "
                f"{' '.join(_SYMBOLS)}"
            )
        return _SYMBOLS.index(symbol)

    def _symbol(self, index: int) -> str:
        if not 0 <= index < self.vocab_size:
            raise ValueError(
                f"token id {index} is outside this vocabulary of {self.vocab_size} tokens"
            )
        if index >= FIRST_NUMBER:
            return str(index - FIRST_NUMBER)
        return _SYMBOLS[index]
