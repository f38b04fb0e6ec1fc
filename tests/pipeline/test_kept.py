"""What a run lives by is kept with a checksum and twice; what cannot be trusted is made again, or named."""

import json

import pytest
import yaml

from neurobridge.errors import UserError
from neurobridge.pipeline.kept import (
    hidden,
    keep_copy,
    mend_from_copy,
    read_twice,
    sealed_json,
    unsealed_json,
    write_twice,
)


def spoilt(path, how: str) -> None:
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        changes = {"emptied": b"", "cut": content[: len(content) // 2], "garbage": bytes(range(256))}
        path.write_bytes(changes.get(how) or b"")


def test_facts_carry_a_checksum_and_those_of_an_earlier_version_do_not():
    text = sealed_json({"files": {"a": "1"}, "sizes": (2, 3)})
    assert unsealed_json(text) == {"files": {"a": "1"}, "sizes": [2, 3]}
    assert unsealed_json('{"files": {}}') == {"files": {}}
    with pytest.raises(ValueError, match="checksum"):
        unsealed_json(text.replace('"1"', '"2"'))
    with pytest.raises(ValueError, match="no facts"):
        unsealed_json("[1]")


@pytest.mark.parametrize("how", ["emptied", "cut", "garbage", "gone"])
def test_one_copy_makes_the_other_again(tmp_path, capsys, how):
    path = tmp_path / "facts.json"
    write_twice(path, sealed_json({"a": 1}))
    before = path.read_bytes()
    spoilt(path, how)
    assert read_twice(path, unsealed_json) == {"a": 1}
    assert f"{path} is spoilt" in capsys.readouterr().err
    assert path.read_bytes() == before
    spoilt(hidden(path), how)
    assert read_twice(path, unsealed_json) == {"a": 1}
    assert capsys.readouterr().err == ""


def test_a_text_that_is_cut_off_and_still_reads_is_found(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    write_twice(path, "seed: 1\nsteps: 4\n")
    path.write_text("seed: 1\n")
    assert read_twice(path, yaml.safe_load) == {"seed": 1, "steps": 4}
    assert "it is cut off" in capsys.readouterr().err
    path.write_text("seed: 2\n")
    assert read_twice(path, yaml.safe_load) == {"seed": 2}, "whoever edits it is heard"


def test_without_a_sound_copy_it_is_a_sentence_and_without_any_there_is_nothing(tmp_path):
    path = tmp_path / "facts.json"
    assert read_twice(path, unsealed_json) is None
    write_twice(path, json.dumps([1]))
    with pytest.raises(UserError, match="and so is its copy"):
        read_twice(path, unsealed_json)


@pytest.mark.parametrize("how", ["emptied", "cut", "garbage", "gone", "flipped"])
def test_a_file_that_grows_is_made_again_as_far_as_its_copy_goes(tmp_path, capsys, how):
    path = tmp_path / "metrics.csv"
    keep_copy(path)
    mend_from_copy(path)
    assert not path.exists()
    path.write_text("stage,step\npretrain,1\n")
    keep_copy(path)
    before = path.read_bytes()
    path.write_bytes(before + b"adapt,1\n")
    mend_from_copy(path)
    assert path.read_bytes() == before + b"adapt,1\n"
    if how == "flipped":
        path.write_bytes(before.replace(b"1", b"2"))
    else:
        spoilt(path, how)
    mend_from_copy(path)
    assert path.read_bytes() == before
    assert "is not what the last stage left" in capsys.readouterr().err
    spoilt(hidden(path), "cut")
    path.write_text("other")
    mend_from_copy(path)
    assert path.read_text() == "other", "a spoilt copy mends nothing"
