"""Tokenizers of text: sentencepiece models, and tokenizer.json of Hugging Face.

A sentencepiece model with a begin-of-text piece is read as Llama's are: every text
begins with that piece, and the names of special pieces in a text (`</s>`) stand for
them. A model without one, as `experiments/train.py` learns it, reads text as text.
The files beside a model may add tokens to its pieces, which are found in a text alike.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable
from typing import Any, SupportsInt

from etils import epath

from relay_jax.files import read_json

SETTINGS = "tokenizer_config.json"
ADDED = "added_tokens.json"  # of older folders; newer ones tell it in the settings


class SentencePieceTokenizer:
    """A sentencepiece model, kept in one file.

    `tokenizer_config.json` beside it, if there is one, may say `add_bos_token`,
    `eos_token`, which tokens are added (so may `added_tokens.json`), and `legacy`: then
    every part of a text between special pieces begins with a space of its own, not the
    first part alone. Special tokens are not shown in decoded text, nor are ids that no
    token has.

    Raises:
      ValueError: the file is not there, is no such model, or has no end-of-text piece;
        the files beside it name tokens that cannot be.
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
        settings = _read_settings(file.parent)
        self._whole = {}  # the ids of names that are found in a text before its pieces
        self._hidden = set()
        self._begin = []
        if self._pieces.bos_id() >= 0:
            ids = range(self._pieces.vocab_size())
            self._hidden = {i for i in ids if self._is_special(i)}
            self._whole = {self._pieces.id_to_piece(i): i for i in self._hidden}
            if settings.get("add_bos_token", True):
                self._begin = [self._pieces.bos_id()]
        added = _read_added(file.parent, settings)
        new = {name: index for name, (index, _) in added.items()}
        new = {name: new[name] for name in new if name not in self._whole}
        self._whole |= new
        self._hidden |= {index for index, is_special in added.values() if is_special}
        self._added = {i: name for name, i in new.items() if i >= len(self._pieces)}
        self._bare = _without_prefix(content)
        self._after_whole = self._pieces if settings.get("legacy") else self._bare
        self._vocab_size = max(len(self._pieces) - 1, *self._added, 0) + 1
        self._eos_id = self._find_eos(file, settings)
        is_own = not new and self._eos_id == self._pieces.eos_id()
        told = b"" if is_own else json.dumps([new, self._eos_id]).encode()
        self._identity = f"sentencepiece-{_hash(content + told)}"

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
        ids = [*self._begin]
        for number, part in enumerate(_split(text, self._whole)):
            if part in self._whole:
                ids.append(self._whole[part])
            else:
                pieces = self._after_whole if number else self._pieces
                ids += pieces.encode(part)
        return ids

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        size = len(self._pieces)
        shown = [i for i in map(int, ids) if i not in self._hidden]
        shown = [i for i in shown if 0 <= i < size or i in self._added]
        text, pieces = "", self._pieces
        for is_piece, part in itertools.groupby(shown, lambda i: i < size):
            if is_piece:
                text += pieces.decode(list(part))
            else:
                text += "".join(self._added[i] for i in part)
            pieces = self._bare  # the space before a text is before its first part
        return text

    def _find_eos(self, file: epath.Path, settings: dict) -> int:
        name = _name(settings.get("eos_token"))
        if name in self._whole:
            return self._whole[name]
        found = self._pieces.piece_to_id(name) if name else self._pieces.eos_id()
        if found < 0:
            raise ValueError(f"{file} has no end-of-text piece; train one with eos_id")
        if name and self._pieces.id_to_piece(found) != name:
            raise ValueError(
                f"{file.parent / SETTINGS} names the eos_token {name!r}, which is neither "
                f"a piece of {file.name} nor an added token"
            )
        return found

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
        self._tokenizer.no_truncation()  # settings that some files keep of training
        self._tokenizer.no_padding()
        self._identity = f"tokenizers-{_hash(content)}"
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
        name = _name(_read_settings(folder).get("eos_token"))
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


def _read_added(folder: epath.Path, settings: dict) -> dict[str, tuple[int, bool]]:
    """The tokens that a folder adds to its model's pieces: id, and whether special.

    Of `added_tokens.json` those are special that the settings give a part to play.
    """
    added = {}
    try:
        if (folder / ADDED).exists():
            parts = [value for key, value in settings.items() if key.endswith("_token")]
            parts += settings.get("additional_special_tokens") or []
            special = set(map(_name, parts))
            for name, index in read_json(folder / ADDED).items():
                added[name] = int(index), name in special
        for index, token in (settings.get("added_tokens_decoder") or {}).items():
            added[token["content"]] = int(index), bool(token.get("special"))
        if not all(isinstance(name, str) and name for name in added):
            raise ValueError("a name that is no text")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the added tokens of {folder} cannot be read ({error!r}); expected "
            f'{{"name": id}} in {ADDED}, {{"id": {{"content": "name"}}}} under '
            f"added_tokens_decoder in {SETTINGS}"
        ) from None
    return added


def _name(token: Any) -> str | None:
    """A token's name, told by itself or with its settings."""
    return token.get("content") if isinstance(token, dict) else token


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


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
