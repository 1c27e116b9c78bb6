import numpy as np
import pytest
from corpus import write

from itm.data.layout import read_captions, read_split


def boxes(root, rows):
    np.save(root / "train_boxes.npy", np.asarray(rows, np.float32))


def inside(n=6):
    corners = np.random.default_rng(0).uniform(0, 0.5, (n, 3, 2))
    return np.concatenate([corners, corners + 0.4], -1)


@pytest.mark.parametrize("scale", [1, 300])
def test_boxes_are_read(tmp_path, scale):
    write(tmp_path)
    rows = inside() * scale
    rows[4] = 0  # an image without detections
    boxes(tmp_path, rows)
    np.testing.assert_allclose(read_split(tmp_path, "train").boxes, rows, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.__setitem__((3, 1), np.nan), r"row 3: expected finite"),
        (lambda b: b.__setitem__((2, 0), [0.5, 0.5, 0.2, 0.2]), r"row 2: .*x1 <= x2.*width"),
        (lambda b: b[5].__imul__(100), r"row 5 is in pixels, row 0"),
    ],
)
def test_boxes_that_cannot_be_right_are_an_error(tmp_path, change, message):
    write(tmp_path)
    rows = inside()
    change(rows)
    boxes(tmp_path, rows)
    with pytest.raises(ValueError, match=rf"train_boxes.npy.*{message}"):
        read_split(tmp_path, "train")


@pytest.mark.parametrize("blank", ["\u00a0", "\u3000", "\u200b", "\ufeff", "\u2028", "\x00", "\t"])
@pytest.mark.parametrize("file", ["caps", "ids"])
def test_blank_means_blank_in_unicode(tmp_path, blank, file):
    write(tmp_path, ids=range(6))
    path = tmp_path / f"train_{file}.txt"
    lines = path.read_text().split("\n")
    lines[3] = blank * 2
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"train_{file}.txt:4: blank line"):
        read_split(tmp_path, "train")


def test_captions_of_symbols_are_not_blank(tmp_path):
    (tmp_path / "a.txt").write_text("🐕\n!\n一只狗\nกา\n", encoding="utf-8")
    assert len(read_captions(tmp_path / "a.txt")) == 4


@pytest.mark.parametrize("shape", [(29, 4), (31, 4), (30,)])
def test_sentence_vectors_of_other_captions_are_an_error(tmp_path, shape):
    write(tmp_path)
    np.save(tmp_path / "train_caps.npy", np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=r"train_caps.npy.*expected float \(30, F\)"):
        read_split(tmp_path, "train").sentence_vectors()


def test_captions_of_another_split_are_an_error(tmp_path):
    """145,000 captions of Flickr30K's training split divide evenly by its 1,000 test images."""
    write(tmp_path, per_image=145)
    with pytest.raises(ValueError, match=r"145 captions for each: .*captions_per_image=145"):
        read_split(tmp_path, "train")
    assert read_split(tmp_path, "train", 145).num_images == 6


def test_features_that_are_all_equal_are_not_one_image(tmp_path):
    write(tmp_path, images=60, per_image=1)
    np.save(tmp_path / "train_ims.npy", np.zeros((60, 3, 4), np.float32))
    with pytest.raises(ValueError, match="some equal rows .*captions_per_image=1"):
        read_split(tmp_path, "train")
    assert read_split(tmp_path, "train", 1).num_images == 60
