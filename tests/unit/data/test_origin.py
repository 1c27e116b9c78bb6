"""Origins: which images a matcher was trained on, and how their features were made."""

import json

import numpy as np
import pytest

from itm import extract
from itm.data import RegionDataModule
from itm.data.layout import read_split
from itm.data.origin import (
    IMAGES,
    RECORD,
    SETTINGS,
    check_origin,
    count_trained,
    describe_origin,
    other_features,
    warn_chosen,
    warn_trained,
)
from itm.features import plan

MADE = {**dict.fromkeys(SETTINGS), "backbone": "/models/net", "size": 224}


def write(folder, name, groups, ids=None):
    """Write a split whose images have these captions."""
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{name}_ims.npy", np.zeros((len(groups), 2, 3), np.float32))
    lines = [caption for group in groups for caption in group]
    (folder / f"{name}_caps.txt").write_text("\n".join(lines) + "\n")
    if ids is None:
        ids = [str(i) for i, group in enumerate(groups) for _ in group]
    (folder / f"{name}_ids.txt").write_text("\n".join(ids) + "\n")
    return read_split(folder, name)


def images(start, stop, captions=3):
    return [[f"image {i}, caption {k}" for k in range(captions)] for i in range(start, stop)]


def test_images_are_known_by_their_captions_whatever_their_order_and_number(tmp_path):
    train = write(tmp_path / "a", "train", images(0, 10))
    origin = describe_origin(train, len(train.captions))
    test = write(tmp_path / "b", "test", [*images(8, 10), *images(20, 23), *images(4, 5)])
    assert count_trained([origin], test) == 3
    assert warn_trained([origin], test)[0].startswith("warning: 3 of the 6 images of test ")
    assert count_trained([], test) == 0
    other = write(tmp_path / "b", "dev", images(30, 40))
    assert not warn_trained([origin], other)
    assert count_trained([describe_origin(other, 30), origin], test) == 3


@pytest.mark.parametrize(
    "noise", [{"noise_ratio": 1.0}, {"noise_ratio": 0.5, "fraction": 0.5}, {"noise_file": "n.npy"}]
)
def test_images_of_a_noisy_training_are_known(tmp_path, noise):
    """Captions under the image that noise gives them had marked no image, so nothing was told."""
    for name in ("train", "dev", "test"):
        write(tmp_path, name, images(0, 10))
    np.save(tmp_path / "n.npy", np.roll(np.arange(24) // 3, 4))
    if "noise_file" in noise:
        noise = {"noise_file": tmp_path / "n.npy"}
    data = RegionDataModule(tmp_path, min_count=1, limit=8, **noise)
    expected = 8 * noise.get("fraction", 1)
    assert count_trained([data.origin()], read_split(tmp_path, "test")) == expected


def test_a_test_on_images_of_the_validation_is_told(tmp_path):
    """As of a folder without dev, whose test was copied: the test chooses the best epoch."""
    val, test = (write(tmp_path, n, images(*x)) for n, x in (("dev", (0, 6)), ("test", (4, 9))))
    (line,) = warn_chosen(val, test)
    assert line.startswith("warning: 2 of the 5 images of test ") and "validation (dev)" in line
    assert not warn_chosen(val, write(tmp_path, "train", images(6, 9)))


def test_only_the_images_that_are_trained_on_count(tmp_path):
    train = write(tmp_path, "train", images(0, 10))
    origin = describe_origin(train, 13)  # all of four images and one caption of the fifth
    assert (origin["of"], count_trained([origin], train)) == (5, 5)


def test_five_captions_mark_an_image_as_the_protocols_of_coco_read_them(tmp_path):
    train = write(tmp_path, "train", [*images(0, 4, 7), *images(4, 8, 6)])
    origin = describe_origin(train, len(train.captions))
    test = write(tmp_path, "test", images(2, 6, 5))
    assert count_trained([origin], test) == 4


def test_a_large_training_is_remembered_in_part_and_says_so(tmp_path):
    most = IMAGES + 1000
    train = write(tmp_path, "train", images(0, most, 1))
    origin = describe_origin(train, most)
    assert origin["of"] == most
    assert check_origin(json.loads(json.dumps(origin))) == origin
    assert count_trained([origin], train) == pytest.approx(IMAGES, abs=5)
    assert "at least" in warn_trained([origin], train)[0]


def test_settings_of_the_extraction_are_compared_by_name(tmp_path):
    train = write(tmp_path / "a", "train", images(0, 4))
    (tmp_path / "a" / "extract.json").write_text(json.dumps({"settings": MADE}))
    origin = describe_origin(train, 12)
    assert origin["features"]["backbone"] == "net"  # no path of this computer
    new = {**MADE, "backbone": "other/net", "size": 384, "dtype": "float32", "boxes": "0a1b"}
    test = write(tmp_path / "b", "test", images(5, 9))
    assert other_features([origin], test) == []  # features of unknown settings
    (tmp_path / "b" / "extract.json").write_text(json.dumps({"settings": new}))
    differing = ["size=384 instead of 224", "boxes=a file instead of windows"]
    assert other_features([origin], test) == differing
    assert other_features([origin], train) == []
    assert other_features([describe_origin(test, 12), origin], train) == []  # the last training


def test_the_settings_are_those_that_the_command_records():
    assert set(SETTINGS) < set(extract.SETTINGS) and RECORD == plan.RECORD


@pytest.mark.parametrize(
    "damaged",
    ["text", None, {}, {"images": "%%%", "of": 1}, {"images": "AAA=", "of": 1}, {"images": ""},
     {"images": "", "of": "1"}, {"images": "", "of": 1, "features": []}],
)  # fmt: skip
def test_a_damaged_origin_is_refused(damaged):
    with pytest.raises(ValueError, match="what a matcher was trained on is damaged"):
        check_origin(damaged)


def test_a_data_module_describes_its_training(tmp_path):
    for name in ("train", "dev", "test"):
        write(tmp_path, name, images(0, 6))
    data = RegionDataModule(tmp_path, batch_size=2, min_count=1)
    data.setup()
    assert count_trained([data.origin()], data.test_split) == 6
