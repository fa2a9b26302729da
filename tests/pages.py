"""The fenced blocks of README.md and docs/, and the commands in them."""

import pathlib
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from docs import make_tables

ROOT = pathlib.Path(__file__).parents[1]
OTHERS = ROOT / "CHANGELOG.md", ROOT / "launch" / "README.md"
PAGES = [*make_tables.pages(), *OTHERS]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Tokens at which one command of a line ends and another begins.
BREAKS = {"&&", "||", ";", "|", "do", "done", "then"}


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str  # "" and "bash": commands; "python"; "text": a drawing
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> Iterator[Block]:
    text = (ROOT / page).read_text()
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 2
        yield Block(page, line, match[1], match[2])


BLOCKS = [block for page in NAMES for block in blocks(page)]


def commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a block: lines joined, loops unrolled, variables replaced.

    A variable that holds a whole command is split into its arguments.
    """
    text = re.sub(r"(^|\s)#.*", "", text.replace("\\\n", " "), flags=re.MULTILINE)
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|<>\n")
    lexer.whitespace, lexer.commenters, lexer.whitespace_split = " \t", "", True
    variables, command, body = {}, [], None
    for part in [*lexer, ";"]:
        if part.strip() and part not in BREAKS:
            command.append(part)
            continue
        while command and re.fullmatch(r"\w+=.*", command[0], re.DOTALL):
            name, _, value = command.pop(0).partition("=")
            variables[name] = value
        if command[:1] == ["for"]:  # for NAME in VALUES; do BODY; done
            _, loop, _, *values = command
            body = []
        elif command and body is not None:
            body.append(command)
        elif command:
            yield _expand(command, variables)
        if part == "done":
            for value in values:
                for command in body:
                    yield _expand(command, variables | {loop: value})
            body = None
        command = []


def _expand(command: list[str], variables: dict[str, str]) -> list[str]:
    found = []
    for part in command:
        part = re.sub(r"\$(\w+)", lambda m: variables[m[1]], part)
        found += shlex.split(part) if part.startswith("python -m ") else [part]
    return found


def script_of(command: list[str]) -> list[str] | None:
    """The module and the arguments of a command of `experiments`, or None."""
    if command[0] == "./launch/local.sh":
        script = "rest_demo" if "--only=rest" in command else "quickstart"
        arguments = [part for part in command[1:] if not part.startswith("--only=")]
        return [f"experiments.{script}", *arguments]
    while command and command[0].startswith("./launch/"):
        has_options = command[0].endswith(("tpu_pod.sh", "gke.sh", "slurm.sh"))
        skipped = command.index("--") + 1 if "--" in command else len(command)
        command = command[skipped if has_options else 1 :]
        if command[:1] in (["cpu"], ["cuda"], ["tpu"]):
            command = command[1:]
    if command[:2] == ["python", "-m"] and command[2].startswith("experiments."):
        return command[2:]
    return None


def all_commands() -> list[tuple[str, list[str]]]:
    """Every command of every page, and where it is."""
    return [
        (block.where, command)
        for block in BLOCKS
        if block.language in ("", "bash")
        for command in commands(block.text)
    ]
