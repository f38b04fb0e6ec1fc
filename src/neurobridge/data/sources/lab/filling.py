"""A dataclass out of the keys and values of a YAML file; what is unknown, missing or unfit is refused in a sentence."""

from __future__ import annotations

import datetime
import difflib
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from neurobridge.errors import UserError


def _keys(cls: type) -> dict[str, Field]:
    return {f.name: f for f in fields(cls) if not f.metadata.get("ours")}


def missing_keys(cls: type, given: dict, where: str) -> list[str]:
    """The keys that ``cls`` and the dataclasses in it need and ``given`` lacks. UserError for a key that is unknown."""
    parts = [("", cls, given)]
    for name, hint in get_type_hints(cls).items():
        if get_origin(hint) is dict and is_dataclass(get_args(hint)[1]) and isinstance(given.get(name), dict):
            named = {key: one for key, one in given[name].items() if isinstance(one, dict)}
            parts += [(f"{name}: {key}: ", get_args(hint)[1], one) for key, one in named.items()]
            continue
        inner = next((one for one in (hint, *get_args(hint)) if is_dataclass(one)), None)
        if inner is not None and isinstance(given.get(name), dict):
            parts.append((f"{name}: ", inner, given[name]))
    missing = []
    for prefix, part, keys in parts:
        known = _keys(part)
        for key in keys:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f"do you mean '{close[0]}'?" if close else f"known are {', '.join(known)}"
                raise UserError(f"{where}: {prefix}unknown key '{str(key)[:80]}'; {hint}")
        needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
        missing += [f"{prefix}{name}" for name in needed if name not in keys]
    return missing


def fill(cls: type, given: dict, where: str, **ours: object) -> Any:
    """A dataclass from a mapping without :func:`missing_keys`; UserError for values of another type."""
    known = _keys(cls)
    hints = get_type_hints(cls)
    values = {}
    for name, f in known.items():
        if name in given:
            values[name] = _convert(given[name], hints[name], where, name)
        else:
            assert f.default is not MISSING or f.default_factory is not MISSING, "missing keys were refused"
    return cls(**values, **ours)


def _convert(value: Any, hint: Any, where: str, name: str) -> Any:
    if get_origin(hint) in (Union, UnionType):
        if value is None:
            return None
        hint = next(a for a in get_args(hint) if a is not NoneType)

    def refuse(expected: str) -> UserError:
        return UserError(f"{where}: {name} is {kind(value)}, expected {expected}")

    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise refuse("keys and values (path, format, ...)")
        return fill(hint, value, f"{where}: {name}")  # pyright: ignore
    if get_origin(hint) is Literal:
        if isinstance(value, bool) or value not in get_args(hint):
            raise refuse(f"one of {', '.join(map(str, get_args(hint)))}")
        return value
    if hint is str or hint is Path:
        if not isinstance(value, str) or not value.isprintable() or not value:
            raise refuse("text (put it in quotes)")
        return hint(value)
    if hint is datetime.date:
        if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
            return value
        raise refuse("a day as YYYY-MM-DD, without quotes")
    if hint in (int, float):
        if isinstance(value, bool) or not isinstance(value, (int, hint)):
            raise refuse("a number")
        return _number(value, hint, refuse)
    if get_origin(hint) is tuple:
        if not isinstance(value, list) or len(value) != 2:
            raise refuse("two numbers, [first, last]")
        return tuple(_convert(part, float, where, name) for part in value)
    if get_origin(hint) is list:
        one = get_args(hint)[0]
        if not isinstance(value, list):
            raise refuse("a list, [V1, V4]" if one is str else "a list of [start, stop]")
        return [_convert(part, one, where, name) for part in value]
    assert get_origin(hint) is dict
    if not isinstance(value, dict):
        of_ours = "{our_name: their_name}" if get_args(hint)[1] is str else "{name: {path: ..., format: ...}}"
        raise refuse(f"keys and values, {of_ours}")
    of = get_args(hint)[1]
    return {_convert(k, str, where, name): _convert(v, of, where, f"{name}.{k}") for k, v in value.items()}


def _number(value: Any, hint: type, refuse: Any) -> Any:
    try:
        return hint(value)
    except OverflowError as error:
        raise refuse("a smaller number") from error


def kind(value: object) -> str:
    """What a value is, in words."""
    if value is None:
        return "empty"
    if isinstance(value, (dict, list)):
        return "keys and values" if isinstance(value, dict) else "a list"
    return f"'{str(value)[:80]}' ({type(value).__name__})"
