"""Jinja templates of strangers: rendered in a sandbox, as transformers renders them.

A template is a program of whoever published the model. It sees plain data only, changes
nothing, and has the functions and options that transformers gives chat templates.
"""

import datetime
import functools
import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.sandbox


def render(source: str, variables: Mapping[str, Any], where: str) -> str:
    """The text of a template.

    Args:
      variables: JSON values; None is a value that is not given.
      where: the template comes from, for the error message.

    Raises:
      ValueError: the template has a syntax error, raises an exception, fails, or does
        what the sandbox forbids; a variable is no JSON value.
    """
    try:  # a copy in JSON's types: methods of other objects could escape the sandbox
        values = json.loads(json.dumps(dict(variables)))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"messages and variables of a chat template must be JSON values: {error}"
        ) from None
    try:
        return _compile(source).render(values)
    except Exception as error:  # noqa: BLE001 (anything can be wrong with a program)
        raise ValueError(_explain(error, source, values, where)) from None


def _explain(error: Exception, source: str, values: dict[str, Any], where: str) -> str:
    """One line: what is wrong, and where."""
    number = _line_number(error)
    location = f"{where}, line {number}" if number else where
    message = " ".join(str(error).split())
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"{location}: the chat template has a syntax error: {message}"
    if isinstance(error, _Refusal):
        return f"{location}: the chat template refuses the conversation: {message}"
    if isinstance(error, jinja2.exceptions.SecurityError):
        return f"{location}: the sandbox of chat templates forbids this: {message}"
    text = f"{location}: the chat template fails with {type(error).__name__}: {message}"
    line = re.split(r"\r\n|\r|\n", source)[number - 1] if number else ""  # as in Jinja
    missing = [
        name
        for name in sorted(_variables(source))
        if values.get(name) is None and re.search(rf"\b{name}\b", line)
    ]
    if missing:
        text += (
            f"; it needs {' and '.join(missing)}, which this conversation does not give "
            "(chat_template_kwargs of lm.chat)"
        )
    return text


class _Refusal(jinja2.TemplateError):
    """What a template raises by itself."""


class _Namespace(jinja2.utils.Namespace):
    """`namespace(...)` of templates, without names that Python may call by itself."""

    def __init__(*args: Any, **values: Any):
        for name in dict(*args[1:], **values):
            _check_public(name)
        jinja2.utils.Namespace.__init__(*args, **values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_public(name)
        super().__setitem__(name, value)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`, which marks answers for training: its body, as it is."""

    tags: ClassVar = {"generation"}

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[jinja2.ext.loopcontrols, _Generation],
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _refuse,
        "strftime_now": lambda form: datetime.datetime.now().strftime(form),
        "namespace": _Namespace,
    }
    return environment


@functools.lru_cache(maxsize=16)
def _compile(source: str) -> jinja2.Template:
    return _environment().from_string(source)


def _variables(source: str) -> set[str]:
    """The variables that a template reads but does not set."""
    names = jinja2.meta.find_undeclared_variables(_environment().parse(source))
    return names - set(_environment().globals)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> None:
    raise _Refusal(message)


def _check_public(name: Any) -> None:
    if str(name).startswith("_"):
        raise jinja2.exceptions.SecurityError(
            f"a namespace cannot have the name {name!r}"
        )


def _line_number(error: Exception) -> int:
    """The line of the template at which it failed; 0 if it is unknown."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return error.lineno
    number, trace = 0, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == "<template>":
            number = trace.tb_lineno
        trace = trace.tb_next
    return number
