"""The split that a command scores is that of the training's test, caption by caption."""

import numpy as np
import pytest

from itm.app.config import compose
from itm.app.splits import find_split
from itm.data import RegionDataModule
from itm.data.layout import read_split

COUNTS = (5, 7, 6, 5)  # captions of each image, as COCO has them


@pytest.fixture
def coco(tmp_path):
    """A folder in which some images have more than five captions."""
    rng = np.random.default_rng(0)
    for name in ("train", "dev", "testall"):
        np.save(tmp_path / f"{name}_ims.npy", rng.random((len(COUNTS), 2, 4), np.float32))
        lines = [f"{name} {i} {k}\n" for i, n in enumerate(COUNTS) for k in range(n)]
        (tmp_path / f"{name}_caps.txt").write_text("".join(lines))
        (tmp_path / f"{name}_ids.txt").write_text(
            "".join(f"{i}\n" for i, n in enumerate(COUNTS) for _ in range(n))
        )
    return tmp_path


def found(root, *options):
    options = ["similarity=a.npy", "data=coco", f"data.root={root}", *options]
    return find_split(compose(options, "evaluate"))


def test_a_cut_split_has_the_captions_of_the_training_s_test(coco):
    """With data.limit both score by protocol full, but the command had left captions out."""
    split = found(coco, "data.limit=3")
    module = RegionDataModule(coco, test="testall", protocol="coco_1k", limit=3)
    assert (split.protocol, split.captions) == ("full", module.test_split.captions)
    assert len(split.captions) == sum(COUNTS[:3])


@pytest.mark.parametrize("name", ["train", "dev"])
def test_another_split_is_read_as_a_whole(coco, name):
    split = found(coco, f"data.split={name}")
    assert (split.protocol, split.captions) == ("full", read_split(coco, name).captions)


def test_the_protocol_that_is_asked_for_decides_on_the_captions(coco):
    whole = found(coco, "protocol=full")
    assert whole.captions == found(coco, "data.protocol=full").captions
    five = found(coco, "protocol=coco_5k", "data.protocol=full")
    assert len(five.captions) == 5 * len(COUNTS)
    assert five.captions == found(coco).captions
