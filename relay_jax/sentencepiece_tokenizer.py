"""The tokenizer of a SentencePiece model.

A model with a begin-of-text piece is used as Llama's are: every encoded
text begins with that piece, and names of special pieces in a text (`</s>`) are encoded as
those pieces. Without one, as in the models of `experiments/train.py`, such names are
ordinary text. The files next to a model may add tokens, which are recognized in a text
too.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import SupportsInt

from absl import logging
from etils import epath

from relay_jax.added_tokens import AddedToken, split
from relay_jax.text_files import clean_text
from relay_jax.tokenizer_files import SETTINGS, TokenizerFiles, hash_content


class SentencePieceTokenizer:
    """A SentencePiece model file.

    An optional `tokenizer_config.json` next to it may set `add_bos_token`, `eos_token`,
    added tokens (as may `added_tokens.json`) and `legacy`: then every part of a text
    between special pieces is encoded with a leading space, not only the first part.
    Special tokens and unknown ids are omitted from decoded text.

    Raises:
      ValueError: the file does not exist, is no SentencePiece model or has no
        end-of-text piece, or the files next to it name impossible tokens.
    """

    FILE = "a SentencePiece .model file"  # what it is read from

    def __init__(self, path: epath.PathLike | TokenizerFiles):
        import sentencepiece

        files = TokenizerFiles.read(path, self.FILE)
        file, content, settings = files[:3]
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(content)
        except RuntimeError as error:
            raise ValueError(f"{file} is not a SentencePiece model") from error
        self._whole = {}  # tokens that are recognized before pieces are, by name
        self._hidden = set()
        self._begin = []
        if self._pieces.bos_id() >= 0:
            ids = range(self._pieces.vocab_size())
            self._hidden = {i for i in ids if self._is_special(i)}
            names = {self._pieces.id_to_piece(i): i for i in self._hidden}
            self._whole = {name: AddedToken(i, True) for name, i in names.items()}
            if settings.get("add_bos_token", True):
                self._begin = [self._pieces.bos_id()]
        added = {  # the id of a piece is the model's
            name: token._replace(index=self._piece_id(name, token.index))
            for name, token in files.added_tokens.items()
        }
        new = {name: added[name].index for name in added if name not in self._whole}
        self._whole |= added
        self._hidden |= {token.index for token in added.values() if token.is_special}
        self._added = {i: name for name, i in new.items() if i >= len(self._pieces)}
        first = files.special_tokens.get("bos_token")
        if self._begin and first in self._whole:
            self._begin = [self._whole[first].index]
        self._without_prefix = _without_prefix(content)
        self._first = self._pieces  # of the first part of a text
        if settings.get("add_prefix_space") is False:
            self._first = self._without_prefix
        is_legacy = settings.get("legacy")
        self._after_special = self._first if is_legacy else self._without_prefix
        self._warn(files, new)
        self._vocab_size = max(len(self._pieces) - 1, *self._added, 0) + 1
        self._eos_id = self._find_eos(files)
        self._special_tokens = self._find_special(files)
        flags = {name: token for name, token in added.items() if not token.is_plain}
        begin = [i for i in self._begin if i != self._pieces.bos_id()]
        is_plain = self._eos_id == self._pieces.eos_id() and not (new or flags or begin)
        parts = [new, self._eos_id, *([flags] if flags else []), *begin]
        extra = b"" if is_plain else json.dumps(parts).encode()
        self._identity = f"sentencepiece-{hash_content(content + extra)}"

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
        names = map(self._pieces.id_to_piece, range(len(self._pieces)))
        ids = {name: i for i, name in enumerate(names)}
        return ids | {name: token.index for name, token in self._whole.items()}

    def has_token(self, name: str) -> bool:
        """Whether a name is that of a token."""
        return name in self._whole or self._piece_id(name, -1) >= 0

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ids = [*self._begin] if add_special_tokens else []
        for number, (part, index) in enumerate(split(clean_text(text), self._whole)):
            if index is not None:
                ids.append(index)
            else:
                pieces = self._after_special if number else self._first
                ids += pieces.encode(part)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        size = len(self._pieces)
        shown = [i for i in map(int, ids) if i not in self._hidden]
        shown = [i for i in shown if 0 <= i < size or i in self._added]
        text, pieces = "", self._first
        for is_piece, part in itertools.groupby(shown, lambda i: i < size):
            if is_piece:
                text += pieces.decode(list(part))
            else:
                text += "".join(self._added[i] for i in part)
            pieces = self._without_prefix  # only the first part has a leading space
        return text

    def _find_eos(self, files: TokenizerFiles) -> int:
        file = files.path
        name = files.special_tokens.get("eos_token")
        if name in self._whole:
            return self._whole[name].index
        found = self._piece_id(name, -1) if name else self._pieces.eos_id()
        if found < 0 and not name:
            raise ValueError(f"{file} has no end-of-text piece; train one with eos_id")
        if found < 0:
            raise ValueError(
                f"{file.parent / SETTINGS} names the eos_token {name!r}, which is neither "
                f"a piece of {file.name} nor an added token"
            )
        return found

    def _piece_id(self, name: str, default: int) -> int:
        found = self._pieces.piece_to_id(name)
        return found if self._pieces.id_to_piece(found) == name else default

    def _warn(self, files: TokenizerFiles, new: dict[str, int]) -> None:
        """Names settings that are not applied, and ids that two tokens have."""
        if files.settings.get("add_eos_token"):
            logging.warning(
                "%s: add_eos_token is ignored, as a prompt is to be continued",
                files.path.parent / SETTINGS,
            )
        for name, token in files.added_tokens.items():
            index = self._whole[name].index
            if index != token.index:
                logging.warning(
                    "%s: the added token %r has the id %d in the files beside %s; it is "
                    "a piece of the model, and as in transformers its id is %d",
                    *(files.path.parent, name, token.index, files.path.name, index),
                )
        for name, index in new.items():
            piece = (
                self._pieces.id_to_piece(index) if index < len(self._pieces) else name
            )
            if piece != name:
                logging.warning(
                    "%s: the added token %r has the id %d, which is that of %r in %s",
                    *(files.path.parent, name, index, piece, files.path.name),
                )

    def _find_special(self, files: TokenizerFiles) -> dict[str, str]:
        """The folder's, and by default the pieces that have these roles."""
        pieces = self._pieces
        ids = {
            "bos_token": pieces.bos_id(),
            "eos_token": self._eos_id,
            "unk_token": pieces.unk_id(),
        }
        size = len(pieces)
        found = {
            role: pieces.id_to_piece(i) for role, i in ids.items() if 0 <= i < size
        }
        return found | files.special_tokens

    def _is_special(self, index: int) -> bool:
        return self._pieces.is_control(index) or self._pieces.is_unknown(index)


def _without_prefix(content: bytes):
    """The same SentencePiece model, but without the leading space of a text."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    # The class is created at import time: the type checker cannot see it.
    model = sentencepiece_model_pb2.ModelProto.FromString(content)  # type: ignore
    model.normalizer_spec.add_dummy_prefix = False
    pieces = sentencepiece.SentencePieceProcessor()
    pieces.LoadFromSerializedProto(model.SerializeToString())
    return pieces
