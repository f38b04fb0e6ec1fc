"""What the field's own files really hold ends in the right value or in one fitting sentence, in every source."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import _bad_field as field
import _bad_field_files as files
from _bad_files import outcome
from _bad_sources import SOURCES

GROUPS = (field.CLOCKS, field.IDENTITY, files.READERS, files.PICTURES, files.WRITERS, SOURCES)


@pytest.mark.parametrize("name", [name for group in GROUPS for name in group])
def test_right_value_or_one_sentence(tmp_path, name):
    situation = next(group[name] for group in GROUPS if name in group)
    told, seen = outcome(situation, tmp_path / "situation")
    assert told in ("right value", "one sentence"), seen
