"""Options of a run as keywords of a function: each has its default and its sentence where it is declared, once."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, get_type_hints

from neurobridge.training import settings as declared

GROUPS = get_type_hints(declared.RunSettings)


def takes(**groups: Sequence[str]) -> Callable[[Callable], Callable]:
    """Give a function with ``**options`` the keywords of some groups of a run's options (``pretrain=...``).

    A group's value names the options that are left out. The keywords, with types and defaults, show in the signature,
    their sentences in the docstring. The function gets ``{group: {option: value}}`` of what was given, as ``options``.
    """
    known = {f.name: (group, f) for group, out in groups.items() for f in fields(GROUPS[group]) if f.name not in out}

    def decorate(function: Callable) -> Callable:
        own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_default(f), annotation=f.type)
            for name, (_, f) in known.items()
        ]

        @functools.wraps(function)
        def wrapped(*args: Any, **given: Any) -> Any:
            mine = {p.name for p in own}
            options: dict[str, dict[str, Any]] = {}
            for name in [name for name in given if name not in mine]:
                if name not in known:
                    near = difflib.get_close_matches(name, [*known, *mine], n=1)
                    hint = f"; did you mean '{near[0]}'?" if near else ""
                    raise TypeError(f"{function.__name__}() has no option '{name}'{hint}")
                options.setdefault(known[name][0], {})[name] = given.pop(name)
            return function(*args, **given, options=options)

        wrapped.__signature__ = inspect.signature(function).replace(parameters=[*own, *more])  # pyright: ignore
        told = "\n".join(f"        {name}: {_sentence(group, name)}" for name, (group, _) in known.items())
        before, after, rest = (function.__doc__ or "").partition("\n\n    Raises:")
        wrapped.__doc__ = f"{before}\n{told}{after}{rest}" if after else f"{before.rstrip()}\n{told}\n    "
        return wrapped

    return decorate


def _default(f: Field) -> Any:
    return f.default if f.default_factory is MISSING else f.default_factory()


def _sentence(group: str, name: str) -> str:
    """What the class of a group says of an option."""
    found = re.search(rf"^ +{name}: (.*(?:\n {{{(12,)}}}.*)*)", GROUPS[group].__doc__ or "", flags=re.MULTILINE)
    return " ".join(found[1].split()) if found else ""
