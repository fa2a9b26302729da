"""The files of a tokenizer in a folder: the tokenizer's own, and those next to it."""

from typing import Any, NamedTuple

from etils import epath

from relay_jax.files import read_json

SETTINGS = "tokenizer_config.json"
# Both of older folders; newer ones have their contents in SETTINGS.
SPECIAL, ADDED = "special_tokens_map.json", "added_tokens.json"
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
        """The special tokens that the files name, by their role."""
        named = {
            role: token_name(self.settings.get(role, self.roles.get(role)))
            for role in ROLES
        }
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
        return cls(file, content, *parts)

    @property
    def added_tokens(self) -> dict[str, tuple[int, bool]]:
        """The ids of the tokens that a folder adds to its model, and which are special.

        Tokens of `added_tokens.json` are special if the settings refer to them.
        """
        added, settings = {}, self.settings
        try:
            roles = [value for key, value in settings.items() if key.endswith("_token")]
            roles += settings.get("additional_special_tokens") or []
            special = set(map(token_name, roles)) if self.added else set()
            for name, index in self.added.items():
                added[name] = int(index), name in special
            for index, token in (settings.get("added_tokens_decoder") or {}).items():
                added[token["content"]] = int(index), bool(token.get("special"))
            if not all(isinstance(name, str) and name for name in added):
                raise ValueError("a name that is not a string")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"the added tokens of {self.path.parent} cannot be read ({error!r}); expected "
                f'{{"name": id}} in {ADDED}, {{"id": {{"content": "name"}}}} under '
                f"added_tokens_decoder in {SETTINGS}"
            ) from None
        return added


def token_name(token: Any) -> str | None:
    """The name of a token, given as a string or as an object with settings."""
    return token.get("content") if isinstance(token, dict) else token


def _read_file(file: epath.Path, expected: str) -> bytes:
    if not file.exists() or file.is_dir():
        raise ValueError(f"{str(file)!r} is not a file; give {expected}")
    return file.read_bytes()
