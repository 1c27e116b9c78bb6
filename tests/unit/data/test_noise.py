"""Test noisy correspondence: two protocols, the index files of the papers, wrong files."""

import numpy as np
import pytest
from corpus import write

from itm.data.layout import read_split
from itm.data.module import RegionDataModule
from itm.data.noise import describe_noise, read_noise, shuffled_images
from itm.relevance import cider

OWN = np.arange(100) // 5


@pytest.fixture
def folder(tmp_path):
    for name in ("train", "dev", "test"):
        write(tmp_path, name, images=20)
    return tmp_path


def test_captions_are_shuffled_one_by_one(folder):
    split = read_split(folder, "train")
    found = shuffled_images(split, 0.4, seed=1)
    assert sorted(found) == sorted(OWN) and 20 < (found != OWN).sum() <= 40
    blocks = found.reshape(20, 5)
    assert any(len(set(block)) > 1 for block in blocks)
    np.testing.assert_array_equal(found, shuffled_images(split, 0.4, seed=1))
    assert "captions one by one" in describe_noise(found, split)


def test_images_are_shuffled_with_all_their_captions(folder):
    split = read_split(folder, "train")
    found = shuffled_images(split, 0.4, seed=1, by="image")
    blocks = found.reshape(20, 5)
    assert all(len(set(block)) == 1 for block in blocks)
    assert sorted(blocks[:, 0]) == list(range(20))
    wrong = int((found != OWN).sum())
    assert 0 < wrong <= 40
    expected = f"noise: {wrong} of 100 captions ({wrong:.1f} %) have another image, images with all"
    assert expected in describe_noise(found, split)


def index_files():
    rng = np.random.default_rng(0)
    singles = rng.permutation(OWN)
    blocks = rng.permutation(20)
    return {
        "per caption (NCR)": (singles, singles),
        "blocks per caption (L2RM)": (np.repeat(blocks, 5), np.repeat(blocks, 5)),
        "per image (DECL)": (blocks, np.repeat(blocks, 5)),
        "images stored once per caption": ((perm := rng.permutation(100)), perm // 5),
    }


@pytest.mark.parametrize("kind", index_files())
@pytest.mark.parametrize("repeat", [1, 5])
def test_index_files_of_the_papers(tmp_path, kind, repeat, capsys):
    for name in ("train", "dev", "test"):
        write(tmp_path, name, images=20, repeat=repeat)
    index, expected = index_files()[kind]
    np.save(tmp_path / "noise.npy", index)
    data = RegionDataModule(tmp_path, noise_file=tmp_path / "noise.npy", min_count=1)
    data.setup()
    np.testing.assert_array_equal(data.reader("train").caption_image, expected)
    whole = "with all their captions" if len(set(expected[:5])) == 1 else "one by one"
    assert whole in capsys.readouterr().out
    np.testing.assert_array_equal(data.reader("val").caption_image, OWN)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (
            np.arange(99),
            r"of each of the 100 captions, .* each of the 20 images .* \(99,\) of int64",
        ),
        (np.full(100, 100), "its numbers are 100 to 100"),
        (np.full(20, 20), "its numbers are 20 to 20"),
        (np.full(100, -1), "its numbers are -1 to -1"),
        (np.zeros(100), "of float64"),
        (np.zeros((20, 5), int), r"\(20, 5\)"),
    ],
)
def test_wrong_files(folder, index, message):
    np.save(folder / "noise.npy", index)
    with pytest.raises(ValueError, match=message):
        read_noise(folder / "noise.npy", read_split(folder, "train"))


def test_wrong_options(folder):
    with pytest.raises(FileNotFoundError, match="no noise index at nothing.npy"):
        read_noise("nothing.npy", read_split(folder, "train"))
    with pytest.raises(ValueError, match="say twice which captions are noisy"):
        RegionDataModule(folder, noise_ratio=0.2, noise_file="a.npy")
    with pytest.raises(ValueError, match="data.noise_by must be 'caption' or 'image', got 'block'"):
        RegionDataModule(folder, noise_by="block")


@pytest.mark.parametrize("by", ["caption", "image"])
def test_what_is_made_from_the_pairing_knows_only_the_noisy_one(folder, by):
    """Else relevance, labels and concepts would tell a loss which pairs are wrong."""
    needs = ["relevance", "labels", "concepts"]
    given = {"min_count": 1, "noise_ratio": 0.8, "noise_by": by}
    data = RegionDataModule(folder, **given, needs=needs)
    data.setup()
    reader, split = data.reader("train"), data.split("train")
    image = reader.caption_image
    assert (image != OWN).mean() > 0.5
    expected = cider(split.captions, [[c for c, i in zip(split.captions, image, strict=True)
                                       if i == own] for own in range(20)])  # fmt: skip
    found = reader.relevance.matrix()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    for own in range(20):
        told = {word for c, i in zip(split.captions, image, strict=True) if i == own
                for word in c.split()}  # fmt: skip
        labels = [word in told for word in data.label_vocabulary.words]
        np.testing.assert_array_equal(reader.labels[own] > 0, labels)
    for own in range(20):  # captions of an image share its concepts
        assert len({row.tobytes() for row in reader.concepts[image == own]}) <= 1


@pytest.mark.parametrize("by", ["caption", "image"])
def test_noise_stays_within_the_fraction(folder, by):
    data = RegionDataModule(folder, min_count=1, noise_ratio=0.9, noise_by=by, fraction=0.4)
    data.setup()
    image = data.reader("train").caption_image
    assert sorted(image[:40]) == sorted(OWN[:40]) and (image[:40] != OWN[:40]).any()
    np.testing.assert_array_equal(image[40:], OWN[40:])
