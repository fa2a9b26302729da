"""Conversion between configs and plain dicts, and differences between them.

A config is a frozen dataclass (`relay_jax.config`). In files and on the command line it
is a nested dict. Unknown keys and ill-typed values are errors.
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Literal


def build(cls: type, values: Mapping[str, Any], where: str = "config"):
    """A frozen dataclass from nested mappings.

    Args:
      where: the name of the config, for error messages.

    Raises:
      ValueError: an unknown key, a missing key without a default, or an ill-typed value.
    """
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(
            f"unknown key {where}.{unknown[0]}; valid keys: {', '.join(sorted(hints))}"
        )
    for field in dataclasses.fields(cls):
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            raise ValueError(f"{where}.{field.name} is missing; it has no default")
    built = {
        key: _convert(hints[key], value, f"{where}.{key}")
        for key, value in values.items()
    }
    return cls(**built)


def to_dict(config: Any) -> Any:
    """The nested dict from which `build` makes an equal config."""
    if dataclasses.is_dataclass(config):
        fields = dataclasses.fields(config)
        return {field.name: to_dict(getattr(config, field.name)) for field in fields}
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    return config


def complete(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict with a value for every field, so that flags can set any of them.

    Raises:
      ValueError: see `build`.
    """
    return to_dict(build(cls, values))


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            return build(typing.cast(type, hint), value, where)
        _check(isinstance(value, typing.cast(type, hint)), "a mapping", value, where)
        return value
    if origin is Literal:
        expected = f"one of {', '.join(map(repr, arguments))}"
        _check(value in arguments, expected, value, where)
        return value
    if origin is tuple:
        is_list = isinstance(value, (tuple, list))
        if arguments[-1] is ...:  # tuple[X, ...]
            _check(is_list, "a list", value, where)
            arguments = arguments[:1] * len(value)
        fits = is_list and len(value) == len(arguments)
        _check(fits, f"{len(arguments)} values", value, where)
        pairs = zip(arguments, value)
        return tuple(_convert(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(pairs))
    if origin is not None:  # Mapping[str, X]
        _check(isinstance(value, Mapping), "a mapping", value, where)
        return {k: _convert(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is Any:
        return value
    if hint is float and type(value) is int:
        return float(value)
    _check(type(value) is hint, f"a value of type {hint.__name__}", value, where)
    return value


def _check(condition: bool, expected: str, value: Any, where: str) -> None:
    if not condition:
        raise ValueError(f"{where} must be {expected}, got {value!r}")


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """One line for each field in which two nested dicts differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(old.keys() | new.keys()):
            inner = f"{where}.{key}" if where else key
            found += differences(old.get(key), new.get(key), inner)
        return found
    return [] if old == new else [f"{where} is {old!r} there and {new!r} here"]
