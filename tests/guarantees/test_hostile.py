"""Files from elsewhere run nothing: pickles, arrays, headers and configurations in every place."""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from hostile import Hostile, edit
from hypothesis import given, settings
from hypothesis import strategies as st

import itm
from itm.data.layout import read_array, read_split
from itm.matcher.saved import save
from itm.models import SCAN, TwoBranchEmbedding
from itm.published.convert import read_checkpoint
from itm.published.tensorflow import read_variables
from itm.published.vocabulary import read_vocabulary
from itm.relevance import CiderIndex, relevance
from itm.text.concepts import Concepts
from itm.text.labels import Labels
from itm.text.vocabulary import SPECIALS, Vocabulary
from itm.text.word_vectors import word_vectors
from itm.training.checkpoint_files import CheckpointFiles
from itm.utils.safe_pickle import read_arrays


@pytest.fixture
def proof(tmp_path):
    """Must never be made."""
    path = tmp_path / "proof"
    yield path
    assert not path.exists()


def attacks(proof):
    return [
        Hostile(os.system, f"touch {proof}"),
        Hostile(eval, f"open({str(proof)!r}, 'w')"),
        Hostile(os.mkdir, str(proof)),
    ]


# Pickles in the three formats of torch, and bare ones ---------------------------------------------


def as_zip(attack):
    file = io.BytesIO()
    torch.save({"state_dict": {"a": torch.ones(2)}, "itm": attack}, file)
    return file.getvalue()


def as_legacy(attack):
    file = io.BytesIO()
    torch.save({"model": [attack]}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def as_pickle(attack):
    return pickle.dumps({"model": attack, "opt": attack}, protocol=2)


def as_tar(attack):
    file, data = io.BytesIO(), pickle.dumps(attack, protocol=2)
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


FORMATS = [as_zip, as_legacy, as_pickle, as_tar]


@pytest.mark.parametrize("form", FORMATS)
def test_checkpoints(form, tmp_path, proof, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # of a careless environment
    monkeypatch.setattr(  # in place of a download
        torch.hub, "load_state_dict_from_url",
        lambda address, **options: torch.load(tmp_path / "a.ckpt", **options),
    )  # fmt: skip
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    for attack in attacks(proof):
        for name in ("a.ckpt", "run/checkpoints/best.ckpt", "model_best.pth.tar"):
            (tmp_path / name).write_bytes(form(attack))
        for read in (
            lambda: itm.load(tmp_path / "a.ckpt"),
            lambda: itm.load(tmp_path / "run"),
            lambda: itm.from_published(tmp_path / "model_best.pth.tar"),
            lambda: itm.from_published(tmp_path / "a.ckpt", family="vsrn"),
        ):
            with pytest.raises(ValueError, match="could not be read safely"):
                read()
        with pytest.raises((ValueError, pickle.UnpicklingError)):
            CheckpointFiles().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)
        for source in (tmp_path / "a.ckpt", io.BytesIO(form(attack)), "http://host/a.ckpt"):
            with pytest.raises((ValueError, pickle.UnpicklingError, RuntimeError, IndexError)):
                SCAN.load_from_checkpoint(source)


def test_word_lists(tmp_path, proof):
    for attack in attacks(proof):
        for name in ("v.json", "v.pkl", "a_concepts.pkl", "category_concepts.json"):
            (tmp_path / name).write_bytes(pickle.dumps(attack))
        for read in (
            lambda: read_vocabulary(tmp_path / "v.json"),
            lambda: read_vocabulary(tmp_path / "v.pkl"),
            lambda: Vocabulary.load(tmp_path / "v.json"),
            lambda: Concepts.load(tmp_path),
            lambda: Labels.load(tmp_path / "v.json"),
            lambda: read_arrays(tmp_path / "a_concepts.pkl"),
        ):
            with pytest.raises(ValueError):
                read()
        (tmp_path / "category_concepts.json").write_text('{"dog": 0}')
        with pytest.raises(ValueError, match="could not be read safely"):
            Concepts.load(tmp_path)


def test_arrays(tmp_path, proof):
    (tmp_path / "train_caps.txt").write_text("a dog\n")
    for attack in attacks(proof):
        objects = np.array([[attack]], dtype=object)
        for name in ("train_ims.npy", "scores.npy"):
            np.save(tmp_path / name, objects, allow_pickle=True)
        np.savez(tmp_path / "a.npz", data=objects, allow_pickle=True)
        (tmp_path / "bare.npy").write_bytes(pickle.dumps(attack))
        for read in (
            lambda: read_split(tmp_path, "train"),
            lambda: read_array(tmp_path / "bare.npy"),
            lambda: read_array(tmp_path / "a.npz"),
            lambda: relevance(tmp_path / "scores.npy", ["a"], [["a"]]),
            lambda: word_vectors(["dog"], tmp_path / "scores.npy"),
            lambda: read_checkpoint(tmp_path / "a.npz"),
        ):
            with pytest.raises(ValueError):
                read()
        with pytest.raises((ValueError, KeyError)):
            CiderIndex.load(tmp_path / "a.npz")


# Folders ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    matcher = SCAN(vocab_size=6, img_dim=4, word_dim=3, embed_dim=5)
    matcher.vocab = Vocabulary([*SPECIALS, "a", "dog"])
    return save(matcher, tmp_path / "saved")


@pytest.mark.parametrize(
    "values, message",
    [
        ({"class": "os.system"}, "not a model of this library"),
        ({"class": "__class__"}, "not a model of this library"),
        ({"class": "../../evil"}, "not a model of this library"),
        ({"class": ["SCAN"]}, "not a model of this library"),
        ({"arguments": {"_target_": "os.system", "command": "touch PROOF"}}, "not the arguments"),
        ({"arguments": {"vocab_size": 6, "text": {"_target_": "os.system"}}}, "not the arguments"),
        ({"arguments": {"vocab_size": 6, "loss": {"_target_": "os.system"}}}, "not the arguments"),
        ({"arguments": None}, "not the arguments"),
        ({"labels": {"_target_": "os.system", "words": []}}, "damaged word lists"),
        ({"concepts": ["os.system"]}, "damaged word lists"),
    ],
)
def test_configurations(values, message, folder, proof):
    text = json.dumps(values).replace("PROOF", str(proof))
    edit(folder / "config.json", **json.loads(text))
    with pytest.raises(ValueError, match=message):
        itm.load(folder)


def test_a_transformer_brings_no_code(tmp_path, proof):
    """Its stored configuration may name modules and kernels to download; they are left out."""
    config = {
        "model_type": "bert", "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 8,
        "auto_map": {"AutoModel": f"{tmp_path}--evil.Model"},
        "attn_implementation": "evil/kernel", "_attn_implementation": "evil/kernel",
    }  # fmt: skip
    (tmp_path / "evil.py").write_text(f"open({str(proof)!r}, 'w')\nclass Model: pass\n")
    text = {"name": "bert", "config": config}
    matcher = TwoBranchEmbedding(img_dim=4, sentence_dim=5, hidden_dim=4, embed_dim=4, text=text)
    assert type(matcher.text.bert).__module__.startswith("transformers.models.bert")


def test_word_lists_of_a_folder(folder):
    for content in ("[]", "{", '{"kind": "words", "words": 3}', '{"kind": "__import__"}',
                    '{"kind": "words", "_target_": "os.system"}', "[" * 100_000):  # fmt: skip
        (folder / "vocab.json").write_text(content)
        with pytest.raises(ValueError):
            itm.load(folder)


def header(size, text=b""):
    return struct.pack("<Q", size) + text


@pytest.mark.parametrize(
    "content",
    [
        header(2**62),
        header(2**64 - 1, b"{}"),
        header(2, b"[]"),
        header(4, b"{}"),
        header(0),
        b"",
        header(72, b'{"a":{"dtype":"F32","shape":[4000000000000],"data_offsets":[0,16]}}     '),
        header(64, b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[900,904]}}      '),
    ],
)
def test_safetensors_with_wrong_headers(content, folder):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="safetensors is damaged"):
        itm.load(folder)


def test_an_array_that_promises_more_than_there_is(tmp_path):
    """No memory is reserved for what a header only claims."""
    for shape in ("(9999999999, 36, 2048)", "(-1, 3, 4)", "(2, 3, 4"):
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()
        (tmp_path / "x.npy").write_bytes(data + b"\0" * 64)
        with pytest.raises(ValueError, match="not a complete .npy file"):
            read_array(tmp_path / "x.npy")


def test_paths_in_archives_are_not_followed(tmp_path, proof):
    array = io.BytesIO()
    np.save(array, np.ones(3))
    (tmp_path / "inner").mkdir()
    with zipfile.ZipFile(tmp_path / "inner/a.npz", "w") as file:
        file.writestr("../proof", array.getvalue())
        file.writestr("../proof.npy", array.getvalue())
    with suppress(ValueError):  # the fixture `proof` sees whether anything was made
        read_checkpoint(tmp_path / "inner/a.npz")
    assert [path.name for path in tmp_path.rglob("*")] == ["inner", "a.npz"]


# Anything at all ----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_error_or_a_value(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("any")
    for name in ("a.npy", "a.npz", "a.pth.tar", "v.json", "v.pkl", "model.index"):
        (folder / name).write_bytes(data)
    (folder / "model.data-00000-of-00001").write_bytes(data)
    for read, name in (
        (read_array, "a.npy"),
        (read_checkpoint, "a.npz"),
        (read_checkpoint, "a.pth.tar"),
        (read_vocabulary, "v.json"),
        (read_vocabulary, "v.pkl"),
        (read_variables, "model"),
        (read_arrays, "v.pkl"),
    ):
        with suppress(ValueError, FileNotFoundError):
            read(folder / name)


@pytest.mark.parametrize(
    "arguments",
    [
        {"text": {"name": "bert", "path": "user/model"}},
        {"text": {"name": "bert", "path": "/etc", "config": {}}},
        {"embed_dim": 2**40},
        {"num_layers": 10**9},
    ],
)
def test_a_folder_is_refused_before_it_costs_anything(arguments, folder, monkeypatch):
    import socket

    def ask(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", arguments=config["arguments"] | arguments)
    with pytest.raises(ValueError, match="a place that the file chooses|weights|overflowed"):
        itm.load(folder)
