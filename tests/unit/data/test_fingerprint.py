import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from itm.data import RegionDataModule
from itm.data.fingerprint import differences
from itm.data.needs import DataNeeds, adopt
from itm.matcher.state import pack_state, unpack_state
from itm.text import SPECIALS, Labels, Vocabulary


def data_of(
    root, captions=("a dog", "a cat", "two dogs", "red cat"), scale=1.0, swap=False, **options
):
    root.mkdir(exist_ok=True)
    features = scale * np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    for split in ("train", "dev"):
        np.save(root / f"{split}_ims.npy", features[::-1] if swap else features)
        (root / f"{split}_caps.txt").write_text("\n".join(captions) + "\n")
    data = RegionDataModule(root, batch_size=2, min_count=1, **options)
    data.setup()
    return data


def test_equal_data_elsewhere_are_the_same(tmp_path):
    first, again = (data_of(tmp_path / name).fingerprint() for name in "ab")
    assert differences(first, again) == []
    assert first["train captions"].startswith("4 captions, ")
    assert first["train features"].startswith("4 x 2 x 3 float32, ")


def test_what_changed_is_named(tmp_path):
    first = data_of(tmp_path / "a").fingerprint()

    def changed(**options):
        texts = differences(first, data_of(tmp_path / "b", **options).fingerprint())
        return {text.partition(":")[0] for text in texts}

    features = {"train features", "val features"}
    assert changed(scale=2.0) == changed(swap=True) == features
    order = ("a cat", "a dog", "two dogs", "red cat")
    assert changed(captions=order) == {"train captions", "val captions", "vocabulary"}
    other = ("a dog", "a cat", "two dogs", "a red cat")
    assert changed(captions=other) == {"train captions", "val captions"}


def test_the_captions_that_are_trained_on_and_their_images_are_part_of_the_data(tmp_path):
    first = data_of(tmp_path / "a").fingerprint()
    half = data_of(tmp_path / "a", fraction=0.5).fingerprint()
    assert half["train captions"].startswith("2 of 4 captions, ")
    assert half["val captions"] == first["val captions"]
    noise = data_of(tmp_path / "a", noise_ratio=1.0, seed=1).fingerprint()
    (text,) = differences(first, noise)
    assert text.startswith("train pairs: ")


def test_a_missing_part_is_named():
    assert differences({"labels": "3"}, {}) == ["labels: 3 -> none"]


def test_one_image_of_many_is_noticed_and_earlier_versions_read_fewer(tmp_path):
    captions = [f"dog {i}" for i in range(500)]
    for name, image in (("a", None), ("b", 3)):
        (tmp_path / name).mkdir()
        for split in ("train", "dev"):
            features = np.zeros((500, 2, 3), np.float32)
            if image is not None:
                features[image] = 1  # none of the 64 that earlier versions read
            np.save(tmp_path / name / f"{split}_ims.npy", features)
            (tmp_path / name / f"{split}_caps.txt").write_text("\n".join(captions) + "\n")
    first, other = (
        RegionDataModule(tmp_path / name, batch_size=2, min_count=1, captions_per_image=1)
        for name in "ab"
    )
    first.setup(), other.setup()
    before, now = first.fingerprint(), other.fingerprint()
    assert len(differences(before, now)) == 2
    old = {part: text.partition("; ")[0] for part, text in before.items()}
    assert differences(old, now) == []


def test_a_module_that_serves_several_matchers_describes_what_each_one_reads(tmp_path):
    """It kept the description of the first one, and the second could not be resumed."""
    data, words = data_of(tmp_path, num_labels=2), Vocabulary([*SPECIALS, "a", "dog", "cat"])
    plain = data.fingerprint()
    for needs in (
        DataNeeds(vocab=words),
        DataNeeds(frozenset({"labels"})),
        DataNeeds(vocab=words, labels=Labels(["dog"]), names=frozenset({"labels"})),
        DataNeeds(),
    ):
        alone = RegionDataModule(tmp_path, batch_size=2, min_count=1, num_labels=2)
        for module in (data, alone):
            adopt(module, needs, "fit")
            module.setup()
        assert data.fingerprint() == alone.fingerprint()
    assert data.fingerprint() == plain


def test_concepts_are_the_same_on_a_machine_with_another_zlib(tmp_path, monkeypatch):
    def concept_text(**changes):
        data = data_of(tmp_path, needs=["concepts"], num_concepts=2)
        data.concept_vocabulary.counts[:1] += changes.get("more", 0)
        return data.fingerprint(), data.concept_vocabulary

    first, concepts = concept_text()
    saved = pack_state(SimpleNamespace(vocab=None, labels=None, concepts=concepts))
    real = zlib.compress
    monkeypatch.setattr(zlib, "compress", lambda data, level: real(data, 1))
    now, concepts = concept_text()
    assert first["concept vocabulary"] != now["concept vocabulary"]
    assert differences(first, now) == []
    unpack_state(SimpleNamespace(vocab=None, labels=None, concepts=concepts), saved)
    other, concepts = concept_text(more=1)
    assert len(differences(first, other)) == len(differences(now, other)) == 1
    with pytest.raises(ValueError, match="the checkpoint's concepts differs from the data's"):
        unpack_state(SimpleNamespace(vocab=None, labels=None, concepts=concepts), saved)
    old = {part: text.partition("; content")[0] for part, text in now.items()}
    assert differences(old, now) == [] and len(differences(old, other)) == 1
