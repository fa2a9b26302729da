"""Text that users provide: which bytes are text, where a line ends, what a record is.

    bytes       UTF-8, or UTF-16 with a byte-order mark; a byte-order mark is no text
    characters  U+FFFD replaces what is none: bytes that are not UTF-8, and halves of
                surrogate pairs, which JSON can write ("\\ud83d")
    lines       end with a newline (LF or CR LF) and nothing else: form feeds, U+0085 and
                U+2028 are characters of a line
    JSON        the last of two equal keys counts, as Python's `json` has it

Nothing is replaced in silence: `report_repairs` counts the places and logs a warning.
"""

import codecs
import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

from absl import logging
from etils import epath

_UTF_32 = codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE
_UTF_16 = codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE
_HALF = re.compile("[\ud800-\udfff]")  # of a surrogate pair
HALF_IN_JSON = re.compile(r"\\u[dD][89a-fA-F]")  # or a whole pair
Repairs = list[str]  # in which characters have been replaced


@contextlib.contextmanager
def report_repairs(source: Any) -> Iterator[Repairs]:
    """Yields a list for the places that are repaired; logs how many there were.

    Args:
      source: of the text, for the message.
    """
    repairs: Repairs = []
    try:
        yield repairs
    finally:
        if repairs:
            logging.warning(
                "%s: characters that are not UTF-8, or halves of surrogate pairs, were "
                "replaced by U+FFFD in %d place%s, the first of them %s",
                *(source, len(repairs), "s" if len(repairs) > 1 else "", repairs[0]),
            )


def decode(content: bytes, repairs: Repairs, where: str = "") -> str:
    """The text of bytes in UTF-8, without a byte-order mark.

    Args:
      repairs: gets `where`, by default the line, if characters had to be replaced.
    """
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        _note(repairs, where or f"in line {line}")
        return content.decode(errors="replace")


def decode_file(content: bytes, repairs: Repairs, where: str = "") -> str:
    """The text of a whole file; see `decode`. It may be UTF-16 or UTF-32 with its mark."""
    if not content.startswith(_UTF_16 + _UTF_32):
        return decode(content, repairs, where)
    # The mark of UTF-32 begins like that of UTF-16.
    encoding = "utf-32" if content.startswith(_UTF_32) else "utf-16"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        _note(repairs, where or f"in {encoding.upper()}")
        return content.decode(encoding, errors="replace")


def clean(value: Any, repairs: Repairs, where: str) -> Any:
    """A JSON value with U+FFFD for halves of surrogate pairs; whole pairs are joined.

    Args:
      repairs: gets `where` if characters had to be replaced.
    """
    if isinstance(value, str):
        return _clean_text(value, repairs, where)
    if isinstance(value, list):
        return [clean(item, repairs, where) for item in value]
    if isinstance(value, dict):
        pairs = ((_clean_text(key, repairs, where), key) for key in value)
        return {new: clean(value[key], repairs, where) for new, key in pairs}
    return value


def clean_text(text: str) -> str:
    """`clean` of a text without a file; says so if characters had to be replaced."""
    with report_repairs("a text") as repairs:
        return _clean_text(text, repairs, f"in {text[:40]!a}")


def read_text(file: epath.PathLike) -> str:
    """The text of a file; what is no text is replaced and reported."""
    with report_repairs(file) as repairs:
        return decode_file(epath.Path(file).read_bytes(), repairs)


def read_lines(file: epath.PathLike) -> list[str]:
    """The lines of a file, without their ends; see `read_text`."""
    return split_lines(read_text(file))


def split_lines(text: str) -> list[str]:
    """The lines of a text, without their ends; a final newline begins no line."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]


def parse_json(text: str, repairs: Repairs, where: str) -> Any:
    """The value of JSON text, whose strings are text.

    Raises:
      ValueError: the text is not JSON, or nested too deeply.
    """
    try:
        value = json.loads(text)
        if HALF_IN_JSON.search(text):
            value = clean(value, repairs, where)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def parse_object(text: str, repairs: Repairs, where: str) -> dict[str, Any]:
    """The object of a line of JSON. Raises ValueError: see `parse_json`, or it is none."""
    try:
        record = parse_json(text, repairs, where)
    except ValueError as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else error
        raise ValueError(f"not JSON ({reason})") from None
    is_object = isinstance(record, dict)
    if not is_object:
        raise ValueError(f"not a JSON object ({text.strip()[:40]!r})")
    return record


def _clean_text(text: str, repairs: Repairs, where: str) -> str:
    if not _HALF.search(text):
        return text
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if joined.count("\ufffd") > text.count("\ufffd"):
        _note(repairs, where)
    return joined


def _note(repairs: Repairs, where: str) -> None:
    if where not in repairs[-1:]:  # a record with several such strings is one place
        repairs.append(where)
