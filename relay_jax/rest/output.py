"""What a request has generated: token ids, texts, steps and times."""

import bisect
import itertools
from typing import NamedTuple

import numpy as np

from relay_jax.tokenizers import UNFINISHED, Tokenizer, decode_spans


class GenerationOutput(NamedTuple):
    """Generated tokens, a list for each prompt, with their steps and times."""

    token_ids: list[list[int]]  # new tokens, including the one that ends a text
    prompt_token_ids: list[list[int]]
    drafted: list[list[bool]]  # which new tokens were drafted and accepted
    finish_reasons: list[str | None]  # "stop", "length", or None: not finished
    num_steps: list[int]  # forward passes that generated tokens, for each prompt
    seconds: float  # of decoding, without reading the prompts and without compilation
    prompt_seconds: float  # of reading the prompts, with the compilation for it
    draft_sizes: dict[int, int]  # steps of all prompts at once by nodes of their tree
    tokenizer: Tokenizer
    stop: tuple[str, ...] = ()

    @property
    def texts(self) -> list[str]:
        """The new text for each prompt. An unfinished one ends with a whole character."""
        return [self._text(row) for row in range(len(self.token_ids))]

    @property
    def num_tokens(self) -> int:
        """New tokens of all texts."""
        return sum(map(len, self.token_ids))

    @property
    def tokens_per_step(self) -> float:
        """M of REST (section 4): the mean number of new tokens per forward pass."""
        return self.num_tokens / max(sum(self.num_steps), 1)

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all texts per second of decoding."""
        return self.num_tokens / max(self.seconds, 1e-9)

    def marked_texts(self, as_ids: bool = False) -> list[str]:
        """The texts with accepted drafts in quotes: «like this».

        Args:
          as_ids: whether to show token ids instead of text.
        """
        return [self._marked(row, as_ids) for row in range(len(self.token_ids))]

    def stop_index(self, row: int) -> int | None:
        """The number of new tokens up to the end of the row's first stop string.

        Returns:
          None if its text has no stop string.
        """
        size = len(self.token_ids[row])

        def has_stop(count: int) -> bool:
            (text,) = self._read_spans(row, [0, count])
            return any(string in text for string in self.stop)

        if not self.stop or not has_stop(size):
            return None
        return bisect.bisect_left(range(size), True, key=has_stop)

    def _text(self, row: int) -> str:
        size = len(self.token_ids[row])
        (text,) = self._read_spans(row, [0, size])
        found = [text.find(string) for string in self.stop if string in text]
        if found or self.finish_reasons[row]:
            return text[: min(found, default=len(text))]
        # It may continue with the rest of a character, or of a stop string.
        begun = [
            text[-size:]
            for string in self.stop
            for size in range(1, len(string))
            if text.endswith(string[:size])
        ]
        return text.removesuffix(max(begun, key=len, default="")).rstrip(UNFINISHED)

    def _marked(self, row: int, as_ids: bool) -> str:
        new, drafted = self.token_ids[row], np.array(self.drafted[row], bool)
        changes = np.flatnonzero(np.diff(drafted)) + 1
        cuts = [0, *changes.tolist(), len(new)]
        if as_ids:
            pairs = itertools.pairwise(cuts)
            parts = [",".join(map(str, new[a:b])) for a, b in pairs]
        else:
            parts = self._read_spans(row, cuts)
        marked = zip(parts, cuts) if new else ()
        return "".join(f"«{text}»" if drafted[cut] else text for text, cut in marked)

    def _read_spans(self, row: int, cuts: list[int]) -> list[str]:
        """The text between cuts in a row's new tokens, decoded after the prompt."""
        prompt = self.prompt_token_ids[row]
        ids = [*prompt, *self.token_ids[row]]
        return decode_spans(self.tokenizer, ids, [len(prompt) + cut for cut in cuts])
