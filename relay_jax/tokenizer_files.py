"""The files of a tokenizer in a folder: the tokenizer's own, and those next to it."""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

from absl import logging
from etils import epath

from relay_jax.added_tokens import AddedToken
from relay_jax.files import read_json

SETTINGS = "tokenizer_config.json"
# Both of older folders; newer ones have their contents in SETTINGS.
SPECIAL, ADDED = "special_tokens_map.json", "added_tokens.json"
DECODER = "added_tokens_decoder"  # in SETTINGS: added tokens by their ids
# What transformers calls special tokens, whatever else a folder names so.
ROLES = (
    *("bos_token", "eos_token", "unk_token", "sep_token"),
    *("pad_token", "cls_token", "mask_token"),
)


class TokenizerFiles(NamedTuple):
    """The contents of a tokenizer's file and of the files next to it."""

    path: epath.Path  # for messages
    content: bytes
    settings: dict[str, Any]  # tokenizer_config.json
    added: dict[str, int]  # added_tokens.json
    roles: dict[str, Any]  # special_tokens_map.json

    @property
    def special_tokens(self) -> dict[str, str]:
        """The special tokens that the files name, by their role.

        As in transformers, `tokenizer_config.json` wins if it lists added tokens, as new
        folders do, and `special_tokens_map.json` in older ones.
        """
        parts = [self.settings, self.roles]
        if DECODER in self.settings:
            parts.reverse()
        named = {role: token_name((parts[0] | parts[1]).get(role)) for role in ROLES}
        return {role: name for role, name in named.items() if isinstance(name, str)}

    @classmethod
    def read(cls, path: "epath.PathLike | TokenizerFiles", expected: str):
        """Reads the files, unless they have been read.

        Raises:
          ValueError: there is no such file, which should be `expected`.
        """
        if isinstance(path, TokenizerFiles):
            return path
        file = epath.Path(path)
        content, folder = _read_file(file, expected), file.parent
        parts = [
            read_json(folder / name) if (folder / name).exists() else {}
            for name in (SETTINGS, ADDED, SPECIAL)
        ]
        files = cls(file, content, *parts)
        files.warn_of_differences()
        return files

    def warn_of_differences(self) -> None:
        """Logs a warning that names what two files say differently."""
        for role, name in self.special_tokens.items():
            others = {
                token_name(part[role])
                for part in (self.settings, self.roles)
                if part.get(role) is not None
            }
            if others - {name}:
                logging.warning(
                    "%s: %s and %s name different tokens as %s; as in transformers, %r is "
                    "used, not %r",
                    *(self.path.parent, SETTINGS, SPECIAL, role),
                    *(name, (others - {name}).pop()),
                )
        for name, index in self.added.items():
            found = self.added_tokens[name].index
            if found != index:
                logging.warning(
                    "%s: %s gives %r the id %s, %s %s; the latter is used",
                    *(self.path.parent, ADDED, name, index, SETTINGS, found),
                )

    def warn_of_unused(self, has_token: Callable[[str], bool]) -> None:
        """Logs a warning that names settings which transformers applies and we do not.

        Args:
          has_token: whether a name is that of a token of the tokenizer.
        """
        names = {name for name in self._special_names() if name}
        if missing := sorted(name for name in names if not has_token(name)):
            logging.warning(
                "%s: the special tokens %s are no tokens of %s; transformers adds them, "
                "here they are ordinary text",
                *(self.path.parent, ", ".join(map(repr, missing)), self.path.name),
            )
        if self.settings.get("split_special_tokens"):
            logging.warning(
                "%s: split_special_tokens is ignored: names of special tokens in a text "
                "are these tokens",
                self.path.parent / SETTINGS,
            )

    def _special_names(self) -> set[str | None]:
        """The names of all special tokens, with a role or without."""
        merged = self.settings | self.roles
        tokens = [merged[key] for key in merged if key.endswith("_token")]
        for part in (self.settings, self.roles):
            for key in ("additional_special_tokens", "extra_special_tokens"):
                more = part.get(key) or []
                tokens += more.values() if isinstance(more, dict) else more
        return {token_name(each) for each in tokens if type(each) is not bool}

    @property
    def added_tokens(self) -> dict[str, AddedToken]:
        """The tokens that a folder adds to its model, by name.

        Tokens of `added_tokens.json` are special if the settings refer to them.
        """
        added, settings = {}, self.settings
        try:
            special = self._special_names() if self.added else set()
            for name, index in self.added.items():
                is_special = name in special
                added[name] = AddedToken(
                    int(index), is_special, normalized=not is_special
                )
            for index, token in (settings.get(DECODER) or {}).items():
                is_special = bool(token.get("special"))
                names = ("lstrip", "rstrip", "single_word")
                flags = {name: bool(token.get(name)) for name in names}
                flags["normalized"] = bool(token.get("normalized", not is_special))
                added[token["content"]] = AddedToken(int(index), is_special, **flags)
            if not all(isinstance(name, str) and name for name in added):
                raise ValueError("a name that is not a string")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"the added tokens of {self.path.parent} cannot be read ({error!r}); expected "
                f'{{"name": id}} in {ADDED}, {{"id": {{"content": "name"}}}} under '
                f"{DECODER} in {SETTINGS}"
            ) from None
        return added


def hash_content(content: bytes) -> str:
    """A hash that is part of a tokenizer's identity."""
    return hashlib.sha256(content).hexdigest()[:16]


def token_name(token: Any) -> str | None:
    """The name of a token, given as a string or as an object with settings."""
    return token.get("content") if isinstance(token, dict) else token


def _read_file(file: epath.Path, expected: str) -> bytes:
    if not file.exists() or file.is_dir():
        raise ValueError(f"{str(file)!r} is not a file; give {expected}")
    return file.read_bytes()
