from dataclasses import replace

import numpy as np
import pytest

from itm.data.layout import read_split
from itm.data.pictures import Pictures, required_picture
from itm.scenes import write_scenes


def test_a_required_picture_is_read_or_asked_for(tmp_path):
    split = read_split(write_scenes(tmp_path, images=(2, 2, 2)), "test")
    drawn = required_picture(split, 1)
    assert np.array_equal(drawn, Pictures(split).full(split.ids[1]))
    elsewhere = replace(split, folder=tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"image={split.ids[1]} has no picture; give images="):
        required_picture(elsewhere, 1)
    drawn.save(tmp_path / f"{split.ids[0]}.png")
    with pytest.raises(ValueError, match=f"image={split.ids[1]} has no picture; give images="):
        required_picture(elsewhere, 1, tmp_path)
    assert required_picture(elsewhere, 0, tmp_path).size == drawn.size
