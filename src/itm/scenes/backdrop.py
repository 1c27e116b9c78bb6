"""Draw the backdrop of a scene: sky, light, land and water."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from itm.scenes.world import SETTINGS, Scene

if TYPE_CHECKING:
    from PIL.Image import Image

Colour = tuple[int, int, int]

LAND: dict[str, Colour] = {
    "beach": (236, 214, 160),
    "park": (122, 184, 92),
    "street": (128, 130, 136),
    "field": (168, 190, 88),
    "snow": (236, 242, 248),
    "desert": (226, 178, 110),
    "lake": (142, 172, 98),
    "garden": (104, 170, 84),
}
WATER: Colour = (72, 148, 196)
SKY: dict[str, tuple[Colour, Colour]] = {  # top, horizon
    "sunny": ((96, 176, 240), (206, 234, 250)),
    "cloudy": ((152, 164, 178), (210, 216, 222)),
    "sunset": ((116, 92, 160), (252, 172, 104)),
    "night": ((14, 20, 54), (50, 62, 112)),
}
# effect of the light on the backdrop; things keep their colours, because captions name them
TINT = {
    "sunny": (1.0, 1.0, 1.0),
    "cloudy": (0.86, 0.88, 0.92),
    "sunset": (0.98, 0.84, 0.76),
    "night": (0.5, 0.55, 0.74),
}


def draw_backdrop(canvas: Image, scene: Scene) -> None:
    """Draw the backdrop, which is always the same for a given scene."""
    from PIL import ImageDraw  # late: Pillow is optional

    draw = ImageDraw.Draw(canvas)
    rng = Random(scene.id)
    width, height = canvas.size
    horizon, shore, _ = SETTINGS[scene.setting]
    (top, low), light = SKY[scene.light], TINT[scene.light]
    for row in range(int(horizon * height) + 1):
        mix = row / (horizon * height)
        blend = (round(a + mix * (b - a)) for a, b in zip(top, low, strict=True))
        draw.line((0, row, width, row), tuple(blend))
    _draw_sky(draw, scene.light, rng, width, height)

    def tint(colour: Colour, shade: float = 1.0) -> Colour:
        r, g, b = (min(255, round(shade * c * t)) for c, t in zip(colour, light, strict=True))
        return r, g, b

    def box(x1: float, y1: float, x2: float, y2: float, colour: Colour, form: str = "box") -> None:
        corners = (x1 * width, y1 * height, x2 * width, y2 * height)
        (draw.ellipse if form == "oval" else draw.rectangle)(corners, fill=colour)

    land = LAND[scene.setting]
    if scene.setting in ("field", "snow", "desert", "lake"):
        for x in (-0.2, 0.25, 0.65):  # hills on the horizon
            rise = rng.uniform(0.05, 0.12)
            box(x, horizon - rise, x + 0.6, horizon + rise, tint(land, 0.88), "oval")
    if scene.setting == "park":
        for i in range(12):  # bushes
            rise = rng.uniform(0.03, 0.08)
            box(
                i / 11 - 0.08,
                horizon - rise,
                i / 11 + 0.08,
                horizon + rise,
                tint(land, 0.7),
                "oval",
            )
    if scene.setting == "street":
        for i in range(12):  # the skyline
            rise = rng.uniform(0.06, 0.24)
            box(i / 12, horizon - rise, (i + 1) / 12, horizon, tint((150, 146, 158), 0.7 + rise))
    box(0, horizon, 1, 1, tint(land))
    if shore > horizon:
        box(0, horizon, 1, shore, tint(WATER))
        for _ in range(26):
            x, y = rng.random(), rng.uniform(horizon + 0.01, shore - 0.02)
            box(x, y, x + 0.06, y + 0.005, tint(WATER, 1.2))
    if scene.setting == "street":
        box(0, horizon, 1, horizon + 0.06, tint((188, 186, 180)))
        for i in range(8):
            box(i / 7.4, 0.76, i / 7.4 + 0.07, 0.775, tint((240, 236, 220)))
    elif scene.setting == "garden":
        for i in range(25):  # a fence
            box(i / 25, horizon - 0.07, i / 25 + 0.026, horizon + 0.02, tint((240, 236, 228)))
        box(0, horizon - 0.045, 1, horizon - 0.03, tint((228, 222, 212)))
    else:
        for _ in range(45):  # tufts, pebbles, drifts
            x, y = rng.random(), rng.uniform(shore + 0.02, 1)
            long = 0.006 + 0.03 * (y - shore)
            box(x, y, x + long, y + 0.006, tint(land, rng.choice((0.86, 0.93, 1.06))), "oval")


def _draw_sky(draw: Any, light: str, rng: Random, width: int, height: int) -> None:
    """Draw the sun, clouds, or moon and stars."""

    def disc(x: float, y: float, radius: float, colour: Colour, stretch: float = 1.0) -> None:
        r = radius * height
        cx, cy = x * width, y * height
        draw.ellipse((cx - stretch * r, cy - r, cx + stretch * r, cy + r), fill=colour)

    where = rng.uniform(0.12, 0.88)
    if light == "night":
        for _ in range(40):
            disc(rng.random(), rng.uniform(0, 0.34), rng.choice((0.002, 0.0035)), (240, 240, 220))
        disc(where, 0.11, 0.055, (246, 242, 214))
        disc(where + 0.022, 0.1, 0.047, (20, 27, 64))
    elif light == "sunset":
        disc(where, 0.3, 0.08, (255, 224, 150))
    elif light == "sunny":
        disc(where, 0.12, 0.06, (255, 232, 92))
    shade = {"sunny": (252, 252, 252), "cloudy": (232, 236, 240)}.get(light)
    for _ in range({"sunny": 2, "cloudy": 6}.get(light, 0)):
        x, y = rng.random(), rng.uniform(0.05, 0.24)
        for dx, dy, r in ((-0.05, 0.01, 0.026), (0.0, 0.0, 0.04), (0.05, 0.012, 0.028)):
            disc(x + dx, y + dy, r, shade or (0, 0, 0), 1.5)
