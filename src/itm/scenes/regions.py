"""Simulate a detector: boxes of a scene, and one vector for each.

A vector is the weighted sum of fixed random code vectors, one for each fact about the box
(category, colour, place, ...), plus noise. The code vectors depend only on the fact's name and the
width, so corpora of different seeds share the same feature space.
"""

from functools import cache
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from itm.scenes.world import Box, Scene, Thing, union

Array = NDArray[np.float32]
Facts = dict[str, float]
"""Strength of every fact about a box."""


@cache
def code(name: str, width: int) -> Array:
    """Draw the code vector of a fact, (F,), standard normal."""
    rng = np.random.default_rng([crc32(name.encode()), width])
    return rng.standard_normal(width, dtype=np.float32)


def detect(
    rng: np.random.Generator, scene: Scene, regions: int, width: int, noise: float
) -> tuple[Array, Array]:
    """Detect `regions` boxes in a scene, in random order.

    Things have priority, then whole groups, backdrop and parts; random boxes fill the rest.

    Returns:
        Vectors (R, F) and boxes (R, 4) as fractions of the picture.
    """
    seen = _candidates(scene)
    while len(seen) < regions:
        seen.append(_distraction(rng, scene))
    seen = [seen[i] for i in rng.permutation(regions)]
    boxes = np.array([box for box, _ in seen], np.float32)
    # a detector's boxes are slightly inexact
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    boxes = np.clip(boxes + 0.05 * sides * rng.standard_normal(boxes.shape), 0, 1)
    vectors = np.stack(
        [_vector(facts, box, width) for (_, facts), box in zip(seen, boxes, strict=True)]
    )
    vectors += noise * rng.standard_normal(vectors.shape, dtype=np.float32)
    return vectors, boxes.astype(np.float32)


def _candidates(scene: Scene) -> list[tuple[Box, Facts]]:
    """List the boxes and facts of everything in the scene, most important first."""
    things = [(t.box, _thing(t)) for t in scene.things]
    several = [g for g in scene.groups if len(g) > 1]
    groups = [
        (union([t.box for t in g]), _weaken(_thing(g[0]), 0.7) | {f"{len(g)} of a kind": 1.0})
        for g in several
    ]
    backdrop = [
        (box, {f"{scene.setting} {zone}": 1.0, f"{scene.light} {zone}": 0.8})
        for zone, box in scene.backdrop.items()
    ]
    worn = [
        (union([t.clothes for t in g]), {"garment": 1.0, g[0].colour: 1.0, g[0].pattern: 0.7})
        for g in scene.groups
        if g[0].kind == "people"
    ]
    return things + groups + backdrop + worn


def _thing(thing: Thing) -> Facts:
    return {
        thing.category: 1.2,
        thing.kind: 0.5,
        thing.colour: 0.9,
        thing.pattern: 0.7,
        thing.size: 0.5,
        thing.pose: 0.7,
    }


def _distraction(rng: np.random.Generator, scene: Scene) -> tuple[Box, Facts]:
    """Draw a random box with a weak mixture of one thing and the land around it."""
    w, h = rng.uniform(0.1, 0.4, 2)
    x, y = rng.uniform(0, 1 - w), rng.uniform(0, 1 - h)
    thing = scene.things[rng.integers(len(scene.things))]
    facts = _weaken(_thing(thing), float(rng.uniform(0, 0.5)))
    return (x, y, x + w, y + h), facts | {f"{scene.setting} land": 0.5, "clutter": 1.0}


def _weaken(facts: Facts, factor: float) -> Facts:
    return {name: factor * strength for name, strength in facts.items()}


def _vector(facts: Facts, box: Array, width: int) -> Array:
    x1, y1, x2, y2 = (float(v) for v in box)
    place = {"x": x1 + x2 - 1, "y": y1 + y2 - 1, "width": x2 - x1, "height": y2 - y1}
    total = np.zeros(width, np.float32)
    for name, strength in (facts | place).items():
        total += np.float32(strength) * code(name, width)
    return total
