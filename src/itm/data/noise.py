"""Make noisy correspondence: assign training captions to wrong images.

Two protocols are in use. Huang et al., NeurIPS 2021 (NCR) shuffle the images of single captions;
Qin et al., ACM MM 2022 (DECL) shuffle images with their whole block of captions.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from itm.data.array_file import load_array
from itm.data.layout import Split
from itm.utils.log_files import say


def with_noise(
    split: Split, ratio: float, file: str | Path | None, seed: int, by: str, size: int
) -> Split:
    """Assign captions of a split to wrong images, which labels, concepts and relevance then follow.

    Args:
        split: N images, M captions.
        ratio: see `shuffled_images`; 0 = none.
        file: see `read_noise`; None = none.
        seed: see `shuffled_images`.
        by: see there.
        size: see there.
    """
    if ratio:
        return replace(split, caption_image=shuffled_images(split, ratio, seed, by, size))
    if file is None:
        return split
    image = read_noise(file, split)
    say(describe_noise(image, split))
    return replace(split, caption_image=image)


def shuffled_images(
    split: Split, ratio: float, seed: int, by: str = "caption", size: int | None = None
) -> np.ndarray:
    """Shuffle the images of a share of the captions.

    Args:
        split: N images, M captions.
        ratio: share of the captions, or of the images.
        seed: seed of the shuffle.
        by: "caption" assigns each caption alone; "image" assigns all captions of an image to the
            same other image.
        size: number of captions, from the first one, among whose images the shuffle stays; None =
            all.

    Returns:
        (M,) image of each caption.
    """
    rng = np.random.default_rng((seed, 1))
    image, used = split.caption_image.copy(), split.caption_image[:size]
    units = np.unique(used) if by == "image" else used.copy()
    chosen = rng.permutation(len(units))[: int(len(units) * ratio)]
    units[chosen] = units[rng.permutation(chosen)]
    image[:size] = units[np.unique(used, return_inverse=True)[1]] if by == "image" else units
    return image


def read_noise(path: str | Path, split: Split) -> np.ndarray:
    """Read an index file of the papers on noisy correspondence: (M,) image of each caption.

    The .npy file holds integers: the image of each caption (M,), shuffled alone (NCR) or in whole
    blocks (L2RM); or the image that replaces each image (N,) (DECL). If a file (M,) holds numbers
    of N or more, they are rows of features that are stored once per caption.

    Args:
        path: the file.
        split: N images, M captions.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file holds other data, or belongs to another split.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no noise index at {path}")
    index = load_array(path)
    images, captions = split.num_images, len(split.captions)
    expected = (
        f"data.noise_file={path} must hold integers: the image of each of the {captions} captions, "
        f"or the image that replaces each of the {images} images of split {split.name}"
    )
    if index.ndim != 1 or index.dtype.kind not in "iu" or len(index) not in (images, captions):
        raise ValueError(
            f"{expected}; it is {index.shape} of {index.dtype} (fraction, limit and phrases change "
            "the numbers of captions and images that count)"
        )
    index = index.astype(np.int64)
    most = images if len(index) == images else captions
    if len(index) and (index.min() < 0 or index.max() >= most):
        raise ValueError(f"{expected}; its numbers are {index.min()} to {index.max()}")
    if len(index) == images:
        return index[split.caption_image]
    return split.caption_image[index] if index.max(initial=0) >= images else index


def describe_noise(image: np.ndarray, split: Split) -> str:
    """Say how many captions (M,) have a wrong image, and whether blocks were shuffled."""
    wrong = int((image != split.caption_image).sum())
    first = np.unique(split.caption_image, return_index=True)[1]
    blocks = bool(
        (
            image == image[first][np.searchsorted(split.caption_image[first], split.caption_image)]
        ).all()
    )
    kind = "images with all their captions" if blocks else "captions one by one"
    share = 100 * wrong / max(1, len(image))
    return f"noise: {wrong} of {len(image)} captions ({share:.1f} %) have another image, {kind}"
