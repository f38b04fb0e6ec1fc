"""YAML as people read it: what version 1.1 would silently make another number or key of is refused, with its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from neurobridge.errors import UserError, reading

BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
BASE_8 = re.compile(r"[-+]?0[0-9_]+")
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        loaded = super().construct_mapping(node, deep=deep)
        if len(loaded) != len(node.value):
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.constructor.ConstructorError(None, None, f"the key '{twice}' is there twice", node.start_mark)
        return loaded


def _number(loader: _Loader, node: yaml.ScalarNode) -> int | float:
    """1:30 is 90 in YAML (base 60), and 010 is 8 (base 8)."""
    base = 60 if BASE_60.fullmatch(node.value) else 8 if BASE_8.fullmatch(node.value) else 10
    integer = node.tag == NUMBERS[0]
    value = loader.construct_yaml_int(node) if integer else loader.construct_yaml_float(node)
    if base != 10:
        told = f"{node.value} is {value:g} in YAML, which takes it for base {base}: write the number plainly"
        raise yaml.constructor.ConstructorError(None, None, told, node.start_mark)
    return value


for tag in NUMBERS:
    _Loader.add_constructor(tag, _number)


def load_yaml(path: Path) -> Any:
    """What the file holds. Raises UserError for what is no YAML, with the line, and for numbers that mislead."""
    with reading(path, "YAML manifest", "mend the line"):
        try:
            return yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f"line {mark.line + 1}: " if mark else ""
            told = " ".join(str(error.problem or error.context).split())
            raise UserError(f"{path} is not a readable YAML manifest ({line}{told}): mend the line") from error
