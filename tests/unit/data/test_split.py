"""Lines about the splits of a data module."""

from types import SimpleNamespace

import numpy as np
import pytest

from itm.data.layout import read_split
from itm.data.split import describe


def test_one_image_to_find_is_told():
    one = SimpleNamespace(
        name="dev", num_images=1, captions=["a"], regions=2, width=3, features=np.zeros((1, 2, 3))
    )
    two = SimpleNamespace(**{**vars(one), "name": "test", "num_images": 2})
    text = describe({"train": one, "val": one, "test": two})
    assert text.count("warning") == 1
    assert "warning: dev has one image, so every recall on it is 100 by construction\n" in text


def test_images_are_read_by_rows_masks_and_slices(tmp_path):
    features = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    np.save(tmp_path / "test_ims.npy", features)
    (tmp_path / "test_caps.txt").write_text("a dog\n" * 8)
    split = read_split(tmp_path, "test")
    np.testing.assert_array_equal(split.images(np.array([True, False, False, True])), features[::3])
    np.testing.assert_array_equal(split.view()[1:3], features[1:3])
    for wrong in (3, np.array([1, 2])):
        with pytest.raises(ValueError, match="a view is read by slices"):
            split.view()[wrong]
    with pytest.raises(ValueError, match="the first -1 images of a split"):
        split.head(-1)


@pytest.mark.parametrize("shape", [(4, 2, 3), (4, 3)])
def test_no_image_is_an_array_of_none(tmp_path, shape):
    np.save(tmp_path / "test_ims.npy", np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    (tmp_path / "test_caps.txt").write_text("a dog\n" * 4)
    split = read_split(tmp_path, "test")
    none = (0, shape[1] if len(shape) == 3 else 1, 3)
    assert split.images(np.zeros(4, bool)).shape == split.view()[3:3].shape == none
