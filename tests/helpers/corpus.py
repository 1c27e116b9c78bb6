"""A small data folder in the SCAN layout."""

from __future__ import annotations

from zlib import crc32

import numpy as np


def write(
    root, name="train", images=6, per_image=5, repeat=1, dtype=np.float32, shape=(3, 4), ids=None
):
    root.mkdir(exist_ok=True)
    rng = np.random.default_rng(crc32(name.encode()))
    features = rng.normal(size=(images, *shape)).astype(dtype).repeat(repeat, 0)
    np.save(root / f"{name}_ims.npy", features)
    lines = [f"image {i} caption {k} a dog" for i in range(images) for k in range(per_image)]
    (root / f"{name}_caps.txt").write_text("\n".join(lines) + "\n")
    if ids is not None:
        (root / f"{name}_ids.txt").write_text("\n".join(map(str, ids)) + "\n")
    return features
