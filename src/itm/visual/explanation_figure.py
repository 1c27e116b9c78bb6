"""Draw explanations: attention on the picture, rankings, edges, labels."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from itm.data.boxes import fractions_of, in_pixels
from itm.data.layout import Split, name_of
from itm.matcher.explanation import Explanation
from itm.runs.escape import printable
from itm.text.word_lists import STOP_WORDS, is_word

if TYPE_CHECKING:
    from PIL.Image import Image

ACCENT, QUIET = "#f26b1d", "#8a9099"
WIDTH = 9  # inches
ACROSS = 4  # pictures in a row
TOP = 5  # boxes drawn for a ranking
ROUNDING = 0.01  # of boxes at the edge of a picture
PLAIN: dict[str, Any] = {"parse_math": False}  # show dollar signs in captions literally
SLANTED: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}


class Part(NamedTuple):
    """One row of a sheet: its title, its height in inches, and the function that draws it."""

    title: str
    height: float
    paint: Callable[[Any], None]


class Seen(NamedTuple):
    """A picture (height, width, 3) in 0 to 1, and the boxes (R, 4) of its regions as fractions."""

    pixels: np.ndarray
    boxes: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def corners(self) -> np.ndarray:
        """Return the boxes (R, 4) in pixels."""
        height, width = self.size
        return self.boxes * np.array([width, height, width, height])


def draw_explanation(
    explanation: Explanation, picture: Image | None = None, boxes: np.ndarray | None = None
) -> Figure:
    """Draw all parts of an explanation on one sheet.

    Args:
        explanation: from `itm.matcher.explain`.
        picture: picture of the image; without it, or without boxes, attention is drawn as a grid
            of regions by words.
        boxes: (R, 4) boxes of the regions, as fractions of width and height.

    Returns:
        A matplotlib figure; `itm.visual.save` writes it.

    Raises:
        ValueError: the boxes are not fractions.
    """
    explanation = explanation._replace(caption=printable(explanation.caption))
    details, tokens = explanation.details, [printable(token) for token in explanation.tokens]
    seen = None
    if picture is not None and boxes is not None:
        places = np.asarray(boxes, float)
        if places.size and not -ROUNDING <= places.min() <= places.max() <= 1 + ROUNDING:
            raise ValueError(
                "boxes must be fractions of width and height, from 0 to 1, got "
                f"{places.min():g} to {places.max():g}: divide pixels by the size of the picture"
            )
        seen = Seen(np.asarray(picture.convert("RGB")) / 255, places.clip(0, 1))
    parts: list[Part] = []
    for title, weights in details.attention.items():
        parts.append(words(weights, tokens, seen, title) if seen else grid(weights, tokens, title))
    for title, scores in details.regions.items():
        parts.append(ranking(scores, seen, title) if seen else bars(scores, None, title))
    for title, scores in details.words.items():
        parts.append(bars(scores, tokens, title))
    for title, edges in details.edges.items():
        parts.append(grid(edges, ["(whole)", *tokens], title, square=True))
    for title, names in details.names.items():
        parts.append(named(names, title))
    heights = [part.height for part in parts]
    caption = textwrap.fill(explanation.caption, 90)
    numbers = ", ".join(f"{name} {value:.3g}" for name, value in details.numbers.items())
    above = 0.35 + 0.2 * (caption.count("\n") + bool(numbers))
    figure = Figure(figsize=(WIDTH, sum(heights) + above), layout="constrained")
    title = f"{caption}   ({explanation.score:.3f})" + (f"\n{numbers}" if numbers else "")
    figure.suptitle(title, fontsize=12, **PLAIN)
    sheets = figure.subfigures(len(parts), 1, height_ratios=heights, squeeze=False)
    for sheet, part in zip(sheets[:, 0], parts, strict=True):
        sheet.suptitle(part.title, fontsize=10, color=QUIET, x=0.01, ha="left", **PLAIN)
        part.paint(sheet)
    return figure


def region_boxes(split: Split, row: int, picture: Image | None) -> np.ndarray | None:
    """Return the boxes (R, 4) of an image's regions as fractions of its picture, if both exist.

    Raises:
        ValueError: the boxes are not in the picture.
    """
    if split.boxes is None or picture is None:
        return None
    boxes = np.asarray(split.boxes[split.row[row]], np.float64)
    where = f"boxes of image {name_of(split, row)}"
    return fractions_of(boxes, picture.size, in_pixels(split.boxes), where)


# Parts of the sheet -------------------------------------------------------------------------------


def words(weights: np.ndarray, tokens: Sequence[str], seen: Seen, title: str) -> Part:
    """Draw the picture once per word, lit by the word's attention, and frame the best region."""
    shown = content(tokens)
    rows = -(-len(shown) // ACROSS)

    def paint(sheet: Any) -> None:
        panels = sheet.subplots(rows, ACROSS, squeeze=False).ravel()
        for axes in panels:
            axes.axis("off")
        for axes, token in zip(panels, shown, strict=False):
            column = weights[:, token]
            best = int(column.argmax())
            axes.imshow(seen.pixels * (0.35 + 0.65 * lit(column, seen)[..., None]))
            frame(axes, best, seen)
            axes.set_title(f"{tokens[token]}  {column[best]:.2f}", fontsize=10, **PLAIN)

    tall = WIDTH / ACROSS * seen.size[0] / seen.size[1] + 0.3
    return Part(title, 0.35 + rows * tall, paint)


def ranking(scores: np.ndarray, seen: Seen, title: str) -> Part:
    """Draw the picture with its best regions framed and numbered, and the scores of all regions."""
    real = [
        int(region) for region in np.argsort(-scores, kind="stable") if np.isfinite(scores[region])
    ]

    def paint(sheet: Any) -> None:
        left, right = sheet.subplots(1, 2, width_ratios=(3, 2))
        left.imshow(seen.pixels)
        left.axis("off")
        for place in range(min(TOP, len(real)), 0, -1):  # the best region on top
            frame(left, real[place - 1], seen, str(place), 1 - 0.75 * (place - 1) / TOP)
        colours = [ACCENT if place < TOP else QUIET for place in range(len(real))]
        right.barh(range(1, len(real) + 1), scores[real], color=colours)
        right.set(ylim=(len(real) + 0.5, 0.5), ylabel="rank of the region")
        right.spines[["top", "right"]].set_visible(False)

    return Part(title, 4.2, paint)


def grid(weights: np.ndarray, tokens: Sequence[str], title: str, square: bool = False) -> Part:
    """Draw a heat map of regions by tokens, or of tokens by tokens if `square`."""

    def paint(sheet: Any) -> None:
        axes = sheet.subplots()
        image = axes.imshow(weights, aspect="auto", cmap="magma", vmin=0)
        axes.set_xticks(range(len(tokens)), tokens, fontsize=9, **SLANTED, **PLAIN)
        if square:
            axes.set_yticks(range(len(tokens)), tokens, fontsize=9, **PLAIN)
        else:
            axes.set_ylabel("region")
        sheet.colorbar(image, ax=axes, fraction=0.03, pad=0.01)

    return Part(title, 1.3 + 0.22 * len(weights), paint)


def bars(scores: np.ndarray, tokens: Sequence[str] | None, title: str) -> Part:
    """Draw one bar for each token, or for each region without tokens."""

    def paint(sheet: Any) -> None:
        axes = sheet.subplots()
        axes.bar(range(len(scores)), np.where(np.isfinite(scores), scores, 0), color=ACCENT)
        if tokens is None:
            axes.set_xlabel("region")
        else:
            axes.set_xticks(range(len(tokens)), tokens, fontsize=9, **SLANTED, **PLAIN)
        axes.spines[["top", "right"]].set_visible(False)

    return Part(title, 2.2, paint)


def named(names: list[tuple[str, float, float]], title: str) -> Part:
    """Draw labels or concepts: one bar for the image, one for the sentence."""

    def paint(sheet: Any) -> None:
        axes, places = sheet.subplots(), np.arange(len(names))
        shown, image, sentence = zip(*names, strict=True)
        axes.barh(places - 0.2, image, 0.38, color=ACCENT, label="image")
        axes.barh(places + 0.2, sentence, 0.38, color=QUIET, label="sentence")
        axes.set_yticks(places, [*map(printable, shown)], fontsize=9, **PLAIN)
        axes.invert_yaxis()
        axes.legend(frameon=False, fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
        axes.spines[["top", "right"]].set_visible(False)

    return Part(title, 0.9 + 0.3 * len(names), paint)


# Pieces -------------------------------------------------------------------------------------------


def content(tokens: Sequence[str]) -> list[int]:
    """Find the content words; without any, all words; without words, all tokens."""
    real = [i for i, token in enumerate(tokens) if is_word(token.removeprefix("##"))]
    return [i for i in real if tokens[i] not in STOP_WORDS] or real or list(range(len(tokens)))


def lit(weights: np.ndarray, seen: Seen) -> np.ndarray:
    """Sum the attention on each pixel, scaled to at most 1: (height, width)."""
    light = np.zeros(seen.size)
    for weight, (x1, y1, x2, y2) in zip(weights, seen.corners, strict=True):
        light[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] += max(float(weight), 0)
    return light / (light.max() or 1)


def frame(axes: Axes, region: int, seen: Seen, name: str = "", strength: float = 1.0) -> None:
    """Draw the box of a region, with a name in its corner."""
    x1, y1, x2, y2 = seen.corners[region]
    box = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=ACCENT, linewidth=2.2)
    box.set_alpha(strength)
    axes.add_patch(box)
    if name:
        tag = {"facecolor": ACCENT, "edgecolor": "none", "pad": 1.5, "alpha": strength}
        axes.text(x1, y1, name, color="white", fontsize=9, va="top", bbox=tag)
