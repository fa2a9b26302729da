"""Tokenizers of text: sentencepiece models, and tokenizer.json of Hugging Face.

A sentencepiece model with a begin-of-text piece is read as Llama's are: every text
begins with that piece, and the names of special pieces in a text (`</s>`) stand for
them. A model without one, as `experiments/train_lm.py` learns it, reads text as text.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import SupportsInt

from etils import epath

from relay_jax.records import read_json

SETTINGS = "tokenizer_config.json"


class SentencePieceTokenizer:
    """A sentencepiece model, kept in one file.

    `tokenizer_config.json` beside it, if there is one, may say `add_bos_token`, and
    `legacy`: then every part of a text between special pieces begins with a space of
    its own, not the first part alone.

    Raises:
      ValueError: the file is not there, is no such model, or has no end-of-text piece.
    """

    def __init__(self, path: epath.PathLike):
        import sentencepiece

        file = epath.Path(path)
        content = _read_file(file, "a sentencepiece .model file")
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(content)
        except RuntimeError as error:
            raise ValueError(f"{file} is not a sentencepiece model") from error
        if self._pieces.eos_id() < 0:
            raise ValueError(f"{file} has no end-of-text piece; train one with eos_id")
        self._identity = f"sentencepiece-{hashlib.sha256(content).hexdigest()[:16]}"
        settings = _read_settings(file.parent)
        self._special = {}
        self._begin = []
        self._after_special = self._pieces
        if self._pieces.bos_id() >= 0:
            ids = range(self._pieces.vocab_size())
            special = [i for i in ids if self._is_special(i)]
            self._special = {self._pieces.id_to_piece(i): i for i in special}
            if settings.get("add_bos_token", True):
                self._begin = [self._pieces.bos_id()]
            if not settings.get("legacy"):
                self._after_special = _without_prefix(content)

    @property
    def vocab_size(self) -> int:
        return self._pieces.vocab_size()

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def eos_id(self) -> int:
        return self._pieces.eos_id()

    def encode(self, text: str) -> list[int]:
        ids = [*self._begin]
        for number, part in enumerate(_split(text, self._special)):
            if part in self._special:
                ids.append(self._special[part])
            else:
                pieces = self._after_special if number else self._pieces
                ids += pieces.encode(part)
        return ids

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        shown = [int(i) for i in ids if i not in self._special.values()]
        return self._pieces.decode(shown)

    def _is_special(self, index: int) -> bool:
        return self._pieces.is_control(index) or self._pieces.is_unknown(index)


class HuggingFaceTokenizer:
    """A `tokenizer.json`. What it puts before a text (Llama-3: the begin-of-text token)
    is put; special tokens are not shown in decoded text.

    Raises:
      ValueError: the file is not there, is no such tokenizer, or the files beside it do
        not tell which token ends a text.
    """

    def __init__(self, path: epath.PathLike):
        import tokenizers

        file = epath.Path(path)
        content = _read_file(file, "a tokenizer.json")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # noqa: BLE001 (it raises plain ones)
            raise ValueError(f"{file} is not a tokenizer: {error}") from None
        self._identity = f"tokenizers-{hashlib.sha256(content).hexdigest()[:16]}"
        self._vocab_size = max(self._tokenizer.get_vocab().values()) + 1
        self._eos_id = self._find_eos(file.parent)

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def eos_id(self) -> int:
        return self._eos_id

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text).ids

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        return self._tokenizer.decode([int(i) for i in ids])

    def _find_eos(self, folder: epath.Path) -> int:
        token = _read_settings(folder).get("eos_token")
        name = token["content"] if isinstance(token, dict) else token
        found = self._tokenizer.token_to_id(name) if name else None
        if found is None:
            raise ValueError(
                f"{folder}/{SETTINGS} must name the eos_token of the tokenizer beside "
                f"it, it has {name!r}"
            )
        return found


def _without_prefix(content: bytes):
    """The same sentencepiece model, but for the space it puts before a text."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    # The class is made when the module is imported: the type checker cannot see it.
    model = sentencepiece_model_pb2.ModelProto.FromString(content)  # type: ignore
    model.normalizer_spec.add_dummy_prefix = False
    pieces = sentencepiece.SentencePieceProcessor()
    pieces.LoadFromSerializedProto(model.SerializeToString())
    return pieces


def _read_settings(folder: epath.Path) -> dict:
    return read_json(folder / SETTINGS) if (folder / SETTINGS).exists() else {}


def _read_file(file: epath.Path, wanted: str) -> bytes:
    if not file.exists() or file.is_dir():
        raise ValueError(f"{str(file)!r} is no file; name {wanted}")
    return file.read_bytes()


def _split(text: str, special: Iterable[str]) -> list[str]:
    """A text cut before and after every special piece, longest names first."""
    names = sorted(special, key=len, reverse=True)
    if not names:
        return [text]
    parts = re.split(f"({'|'.join(map(re.escape, names))})", text)
    return [part for part in parts if part]
