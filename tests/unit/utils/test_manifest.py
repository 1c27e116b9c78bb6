"""Every flipped bit of the JSON files that stand alone is an error, or changes nothing."""

import json
from pathlib import Path

import numpy as np
import pytest

from itm.runs.plain_files import read_record
from itm.runs.record import write_json, write_ranks
from itm.runs.run_files import read_ranks
from itm.text.concepts import Concepts
from itm.text.labels import Labels
from itm.text.vocabulary import Vocabulary
from itm.utils.manifest import content_hashes


def concepts():
    return Concepts(["dog", "runs"], ["OBJ", "MOT"], [1, 2], [[0, 1], [1, 0]], [[0.5], [1.0]])


def content(found):
    if isinstance(found, dict):
        return {name: np.asarray(value).tolist() for name, value in found.items()}
    return json.loads(json.dumps(found.state()))


RANKS = [np.arange(3)] * 3
FILES = {
    "record": (lambda p: write_json(p, {"rsum": 300.5, "seed": 1, "command": "x"}), read_record),
    "vocabulary": (Vocabulary(["<pad>", "<start>", "<end>", "<unk>", "dog"]).save, Vocabulary.load),
    "labels": (lambda p: Labels(["dog", "runs"], [1, 2], 9).save(p, "ab"), Labels.load),
    "concepts": (lambda p: concepts().save(p, "ab"), Concepts.load),
    "ranks": (lambda p: write_ranks(p, *RANKS), read_ranks),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_every_flipped_bit_is_noticed(kind, tmp_path):
    write, read = FILES[kind]
    path = tmp_path / ("f.npz" if kind == "ranks" else "f.json")
    write(path)
    whole, expected, errors = path.read_bytes(), content(read(path)), 0
    for place in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            try:
                found = content(read(path))
            except (ValueError, OSError) as error:
                errors += 1
                assert path.name in str(error)
            else:  # blanks, unread fields of the zip, or the name of the checksum
                extra = set(found) - set(expected)
                assert {k: v for k, v in found.items() if k not in extra} == expected, (place, bit)
    assert errors > 4 * len(whole)


def test_an_edit_on_purpose_is_possible(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"seed": 1})
    path.write_text(path.read_text().replace("1,", "2,"))
    with pytest.raises(ValueError, match=r"run\.json is damaged or was edited.*remove 'crc32'"):
        read_record(path)
    path.write_text('{"seed": 2}')
    assert read_record(path) == {"seed": 2}


def test_files_of_one_name_are_recorded_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/model.pth", "b/model.pth", "b/vocab.json"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(name)
    found = content_hashes(["a/model.pth", "b/model.pth", "./b/model.pth", "b/vocab.json"])
    assert list(found) == ["a/model.pth", "b/model.pth", "vocab.json"]
    assert len(set(found.values())) == 3
    assert list(content_hashes(["a/model.pth"])) == ["model.pth"]
    # The same file once more by its whole path, which must not get into a record that is shared.
    found = content_hashes([tmp_path / "a/model.pth", "a/model.pth", tmp_path / "b/model.pth"])
    assert list(found) == ["a/model.pth", "b/model.pth"]
