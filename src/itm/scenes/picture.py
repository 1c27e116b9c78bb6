"""Draw the picture of a scene with Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from itm.scenes.backdrop import Colour, draw_backdrop
from itm.scenes.glyphs import GLYPHS, Shape
from itm.scenes.world import Scene, Thing

if TYPE_CHECKING:
    from PIL.Image import Image

COLOURS: dict[str, Colour] = {
    "red": (214, 48, 49),
    "blue": (41, 98, 214),
    "green": (46, 148, 72),
    "yellow": (250, 208, 44),
    "orange": (240, 132, 32),
    "purple": (132, 66, 178),
    "pink": (244, 132, 176),
    "white": (246, 246, 242),
    "black": (44, 44, 50),
    "grey": (138, 142, 150),
    "brown": (134, 84, 46),
    "skin": (238, 190, 154),
    "hair": (72, 44, 30),
    "blond": (222, 176, 84),
    "navy": (84, 104, 160),
    "ink": (34, 34, 40),
    "paper": (250, 250, 246),
    "pinkish": (236, 168, 168),
    "gold": (248, 172, 36),
    "glass": (186, 222, 238),
    "steel": (196, 200, 206),
    "wood": (122, 82, 50),
    "roof": (120, 66, 58),
    "leaf": (64, 140, 66),
    "shine": (255, 255, 255),
}
SMOOTH = 3  # draw larger by this factor and reduce, for smooth edges


def render(
    scene: Scene, path: str | Path | None = None, size: tuple[int, int] = (480, 360)
) -> Image:
    """Draw a scene.

    Args:
        scene: scene to draw.
        path: file to save the picture to; its ending sets the format.
        size: width and height in pixels; boxes are fractions of these.

    Returns:
        A `PIL.Image.Image`, RGB.

    Raises:
        ImportError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("drawing scenes needs Pillow: pip install pillow") from error

    canvas = Image.new("RGB", (SMOOTH * size[0], SMOOTH * size[1]))
    draw_backdrop(canvas, scene)
    for thing in sorted(scene.things, key=lambda t: (t.zone == "land", t.box[3])):
        _draw_thing(canvas, thing)
    picture = canvas.resize(size, Image.Resampling.LANCZOS)
    if path is not None:
        picture.save(path)
    return picture


def _draw_thing(canvas: Image, thing: Thing) -> None:
    from PIL import Image, ImageDraw, ImageOps  # late: Pillow is optional

    x1, y1, x2, y2 = (round(v * canvas.size[i % 2]) for i, v in enumerate(thing.box))
    tile = Image.new("RGBA", (max(x2 - x1, 2), max(y2 - y1, 2)))
    cloth = _cloth(thing, tile.size)
    for shape in GLYPHS[thing.category]:
        mask = Image.new("L", tile.size)
        _draw_shape(ImageDraw.Draw(mask), shape, tile.size)
        tile.paste(cloth if shape[1] == "main" else _shade(shape[1], thing), (0, 0), mask)
    if thing.mirrored:
        tile = ImageOps.mirror(tile)
    draw = ImageDraw.Draw(canvas)
    _draw_pose(draw, thing, (x1, y1, x2, y2))
    canvas.paste(tile, (x1, y1), tile)


def _draw_shape(draw: Any, shape: Shape, size: tuple[int, int]) -> None:
    form, _, numbers = shape
    thick, numbers = (numbers[0], numbers[1:]) if form == "line" else (0.0, numbers)
    points = [(x * size[0], y * size[1]) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
    if form == "line":
        draw.line(points, fill=255, width=max(1, round(thick * min(size))), joint="curve")
    elif form == "poly":
        draw.polygon(points, fill=255)
    elif form == "oval":
        draw.ellipse([*points[0], *points[1]], fill=255)
    else:
        draw.rectangle([*points[0], *points[1]], fill=255)


def _shade(name: str, thing: Thing) -> Colour:
    """Return a fixed colour, or for `deep` a darker shade of the thing's (lighter for black)."""
    if name != "deep":
        return COLOURS[name]
    factor = 1.8 if thing.colour == "black" else 0.74
    r, g, b = (min(255, round(factor * c)) for c in COLOURS[thing.colour])
    return r, g, b


def _cloth(thing: Thing, size: tuple[int, int]) -> Image:
    """Draw the thing's colour with its pattern."""
    from PIL import Image, ImageDraw  # late: Pillow is optional

    cloth = Image.new("RGB", size, COLOURS[thing.colour])
    draw = ImageDraw.Draw(cloth)
    mark = COLOURS["black" if thing.colour in ("white", "yellow") else "white"]
    step = max(4, min(size) // 5)
    if thing.pattern == "striped":
        for y in range(0, size[1], step):
            draw.rectangle((0, y, size[0], y + step * 0.4), fill=mark)
    elif thing.pattern == "spotted":
        for i, y in enumerate(range(0, size[1], step)):
            for x in range(-(i % 2) * step // 2, size[0], step):
                draw.ellipse((x, y, x + step * 0.55, y + step * 0.55), fill=mark)
    return cloth


def _draw_pose(draw: Any, thing: Thing, box: tuple[int, int, int, int]) -> None:
    """Draw speed lines (run, drive), a jump's shadow, a waving arm, or the Zs of sleep."""
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1

    def at(*unit: float) -> list[tuple[float, float]]:
        """Convert points in the unit box of a thing that faces right to pixels."""
        side, step = (x2, -w) if thing.mirrored else (x1, w)
        return [(side + step * x, y1 + h * y) for x, y in zip(unit[::2], unit[1::2], strict=True)]

    def mark(points: list[tuple[float, float]]) -> None:
        """Draw a white line with a dark edge, visible on snow and at night."""
        thick = max(2, h // 36)
        draw.line(points, fill=COLOURS["steel"], width=2 * thick, joint="curve")
        draw.line(points, fill=COLOURS["paper"], width=thick, joint="curve")

    if thing.pose in ("running", "driving"):
        near, far = -0.06 * h / w, -0.24 * h / w
        for y in (0.3, 0.5, 0.7):
            mark(at(near, y, far, y))
    elif thing.pose == "jumping":
        ground = y2 + 0.28 * h
        draw.ellipse((x1 + 0.1 * w, ground, x2 - 0.1 * w, ground + 0.05 * h + 6), fill=(90, 96, 90))
    elif thing.pose == "waving":
        arm = at(0.5, 0.3, 0.9, 0.2, 1.0, 0.02)
        draw.line(arm, fill=COLOURS["skin"], width=max(2, round(0.1 * w)), joint="curve")
    elif thing.pose == "sleeping":
        for size, (x, y) in zip((0.11, 0.16), at(0.85, -0.3, 1.0, -0.8), strict=True):
            z = size * w
            mark([(x, y), (x + z, y), (x, y + z), (x + z, y + z)])
