"""Checkpoints and vocabularies of the original code bases that are something else."""

import gzip
import json

import pytest
import torch

from itm.published.files import read_checkpoint
from itm.published.tables import read_state
from itm.published.vocabulary import read_vocabulary


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"x", mtime=0), "compressed by gzip"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ({"model": {}}, "holds no tensors"),
        ({"module.a": torch.ones(1), "a": torch.ones(1)}, "module.a with and without"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, content, message):
    path = tmp_path / "model.pth.tar"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=f"model.pth.tar.*{message}"):
        read_checkpoint(path)


def test_what_is_no_vocabulary_is_named(tmp_path):
    path = tmp_path / "vocab.pkl"
    for content, message in (
        (json.dumps({"word2idx": {}}).encode(), "rename it to vocab.json"),
        (gzip.compress(b"x", mtime=0), "compressed by gzip"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"vocab.pkl.*{message}"):
            read_vocabulary(path)


def test_two_tensors_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"two tensors of the original.*b.weight, are c.weight"):
        read_state({"a.weight": torch.ones(1), "b.weight": torch.ones(1)}, {"a": "c", "b": "c"})
