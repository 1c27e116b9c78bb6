"""Sample scenes: two to four groups of things, each in a different place.

Some scenes vary the previous scene in a single fact; these are the hard negatives of the corpus.
"""

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import NamedTuple

from itm.scenes.world import CATEGORIES, LIGHTS, SETTINGS, SIZES, ZONES, Box, Scene, Setting, Thing

MOST_THINGS = 6


class Group(NamedTuple):
    """A group before it is placed: a thing without a box, and the number of copies."""

    thing: Thing
    number: int


def draw_scenes(rng: Random, count: int, name: str, variation: float = 0.35) -> Iterator[Scene]:
    """Sample `count` scenes; with probability `variation`, change one fact of the last."""
    setting, light = "", ""
    groups: list[Group] = []
    for row in range(count):
        if groups and rng.random() < variation:
            light, groups = _vary(rng, setting, light, groups)
        else:
            setting, light = rng.choice(tuple(SETTINGS)), rng.choice(LIGHTS)
            groups = _draw_groups(rng, setting)
        yield Scene(f"{name}-{row:05d}", setting, light, _place(rng, SETTINGS[setting], groups))


def _draw_groups(rng: Random, setting: str) -> list[Group]:
    groups: list[Group] = []
    left = MOST_THINGS
    # no category twice in a scene, so that "a dog" is never ambiguous
    for category in rng.sample(SETTINGS[setting].categories, rng.choice((2, 3, 3, 4))):
        if left:
            groups.append(_draw_group(rng, category, left))
            left -= groups[-1].number
    return groups


def _draw_group(rng: Random, category: str, left: int) -> Group:
    facts = CATEGORIES[category]
    count = min(rng.choices((1, 2, 3, 4), (12, 6, 3, 1))[0], facts.most, left)
    colour, pattern = rng.choice(facts.colours), rng.choice(facts.patterns)
    size, pose = rng.choice(facts.sizes), rng.choice(facts.poses)
    return Group(Thing(0, category, colour, pattern, size, pose, False, (0, 0, 0, 0)), count)


def _vary(rng: Random, setting: str, light: str, groups: list[Group]) -> tuple[str, list[Group]]:
    """Change the light, or one attribute, the number or the category of one group."""
    while True:
        fact = rng.choice(("light", "category", "number", "colour", "colour", "pose", "size"))
        if fact == "light":
            return rng.choice([x for x in LIGHTS if x != light]), groups
        which = rng.randrange(len(groups))
        old = groups[which]
        left = MOST_THINGS - sum(g.number for g in groups) + old.number
        used = {g.thing.category for g in groups}
        unused = [c for c in SETTINGS[setting].categories if c not in used]
        category = rng.choice(unused) if fact == "category" else old.thing.category
        new = _draw_group(rng, category, left)
        if fact == "number":
            new = old._replace(number=new.number)
        elif fact != "category":
            new = old._replace(thing=replace(old.thing, **{fact: getattr(new.thing, fact)}))
        # not every fact of every thing can change: a man has only one size
        if new != old:
            return light, [*groups[:which], new, *groups[which + 1 :]]


def _place(rng: Random, setting: Setting, groups: list[Group]) -> tuple[Thing, ...]:
    """Give every thing a box; each group takes the least crowded of several random places."""
    placed: list[Thing] = []
    for index, group in enumerate(groups):
        tries = [_boxes(rng, setting, group) for _ in range(8)]
        taken = [thing.box for thing in placed]
        boxes = min(tries, key=lambda boxes: sum(_overlap(b, t) for b in boxes for t in taken))
        mirrored = rng.random() < 0.5
        placed += [replace(group.thing, group=index, mirrored=mirrored, box=b) for b in boxes]
    return tuple(placed)


def _boxes(rng: Random, setting: Setting, group: Group) -> list[Box]:
    """Place the boxes of a group side by side; nearer (lower) things are larger."""
    facts = CATEGORIES[group.thing.category]
    zone = ZONES.get(group.thing.pose, "land")
    top, bottom = {
        "air": (0.2, setting.horizon),
        "water": (setting.horizon + 0.06, setting.shore - 0.02),
        "land": (setting.shore + 0.1, 0.97),
    }[zone]
    near = rng.random()
    scale = SIZES[group.thing.size] * (0.85 + 0.3 * near) * (0.8 if zone == "water" else 1)
    width, height = facts.width * scale, facts.height * scale
    if group.thing.pose == "sleeping":
        height *= 0.65
    lift = 0.3 * height if group.thing.pose == "jumping" else 0.0
    step = min(1.12 * width, (0.98 - width) / max(group.number - 1, 1))
    left = rng.uniform(0.01, 0.99 - width - step * (group.number - 1))
    boxes = []
    for i in range(group.number):
        base = min(top + (bottom - top) * near + rng.uniform(-0.02, 0.02), 0.98) - lift
        x, base = left + i * step, max(base, height + 0.01)
        box = (x, base - height, x + width, base)
        boxes.append((round(box[0], 4), round(box[1], 4), round(box[2], 4), round(box[3], 4)))
    return boxes


def _overlap(a: Box, b: Box) -> float:
    """Compute the area of the intersection."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)
