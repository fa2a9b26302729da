r"""How byte-level BPE splits a text first, by the names that GGUF files have for it.

The names are llama.cpp's (`tokenizer.ggml.pre`), the expressions those of the models' own
tokenizer.json. transformers' GGUF reader takes GPT-2's for a name that it does not know,
such as SmolLM2's: there "  1" becomes other tokens than in training.
"""

from typing import Any, NamedTuple

_GPT2 = "gpt2"  # its regular expression is built in
_DIGITS = "digits"  # each by itself

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_OTHER = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SLASH = _OTHER.replace(r"[\r\n]*|\s*[", r"[\r\n/]*|\s*[")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_EAST_ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"


class Split(NamedTuple):
    """A way to split a text."""

    patterns: tuple[str, ...]  # applied one after the other
    # Whether a part that is a token needs no merges; and whether a text begins with a
    # token where the metadata does not say so.
    is_llama3: bool = False


GPT2 = Split((_GPT2,))
STARCODER = Split((_DIGITS, _GPT2))
LLAMA3 = Split((rf"{_LETTERS}|\p{{N}}{{1,3}}|{_OTHER}",), is_llama3=True)
QWEN2 = Split((rf"{_LETTERS}|\p{{N}}|{_OTHER}",))
TEKKEN = Split((rf"{_CASED}|\p{{N}}|{_SLASH}",), is_llama3=True)

SPLITS = {
    "default": GPT2,  # also where there is no name
    "gpt-2": GPT2,
    "jais": GPT2,
    "mpt": GPT2,
    "olmo": GPT2,
    "phi-2": GPT2,
    "codeshell": STARCODER,
    "command-r": STARCODER,
    "exaone": STARCODER,
    "minerva-7b": STARCODER,
    "refact": STARCODER,
    "smollm": STARCODER,
    "starcoder": STARCODER,
    "falcon3": LLAMA3,
    "llama-bpe": LLAMA3,
    "llama-v3": LLAMA3,
    "llama3": LLAMA3,
    "dbrx": LLAMA3._replace(is_llama3=False),
    "smaug-bpe": LLAMA3._replace(is_llama3=False),
    "deepseek-r1-qwen": QWEN2,
    "megrez": QWEN2,
    "qwen2": QWEN2,
    "stablelm2": QWEN2,
    "tekken": TEKKEN,
    "deepseek-coder": Split(
        ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _EAST_ASIAN, _DIGITS)
    ),
}


def pre_tokenizers(split: Split) -> list[dict[str, Any]]:
    """The entries of a tokenizer.json that split a text; the last spells its bytes."""
    found = []
    for pattern in split.patterns:
        if pattern == _DIGITS:
            found.append({"type": "Digits", "individual_digits": True})
        elif pattern != _GPT2:
            regex = {"pattern": {"Regex": pattern}, "behavior": "Isolated"}
            found.append({"type": "Split", **regex, "invert": False})
    return [*found, byte_level(use_regex=_GPT2 in split.patterns)]


def byte_level(use_regex: bool = False) -> dict[str, Any]:
    """The entry that spells bytes as characters; `use_regex`: after GPT-2's split."""
    settings = {"add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}
    return {"type": "ByteLevel"} | settings
