import numpy as np

from itm.data import RegionDataModule
from itm.data.fingerprint import differences


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
