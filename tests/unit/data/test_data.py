from dataclasses import replace

import numpy as np
import pytest
import torch
from corpus import write
from goldens_path import shared

from itm.data.layout import read_captions, read_split
from itm.data.module import RegionDataModule
from itm.data.sampler import PairSampler


@pytest.fixture
def folder(tmp_path):
    for name in ("train", "dev", "test"):
        write(tmp_path, name)
    return tmp_path


@pytest.mark.parametrize("repeat", [1, 5])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_images_once_or_five_times(tmp_path, repeat, dtype):
    features = write(tmp_path, repeat=repeat, dtype=dtype)
    split = read_split(tmp_path, "train")
    assert split.num_images == 6 and len(split.captions) == 30
    np.testing.assert_array_equal(split.caption_image, np.arange(30) // 5)
    np.testing.assert_array_equal(
        split.images(np.array([4, 1])), features[[4 * repeat, repeat]].astype(np.float32)
    )
    assert isinstance(split.features, np.memmap)


def test_a_global_vector_is_one_region(tmp_path):
    write(tmp_path, shape=(4,))
    split = read_split(tmp_path, "train")
    assert split.regions == 1 and split.images(np.array([0])).shape == (1, 1, 4)


def test_repeated_rows_are_told_apart_by_ids(tmp_path):
    """Two neighbouring images with equal features are two images when their ids differ."""
    features = write(tmp_path, images=3, repeat=5, ids=np.repeat(["a", "b", "c"], 5))
    features[5:10] = features[0]
    np.save(tmp_path / "train_ims.npy", features)
    split = read_split(tmp_path, "train")
    assert split.ids == ["a", "b", "c"] and split.num_images == 3


@pytest.mark.parametrize("ids", [range(6), np.repeat(range(6), 5)])
def test_ids_per_image_or_per_row(tmp_path, ids):
    write(tmp_path, repeat=1 if len(ids) == 6 else 5, ids=ids)
    assert read_split(tmp_path, "train").ids == [str(i) for i in range(6)]


def test_one_caption_per_image(tmp_path):
    write(tmp_path, per_image=1)
    split = read_split(tmp_path, "train")
    np.testing.assert_array_equal(split.caption_image, np.arange(6))


def test_one_caption_per_image_with_equal_first_regions(tmp_path):
    features = write(tmp_path, per_image=1)
    features[1:4, 0] = 0
    np.save(tmp_path / "train_ims.npy", features)
    assert read_split(tmp_path, "train").num_images == 6
    features[2] = features[1]
    np.save(tmp_path / "train_ims.npy", features)
    with pytest.raises(
        ValueError, match=r"rows \(such as 1 and 2\).*captions_per_image=1.*train_ids"
    ):
        read_split(tmp_path, "train")
    assert read_split(tmp_path, "train", captions_per_image=1).num_images == 6


def test_equal_neighbours_are_two_images_where_rows_are_repeated(tmp_path):
    features = write(tmp_path, repeat=5)
    features[5:10] = features[0]
    np.save(tmp_path / "train_ims.npy", features)
    np.testing.assert_array_equal(read_split(tmp_path, "train").row, np.arange(0, 30, 5))


def test_coco_takes_five_captions_of_each_image(tmp_path):
    write(tmp_path, "test", images=3)
    lines = [f"image {i} caption {k}" for i, n in enumerate((5, 7, 6)) for k in range(n)]
    (tmp_path / "test_caps.txt").write_text("\n".join(lines))
    ids = [str(i) for i, n in enumerate((5, 7, 6)) for _ in range(n)]
    (tmp_path / "test_ids.txt").write_text("\n".join(ids))
    np.save(tmp_path / "test_caps.npy", np.arange(18.0)[:, None])
    split = read_split(tmp_path, "test", protocol="coco_5k")
    assert split.captions == [f"image {i} caption {k}" for i in range(3) for k in range(5)]
    np.testing.assert_array_equal(split.caption_image, np.arange(15) // 5)
    wanted = [*range(5), *range(5, 10), *range(12, 17)]
    assert split.sentence_vectors()[:, 0].tolist() == wanted
    assert split.head(2).sentence_vectors()[:, 0].tolist() == wanted[:10]
    assert len(read_split(tmp_path, "test").captions) == 18
    with pytest.raises(FileNotFoundError, match="data.test=test"):
        read_split(tmp_path, "testall")


def break_line_short(root):
    path = root / "train_caps.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))


def break_blank(root):
    path = root / "train_caps.txt"
    lines = path.read_text().splitlines()
    lines[6] = "  "
    path.write_text("\n".join(lines))


def break_bytes(root):
    path = root / "train_caps.txt"
    path.write_bytes(path.read_bytes().replace(b"image 2 caption 3", b"caf\xe9"))


def break_truncated(root):
    path = root / "train_ims.npy"
    path.write_bytes(path.read_bytes()[:-8])


def break_garbage(root):
    (root / "train_ims.npy").write_bytes(b"not numpy at all")


def break_dtype(root):
    np.save(root / "train_ims.npy", np.zeros((6, 3, 4), np.int64))


def break_shape(root):
    np.save(root / "train_ims.npy", np.zeros((6, 3, 4, 2), np.float32))


def break_empty(root):
    np.save(root / "train_ims.npy", np.zeros((0, 3, 4), np.float32))
    (root / "train_caps.txt").write_text("")


def break_duplicate_ids(root):
    (root / "train_ids.txt").write_text("a\nb\nc\na\ne\nf\n")


def break_ids_count(root):
    (root / "train_ids.txt").write_text("a\nb\n")


def break_boxes(root):
    np.save(root / "train_boxes.npy", np.zeros((6, 2, 4), np.float32))


def break_missing(root):
    (root / "train_ims.npy").unlink()


@pytest.mark.parametrize(
    "breakage, message",
    [
        (break_line_short, "29 captions .* 6 images.*30 lines"),
        (break_blank, "train_caps.txt:7: blank line"),
        (break_bytes, "train_caps.txt:14: not UTF-8"),
        (break_truncated, "train_ims.npy .*not a complete .npy"),
        (break_garbage, "train_ims.npy .*not a complete .npy"),
        (break_dtype, "int64"),
        (break_shape, r"\(6, 3, 4, 2\)"),
        (break_empty, "empty"),
        (break_duplicate_ids, "'a' names image 0 and image 3"),
        (break_ids_count, "2 ids for 6 images"),
        (break_boxes, "boxes.npy: expected"),
        (break_missing, "missing: .*train_ims.npy; found there: .*dev_caps"),
    ],
)
def test_broken_files_are_named(folder, breakage, message):
    breakage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_split(folder, "train")


def test_exotic_separators_and_carriage_returns_do_not_shift_captions(tmp_path):
    text = "one\r\ntwo \x0b two\nthree \x85 \u2028 three\n"
    (tmp_path / "c.txt").write_bytes(text.encode())
    captions = read_captions(tmp_path / "c.txt")
    assert len(captions) == 3 and captions[0] == "one" and captions[2].startswith("three")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_features_name_file_and_row(folder, value):
    features = np.load(folder / "train_ims.npy")
    features[4, 1, 2] = value
    np.save(folder / "train_ims.npy", features)
    split = read_split(folder, "train")
    split.images(np.array([0, 1]))
    with pytest.raises(ValueError, match="train_ims.npy row 4"):
        split.images(np.array([0, 4]))


def test_batches_hold_each_caption_once_with_its_image(folder):
    data = RegionDataModule(folder, batch_size=7, min_count=1)
    data.setup()
    features = np.load(folder / "train_ims.npy")
    seen = []
    for pairs in data.train_dataloader():
        lengths = pairs.captions.lengths
        assert list(lengths) == sorted(lengths, reverse=True)
        for row, caption in enumerate(pairs.captions.index.tolist()):
            image = pairs.images.index[pairs.captions.image[row]]
            assert image == caption // 5
            np.testing.assert_array_equal(pairs.images.regions[row], features[image])
            words = data.vocabulary.decode(pairs.captions.tokens[row, : lengths[row]].tolist())
            assert words[1:-1] == f"image {caption // 5} caption {caption % 5} a dog".split()
        seen += pairs.captions.index.tolist()
    assert sorted(seen) == list(range(30))


def order(data, epoch):
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)
    return [pairs.captions.index.tolist() for pairs in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_order_depends_on_seed_and_epoch_only(folder, workers):
    def make(seed, workers=workers):
        data = RegionDataModule(folder, batch_size=8, seed=seed, workers=workers)
        data.setup()
        return data

    assert order(make(1), 0) == order(make(1, 0), 0)
    assert order(make(1), 0) != order(make(1), 1)
    assert order(make(1), 0) != order(make(2), 0)


def test_two_processes_see_the_global_batches_of_one():
    image = np.arange(50) // 5
    whole = PairSampler(image, 8, seed=3)
    parts = [PairSampler(image, 4, seed=3, rank=r, processes=2) for r in (0, 1)]
    assert len(whole) == len(parts[0]) == 7
    for one, a, b in zip(whole, *parts, strict=True):
        assert one == a + b


def test_neighbours_are_captions_of_the_same_image(folder):
    data = RegionDataModule(folder, batch_size=4, sentences=3)
    data.setup()
    for pairs in data.train_dataloader():
        image = pairs.captions.image.tolist()
        assert image == sorted(image) and len(set(image)) == len(pairs.images.index)
        for caption, row in zip(pairs.captions.index.tolist(), image, strict=True):
            assert pairs.images.index[row] == caption // 5
        assert len(image) % 3 == 0


def test_fraction_trains_on_the_first_captions(folder):
    data = RegionDataModule(folder, batch_size=4, fraction=0.25)
    data.setup()
    seen = sorted(i for pairs in data.train_dataloader() for i in pairs.captions.index.tolist())
    assert seen == list(range(7))  # int(30 * 0.25)


def test_evaluation_brings_images_once_and_captions_by_length(folder):
    data = RegionDataModule(folder, eval_batch_size=4)
    data.setup()
    images, captions = data.val_dataloader()
    assert torch.cat([batch.index for batch in images]).tolist() == list(range(6))
    lengths = [n for batch in captions for n in batch.lengths]
    assert lengths == sorted(lengths) and len(lengths) == 30


@pytest.mark.parametrize(
    "options, message",
    [
        ({"fraction": 10}, "data.fraction=10"),
        ({"noise_ratio": 2}, "data.noise_ratio=2"),
        ({"batch_size": 0}, "data.batch_size must be at least 1, got 0"),
        ({"eval_batch_size": -5}, "data.eval_batch_size must be at least 1, got -5"),
        ({"sentences": 0}, "data.sentences must be at least 1, got 0"),
        ({"min_count": 0}, "data.min_count must be at least 1, got 0"),
        ({"workers": -1}, "data.workers must be at least 0, got -1"),
    ],
)
def test_wrong_options_are_named(folder, options, message):
    with pytest.raises(ValueError, match=message):
        RegionDataModule(folder, **options)


def test_a_batch_that_cannot_be_filled_is_an_error(folder):
    data = RegionDataModule(folder, batch_size=64, drop_last=True)
    data.setup()
    with pytest.raises(ValueError, match="lower data.batch_size"):
        data.train_dataloader()


def test_flickr8k_is_read_as_it_is():
    data = RegionDataModule(shared("data/flickr8k"), limit=50)
    data.setup()
    assert data.split("train").width == 256 and data.split("train").regions == 36
    assert data.split("test").ids[0] == "3385593926_d3e9c21170.jpg"
    pairs = next(iter(data.train_dataloader()))
    assert pairs.images.regions.shape == (128, 36, 256)
    assert pairs.images.regions.dtype == torch.float32


def test_sentence_vectors_that_are_not_finite_name_file_and_row(folder):
    vectors = np.ones((len(read_split(folder, "train").captions), 5), np.float32)
    vectors[3, 2] = np.nan
    np.save(folder / "train_caps.npy", vectors)
    data = RegionDataModule(folder, vectors=True, min_count=1)
    data.setup()
    with pytest.raises(ValueError, match=r"train_caps.npy row 3 holds NaN or infinite"):
        list(data.train_dataloader())


@pytest.mark.parametrize(
    ("fraction", "said"),
    [(1.0, "30 captions, 3 regions of width 4, float32"),
     (0.25, "float32; trained on the first 7 captions, of 2 images"),
     (0.01, "float32; trained on the first 1 captions, of 1 images")],
)  # fmt: skip
def test_a_fraction_is_described(folder, fraction, said):
    """The line named all captions of the file, however few were trained on."""
    line = RegionDataModule(folder, fraction=fraction).describe().splitlines()[0]
    assert line.endswith(said)


def test_a_split_may_have_fewer_phrases_than_images(folder):
    class One:
        def split(self, split, train=False):
            return replace(split, captions=["a dog"], caption_image=np.array([2]))

    data = RegionDataModule(folder, eval_batch_size=4, min_count=1, phrases=One())
    data.setup()
    images, captions = ([batch.index.tolist() for batch in x] for x in data.val_dataloader())
    assert images == [[0, 1, 2, 3], [4, 5]] and captions == [[0]]
