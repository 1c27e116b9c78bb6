"""Lines about the splits of a data module."""

from types import SimpleNamespace

import numpy as np

from itm.data.split import describe


def test_one_image_to_find_is_told():
    one = SimpleNamespace(
        name="dev", num_images=1, captions=["a"], regions=2, width=3, features=np.zeros((1, 2, 3))
    )
    two = SimpleNamespace(**{**vars(one), "name": "test", "num_images": 2})
    text = describe({"train": one, "val": one, "test": two})
    assert text.count("warning") == 1
    assert "warning: dev has one image, so every recall on it is 100 by construction\n" in text
