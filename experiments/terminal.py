"""Lines that a user types, or that a file or another program gives."""

import sys

from relay_jax import text_files


def read_line(prompt: str = "> ") -> str | None:
    """The next line of standard input that is not blank; None at its end.

    Lines end with a newline alone; what is no text is replaced and reported.

    Args:
      prompt: shown in a terminal.
    """
    if sys.stdin.isatty():
        print(prompt, end="", flush=True)
    try:
        for content in sys.stdin.buffer:
            with text_files.report_repairs("standard input") as repairs:
                line = text_files.decode(content, repairs, repr(content[:40])).strip()
            if line:
                return line
    except KeyboardInterrupt:
        pass
    return None
