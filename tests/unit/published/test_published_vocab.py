import base64
import os
import pickle
import sys
import types

import pytest
from goldens_path import case
from hostile import Hostile

from itm.published.vocabulary import read_vocabulary
from itm.text.vocabulary import Vocabulary

# Written by Python 2.7: five words, the last one "café" as text or as UTF-8 bytes.
PYTHON_2 = {
    "text, protocol 0": (
        "Y2NvcHlfcmVnCl9yZWNvbnN0cnVjdG9yCnAwCihjX19tYWluX18KVm9jYWJ1bGFyeQpwMQpjX19idWlsdGluX18K"
        "b2JqZWN0CnAyCk50cDMKUnA0CihkcDUKUydpZHgyd29yZCcKcDYKKGRwNwpJMApTJzxwYWQ+JwpwOApzSTEKUyc8"
        "c3RhcnQ+JwpwOQpzSTIKUyc8ZW5kPicKcDEwCnNJMwpTJzx1bms+JwpwMTEKc0k0ClZjYWbpCnAxMgpzc1Mnd29y"
        "ZDJpZHgnCnAxMwooZHAxNApnOQpJMQpzZzgKSTAKc2cxMgpJNApzZzEwCkkyCnNnMTEKSTMKc3NTJ2lkeCcKcDE1"
        "Ckk1CnNiLg=="
    ),
    "bytes, protocol 2": (
        "gAJjX19tYWluX18KVm9jYWJ1bGFyeQpxACmBcQF9cQIoVQhpZHgyd29yZHEDfXEEKEsAVQU8cGFkPnEFSwFVBzxz"
        "dGFydD5xBksCVQU8ZW5kPnEHSwNVBTx1bms+cQhLBFUFY2Fmw6lxCXVVCHdvcmQyaWR4cQp9cQsoaAZLAWgFSwBo"
        "CUsEaAdLAmgISwN1VQNpZHhxDEsFdWIu"
    ),
    "old-style class": (
        "gAIoY19fbWFpbl9fClZvY2FidWxhcnkKcQBvcQF9cQIoVQhpZHgyd29yZHEDfXEEKEsAVQU8cGFkPnEFSwFVBzxz"
        "dGFydD5xBksCVQU8ZW5kPnEHSwNVBTx1bms+cQhLBFgFAAAAY2Fmw6lxCXVVCHdvcmQyaWR4cQp9cQsoaAZLAWgF"
        "SwBoCUsEaAdLAmgISwN1VQNpZHhxDEsFdWIu"
    ),
}


@pytest.mark.parametrize("kind", PYTHON_2)
def test_python_2_pickles(kind, tmp_path):
    (tmp_path / "v.pkl").write_bytes(base64.b64decode(PYTHON_2[kind]))
    found = read_vocabulary(tmp_path / "v.pkl")
    assert found.words == ["<pad>", "<start>", "<end>", "<unk>", "café"]


@pytest.mark.parametrize("name", ["f30k_caption", "coco_nocaption_ensemble"])
def test_the_pickle_equals_the_json(name):
    folder = case(f"vsrn/{name}")
    assert read_vocabulary(folder / "vocab.pkl") == Vocabulary.load(folder / "vocab.json")
    assert read_vocabulary(folder / "vocab.json") == Vocabulary.load(folder / "vocab.json")


def pickled(monkeypatch, module="vocab", protocol=4, **attributes) -> bytes:
    """An object of a class Vocabulary that lives in another code base's module."""
    kind = type("Vocabulary", (), {"__module__": module})
    holder = types.ModuleType(module)
    holder.Vocabulary = kind
    monkeypatch.setitem(sys.modules, module, holder)
    found = kind()
    vars(found).update(attributes)
    return pickle.dumps(found, protocol)


WORDS = {"<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 3, "dog": 4}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_and_module(protocol, tmp_path, monkeypatch):
    data = pickled(monkeypatch, "a_fork", protocol, word2idx=WORDS, idx=5)
    (tmp_path / "v.pkl").write_bytes(data)
    assert read_vocabulary(tmp_path / "v.pkl").words == list(WORDS)


def test_hostile_pickles_run_nothing(tmp_path, monkeypatch):
    proof = tmp_path / "proof"
    attacks = [
        Hostile(os.system, f"touch {proof}"),
        Hostile(eval, f"open({str(proof)!r}, 'w')"),
        Hostile(open, str(proof), "w"),
        Hostile(__import__, "antigravity"),
        {"word2idx": WORDS, "other": Hostile(os.mkdir, str(proof))},
    ]
    files = [pickle.dumps(attack) for attack in attacks]
    files.append(pickled(monkeypatch, word2idx=WORDS, idx=Hostile(os.mkdir, str(proof))))
    files.append(b"cos\nsystem\n(S'touch " + str(proof).encode() + b"'\ntR.")
    for data in files:
        (tmp_path / "v.pkl").write_bytes(data)
        with pytest.raises(ValueError, match="not a vocabulary pickle"):
            read_vocabulary(tmp_path / "v.pkl")
        assert not proof.exists()


def test_a_pickle_cannot_change_later_reads(tmp_path, monkeypatch):
    # Sets an attribute on the class itself, not on an instance.
    poison = b"\x80\x02c__main__\nVocabulary\nN}X\x08\x00\x00\x00word2idxX\x01\x00\x00\x00xs\x86b."
    (tmp_path / "v.pkl").write_bytes(poison)
    with pytest.raises(ValueError):
        read_vocabulary(tmp_path / "v.pkl")
    (tmp_path / "w.pkl").write_bytes(pickled(monkeypatch, other=1))
    with pytest.raises(ValueError, match="not a vocabulary pickle"):
        read_vocabulary(tmp_path / "w.pkl")


def test_wrong_files_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no vocabulary"):
        read_vocabulary(tmp_path / "missing.pkl")
    gap = {**WORDS, "cat": 9}
    twisted = {"a": 0, "b": 1, "c": 2, "d": 3}
    for data in (
        b"",
        b"not a pickle",
        pickle.dumps([1, 2]),
        pickled(monkeypatch, word2idx=gap),
        pickled(monkeypatch, word2idx=twisted),
        pickled(monkeypatch, word2idx={1: "a"}),
    ):
        (tmp_path / "v.pkl").write_bytes(data)
        with pytest.raises(ValueError, match="not a vocabulary pickle"):
            read_vocabulary(tmp_path / "v.pkl")


def test_a_pickle_whose_two_tables_differ_is_refused(tmp_path, monkeypatch):
    back = {i: word for word, i in WORDS.items()}
    (tmp_path / "v.pkl").write_bytes(pickled(monkeypatch, word2idx=WORDS, idx2word=back, idx=5))
    assert read_vocabulary(tmp_path / "v.pkl").words == list(WORDS)
    back[4] = "cat"
    (tmp_path / "v.pkl").write_bytes(pickled(monkeypatch, word2idx=WORDS, idx2word=back, idx=5))
    with pytest.raises(ValueError, match="'idx2word' contradicts 'word2idx'"):
        read_vocabulary(tmp_path / "v.pkl")
