"""Draw localised phrases as boxes on the picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from itm.data.boxes import in_pixels
from itm.phrases.split import PhraseSplit, region_fractions
from itm.runs.escape import for_figure

if TYPE_CHECKING:
    from PIL.Image import Image

COLOURS = ("#f26b1d", "#2a62d6", "#d62a8a", "#16a34a", "#7c3aed", "#0891b2", "#ca8a04", "#64748b")


def draw_phrases(
    picture: Image, phrases: Sequence[str], found: np.ndarray, truth: np.ndarray | None = None
) -> Figure:
    """Draw the picture with one box for each phrase, each in a different colour.

    Args:
        picture: picture of the image.
        phrases: n phrases.
        found: (n, 4) predicted boxes as fractions of width and height, drawn solid.
        truth: (n, 4) true boxes, drawn dotted.

    Returns:
        A matplotlib figure; `itm.visual.save` writes it.
    """
    width, height = picture.size
    figure = Figure(figsize=(6, 6 * height / width), layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.asarray(picture.convert("RGB")))
    axes.axis("off")
    scale = np.array([width, height, width, height])
    handles = []
    for i in range(len(phrases)):
        colour = COLOURS[i % len(COLOURS)]
        handles.append(Line2D([], [], color=colour, linewidth=3))
        for boxes, style in ((found, "-"), (truth, ":")):
            if boxes is not None:
                x1, y1, x2, y2 = np.asarray(boxes[i], float).clip(0, 1) * scale
                box = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour)
                box.set(linewidth=2.5, linestyle=style)
                axes.add_patch(box)
    # The legend is below the picture, so that no phrase hides its region.
    labels = [for_figure(phrase) for phrase in phrases]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw_image(picture: Image, split: PhraseSplit, scores: np.ndarray, image: int) -> Figure:
    """Draw the phrases of an image's sentence, or its first phrases if they have no sentence.

    Args:
        picture: picture of the image.
        split: M phrases.
        scores: (M, R) from `itm.phrases.localisation.region_scores`.
        image: row of the image; the sentence with the most phrases is drawn.

    Raises:
        ValueError: the image has no phrase, or its boxes are not in the picture.
    """
    own = np.flatnonzero(split.caption_image == image)
    if not len(own):
        raise ValueError(f"no phrase belongs to image {image}")
    sentence, _ = Counter(split.phrases[row].caption for row in own).most_common(1)[0]
    rows = [row for row in own if split.phrases[row].caption == sentence][: len(COLOURS)]
    assert split.boxes is not None
    found = region_fractions(split, image, picture.size)[scores[rows].argmax(1)]
    truth = np.array([split.phrases[row].box for row in rows])
    units = np.array([*picture.size, *picture.size]) if in_pixels(split.boxes) else 1
    return draw_phrases(picture, [split.captions[row] for row in rows], found, truth / units)
