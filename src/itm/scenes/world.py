"""Define what a scene can contain: the facts of a small world.

A scene is a setting (beach, street, ...), a light (sunny, night, ...) and groups of equal things.
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 as fractions of width and height; y points down."""

LIGHTS = ("sunny", "cloudy", "sunset", "night")
SIZES = {"small": 0.72, "medium": 1.0, "large": 1.35}
ZONES = {"flying": "air", "floating": "air", "sailing": "water", "swimming": "water"}

BRIGHT = ("red", "blue", "green", "yellow", "orange", "purple", "pink", "white")
CLOTHES = ("red", "blue", "green", "yellow", "orange", "purple", "black", "white")
PAINT = ("red", "blue", "green", "yellow", "orange", "white", "black", "grey")
FUR = ("brown", "black", "white", "grey")
MOVES = ("standing", "running", "jumping")


class Category(NamedTuple):
    """Possible facts about a category; width and height are fractions of the picture."""

    kind: str
    width: float
    height: float
    colours: tuple[str, ...]
    patterns: tuple[str, ...]
    poses: tuple[str, ...]
    sizes: tuple[str, ...] = tuple(SIZES)
    most: int = 4


PERSON = (CLOTHES, ("plain", "plain", "striped"), (*MOVES, "waving"), ("medium",))
COAT = ("plain", "plain", "spotted")
PRINT = ("plain", "striped", "spotted")
PLAIN = ("plain",)
SMALL = ("small", "medium")

CATEGORIES = {
    "man": Category("people", 0.11, 0.38, *PERSON),
    "woman": Category("people", 0.11, 0.36, *PERSON),
    "boy": Category("people", 0.085, 0.26, *PERSON),
    "girl": Category("people", 0.085, 0.26, *PERSON),
    "dog": Category("animals", 0.15, 0.15, FUR, COAT, (*MOVES, "sleeping")),
    "cat": Category("animals", 0.12, 0.14, (*FUR, "orange"), PRINT, (*MOVES, "sleeping")),
    "horse": Category("animals", 0.2, 0.27, FUR, COAT, MOVES),
    "cow": Category("animals", 0.2, 0.21, FUR, COAT, ("standing", "sleeping")),
    "sheep": Category("animals", 0.15, 0.15, ("white", "black", "grey"), PLAIN, MOVES),
    "bird": Category("animals", 0.1, 0.09, BRIGHT, PLAIN, ("flying", "standing"), SMALL),
    "duck": Category(
        "animals", 0.1, 0.1, ("white", "brown", "yellow"), PLAIN, ("swimming",), SMALL
    ),
    "car": Category("vehicles", 0.22, 0.15, PAINT, PLAIN, ("parked", "driving")),
    "bus": Category("vehicles", 0.3, 0.24, PAINT, PLAIN, ("parked", "driving"), most=2),
    "bicycle": Category("vehicles", 0.17, 0.17, PAINT, PLAIN, ("parked",), ("medium",)),
    "boat": Category("vehicles", 0.18, 0.24, BRIGHT, ("plain", "striped"), ("sailing",)),
    "ball": Category("other", 0.07, 0.093, BRIGHT, PRINT, ("lying",)),
    "kite": Category("other", 0.1, 0.16, BRIGHT, PRINT, ("flying",)),
    "balloon": Category("other", 0.08, 0.17, BRIGHT, PRINT, ("floating",)),
    "umbrella": Category("other", 0.17, 0.23, BRIGHT, PRINT, ("open",)),
    "bench": Category("other", 0.2, 0.12, ("brown", "green", "white"), PLAIN, ("empty",), most=2),
    "tree": Category("other", 0.17, 0.4, ("green", "orange", "pink"), PLAIN, ("growing",)),
    "house": Category("other", 0.24, 0.34, PAINT[:6], PLAIN, ("built",), most=2),
    "tent": Category("other", 0.2, 0.19, BRIGHT, PRINT, ("pitched",), most=3),
    "flower": Category("other", 0.06, 0.14, BRIGHT, PLAIN, ("growing",)),
}


class Setting(NamedTuple):
    """A backdrop: sky down to `horizon`, land from `shore` downwards, water in between."""

    horizon: float
    shore: float
    categories: tuple[str, ...]


PEOPLE = ("man", "woman", "boy", "girl")
SETTINGS = {
    "beach": Setting(
        0.36, 0.52, (*PEOPLE, "dog", "bird", "boat", "ball", "kite", "umbrella", "tent")
    ),
    "park": Setting(
        0.42, 0.42, (*PEOPLE, "dog", "bird", "bicycle", "ball", "kite", "balloon", "bench", "tree")
    ),
    "street": Setting(
        0.45, 0.45, (*PEOPLE, "dog", "cat", "car", "bus", "bicycle", "balloon", "house", "tree")
    ),
    "field": Setting(
        0.4, 0.4, ("man", "woman", "dog", "horse", "cow", "sheep", "bird", "house", "tree", "kite")
    ),
    "snow": Setting(0.44, 0.44, (*PEOPLE, "dog", "horse", "bird", "car", "house", "tree", "ball")),
    "desert": Setting(
        0.46, 0.46, ("man", "woman", "dog", "horse", "bird", "car", "bus", "balloon", "tent")
    ),
    "lake": Setting(
        0.36, 0.66, (*PEOPLE, "dog", "duck", "bird", "boat", "bench", "tent", "umbrella")
    ),
    "garden": Setting(
        0.38, 0.38, (*PEOPLE, "cat", "dog", "bird", "ball", "balloon", "bench", "flower", "tree")
    ),
}


@dataclass(frozen=True)
class Thing:
    """A thing in a scene; things of the same `group` differ only in their boxes.

    Examples:
        >>> from itm.scenes import load_scenes, write_scenes
        >>> thing = load_scenes(write_scenes(images=(8, 4, 4)), "test")[0].things[0]
        >>> len(thing.box)
        4
    """

    group: int
    category: str
    colour: str
    pattern: str
    size: str
    pose: str
    mirrored: bool
    box: Box

    @property
    def kind(self) -> str:
        """Return the kind: people, animals, vehicles or other."""
        return CATEGORIES[self.category].kind

    @property
    def zone(self) -> str:
        """Return where the thing is: air, water or land."""
        return ZONES.get(self.pose, "land")

    @property
    def clothes(self) -> Box:
        """Return the box of a person's clothes."""
        x1, y1, x2, y2 = self.box
        w, h = x2 - x1, y2 - y1
        return (x1 + 0.15 * w, y1 + 0.24 * h, x2 - 0.15 * w, y1 + 0.68 * h)


@dataclass(frozen=True)
class Scene:
    """All facts about one image; captions describe its `groups`.

    Examples:
        >>> from itm.scenes import load_scenes, write_scenes
        >>> scene = load_scenes(write_scenes(images=(8, 4, 4)), "test")[0]
        >>> scene.id
        'test-0-00000'
    """

    id: str
    setting: str
    light: str
    things: tuple[Thing, ...]

    @property
    def groups(self) -> list[list[Thing]]:
        """Return the things group by group."""
        last = max(thing.group for thing in self.things)
        return [[t for t in self.things if t.group == g] for g in range(last + 1)]

    @property
    def backdrop(self) -> dict[str, Box]:
        """Return the boxes of the sky, the land and, if there is any, the water."""
        horizon, shore, _ = SETTINGS[self.setting]
        boxes = {"air": (0.0, 0.0, 1.0, horizon), "land": (0.0, shore, 1.0, 1.0)}
        return boxes | ({"water": (0.0, horizon, 1.0, shore)} if shore > horizon else {})

    def to_dict(self) -> dict[str, Any]:
        """Return the scene as data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Scene":
        """Rebuild a scene from `to_dict`."""
        things = tuple(Thing(**{**t, "box": tuple(t["box"])}) for t in values["things"])
        return cls(**{**values, "things": things})


def union(boxes: list[Box]) -> Box:
    """Compute the smallest box around all boxes."""
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)
