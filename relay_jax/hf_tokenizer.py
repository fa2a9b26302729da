"""The tokenizer of a Hugging Face tokenizer.json.

The files next to it may add tokens and name special ones.
"""

import json
from collections.abc import Iterable, Sequence
from typing import SupportsInt

from absl import logging
from etils import epath

from relay_jax.added_tokens import AddedToken
from relay_jax.text_files import clean_text
from relay_jax.tokenizer_files import (
    DECODER,
    SETTINGS,
    TokenizerFiles,
    hash_content,
)

SPACES = ("▁", "Ġ")  # how a space is spelled in tokens: SentencePiece, byte-level BPE


class HuggingFaceTokenizer:
    """A `tokenizer.json` file.

    Its post-processor applies (Llama-3: the begin-of-text token is prepended). Special
    tokens are omitted from decoded text.

    Raises:
      ValueError: the file does not exist or is no tokenizer, or the files next to it do
        not name the end-of-text token.
    """

    FILE = "a tokenizer.json"  # what it is read from

    def __init__(self, path: epath.PathLike | TokenizerFiles):
        import tokenizers

        files = TokenizerFiles.read(path, self.FILE)
        file, content = files[:2]
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # noqa: BLE001 (the library raises Exception itself)
            raise ValueError(f"{file} is not a tokenizer: {error}") from None
        self._tokenizer.no_truncation()  # some files have these settings from training
        self._tokenizer.no_padding()
        added = self._add_tokens(files)
        extra = json.dumps(added).encode() if added else b""
        self._identity = f"tokenizers-{hash_content(content + extra)}"
        self._vocab_size = max(self.token_ids.values()) + 1
        self._eos_id = self._find_eos(files)
        self._special_tokens = files.special_tokens
        self._warn(files)

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def eos_id(self) -> int:
        return self._eos_id

    @property
    def special_tokens(self) -> dict[str, str]:
        return dict(self._special_tokens)

    @property
    def token_ids(self) -> dict[str, int]:
        """The ids of all tokens, by name."""
        return self._tokenizer.get_vocab()

    def has_token(self, name: str) -> bool:
        """Whether a name is that of a token."""
        return self._tokenizer.token_to_id(name) is not None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        encoded = self._tokenizer.encode(
            clean_text(text), add_special_tokens=add_special_tokens
        )
        return encoded.ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        # Unlike `encode`, this lets other Python threads run. Fast: without offsets.
        cleaned = [clean_text(text) for text in texts]
        return [encoded.ids for encoded in self._tokenizer.encode_batch_fast(cleaned)]

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        return self._tokenizer.decode([int(i) for i in ids])

    def _add_tokens(self, files: TokenizerFiles) -> dict[str, AddedToken]:
        """Adds what the files beside it add to a tokenizer.json, as transformers does.

        Returns:
          the tokens that it had not, or with other settings.
        """
        import tokenizers

        found, names = files.added_tokens, AddedToken._fields[2:]
        known = {
            token.content: (token.special, *(getattr(token, name) for name in names))
            for token in self._tokenizer.get_added_tokens_decoder().values()
        }
        listed = files.settings.get(DECODER) or {}
        has_flags = {token["content"] for token in listed.values()}
        new = {
            name: token
            for name, token in sorted(found.items(), key=lambda pair: pair[1].index)
            if name not in known or (name in has_flags and known[name] != token[1:])
        }
        for name, (index, is_special, *flags) in new.items():
            settings = dict(zip(names, flags))
            token = tokenizers.AddedToken(name, special=is_special, **settings)
            self._tokenizer.add_tokens([token])
            if self._tokenizer.token_to_id(name) != index:
                logging.warning(
                    "%s: the added token %r has the id %d in the files beside %s; as in "
                    "transformers, it is %d",
                    *(files.path.parent, name, index, files.path.name),
                    self._tokenizer.token_to_id(name),
                )
        return new

    def _warn(self, files: TokenizerFiles) -> None:
        """Names a setting that contradicts the file, which is followed."""
        expected = files.settings.get("add_prefix_space")
        first = self._tokenizer.encode("a", add_special_tokens=False).tokens
        is_prefixed = bool(first) and first[0][:1] in SPACES
        if isinstance(expected, bool) and first and expected != is_prefixed:
            logging.warning(
                "%s: add_prefix_space is %s, but %s begins a text %s a space; the latter "
                "applies",
                *(files.path.parent / SETTINGS, str(expected).lower(), files.path.name),
                "with" if is_prefixed else "without",
            )

    def _find_eos(self, files: TokenizerFiles) -> int:
        name = files.special_tokens.get("eos_token")
        found = self._tokenizer.token_to_id(name) if name else None
        if found is None:
            raise ValueError(
                f"{files.path.parent}/{SETTINGS} must name an eos_token of the tokenizer "
                f"next to it, got {name!r}"
            )
        return found
