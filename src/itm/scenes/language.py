"""Describe a scene by five captions, and their phrases with boxes.

Every caption is true but partial: one counts, one relates two groups, one gives the gist, one
describes an action, and one describes a single group in detail.
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from itm.scenes.words import (
    ADJECTIVES,
    KINDS,
    LIGHT_WORDS,
    NOUNS,
    NUMBERS,
    PLACES,
    RELATIONS,
    TIMES,
    VERBS,
)
from itm.scenes.world import Box, Scene, Thing, union


class NounPhrase(NamedTuple):
    """Words of a caption and the boxes of the things they refer to."""

    text: str
    type: str
    boxes: list[Box]


class Mention(NamedTuple):
    """A phrase and its position: words[start:stop] of the caption split at spaces."""

    phrase: NounPhrase
    start: int
    stop: int


Piece = str | NounPhrase
Things = list[Thing]


def captions(rng: Random, scene: Scene) -> list[tuple[str, list[Mention]]]:
    """Write five captions of a scene in random order, each with its phrases."""
    writers = [_count, _relate, _gist, _act, _look]
    rng.shuffle(writers)
    return [_sentence(write(rng, scene)) for write in writers]


def relations(a: Things, b: Things) -> list[str]:
    """List every relation that holds between two groups, judged by their boxes."""
    ax1, ay1, ax2, ay2 = union([t.box for t in a])
    bx1, by1, bx2, by2 = union([t.box for t in b])
    shared = min(ax2, bx2) - max(ax1, bx1)
    overlap = shared > 0.4 * min(ax2 - ax1, bx2 - bx1)
    level = abs(ay2 - by2) < 0.15
    grounded = all(t.zone == "land" for t in (*a, *b))
    holds = {
        "left": shared < 0.02 and ax1 < bx1,
        "right": shared < 0.02 and ax1 > bx1,
        "above": overlap and a[0].zone == "air" and ay2 < by1 + 0.02,
        "front": overlap and grounded and ay2 > by2 + 0.04,
        "behind": overlap and grounded and ay2 < by2 - 0.04,
        "near": level and -0.1 < shared < 0.02,
    }
    return [name for name, true in holds.items() if true]


def _count(rng: Random, scene: Scene) -> list[Piece]:
    """Say how many things there are, and where."""
    groups = _salient(rng, scene.groups, rng.choice((2, 2, 3)))
    named = [_name(rng, group, detail=0.3, exact=True) for group in groups]
    listed = named[0]
    for i, name in enumerate(named[1:], 2):
        listed = [*listed, "and" if i == len(named) else ",", *name]
    is_ = "is" if len(groups[0]) == 1 else "are"
    where = _where(rng, scene, [t for g in groups for t in g])
    return rng.choice(
        [
            [*listed, *where],
            ["there", is_, *listed, *where],
            [*where, "there", is_, *listed],
            [*listed, "can be seen", *where],
        ]
    )


def _relate(rng: Random, scene: Scene) -> list[Piece]:
    """Say where one group is relative to another."""
    groups = scene.groups
    found = [(a, b, name) for a in groups for b in groups for name in relations(a, b)]
    if not found:
        return _look(rng, scene)
    # left or right holds for most pairs, so prefer more specific relations
    weights = [1 if name in ("left", "right") else 3 for _, _, name in found]
    a, b, name = rng.choices(found, weights)[0]
    first, second = _name(rng, a, detail=0.6), _name(rng, b, detail=0.6)
    relation = rng.choice(RELATIONS[name])
    verb = rng.choice([[_is(a)], [_is(a)], [], [_verb(rng, a)]])
    if name in ("left", "right") and rng.random() < 0.3:
        side = rng.choice((f"on the {name}", f"on the {name} side"))
        other = {"left": "right", "right": "left"}[name]
        return [*first, side, "and", *second, f"on the {other}"]
    return [*first, *verb, relation, *second, *_sometimes(rng, 0.25, _where(rng, scene, b))]


def _gist(rng: Random, scene: Scene) -> list[Piece]:
    """Summarise the scene."""
    kinds: list[list[Piece]] = []
    for kind in ("people", "animals", "vehicles"):
        members = [t for t in scene.things if t.kind == kind]
        if members:
            words = KINDS[kind][min(len(members), 3) - 1]
            kinds.append([NounPhrase(rng.choice(words), kind, [t.box for t in members])])
    where, when = _where(rng, scene, scene.things), _when(rng, scene)
    day = [rng.choice(TIMES[scene.light]), *_where(rng, scene, ())]
    if not kinds:
        quiet = rng.choice(("nobody around", "no one in sight", "no people or animals"))
        return rng.choice([[*day, "with", quiet], ["a quiet scene", *when, "with", quiet]])
    if len(kinds) > 1 and rng.random() < 0.6:
        listed = [*kinds[0], "and", *kinds[1]]
    else:
        listed = rng.choice(kinds)
    return rng.choice(
        [
            [*listed, *rng.choice(([], ["out"], ["outside"])), *where, *when],
            [*day, "with", *listed],
            ["a picture of", *listed, *where],
            ["a scene with", *listed, *when],
        ]
    )


def _act(rng: Random, scene: Scene) -> list[Piece]:
    """Say what is happening."""
    a, *rest = _salient(rng, scene.groups, 2)
    first = [*_name(rng, a, detail=0.45), _verb(rng, a)]
    near = [g for g in scene.groups if "near" in relations(a, g)]
    choices = [[*first, *_where(rng, scene, a), *_sometimes(rng, 0.3, _when(rng, scene))]]
    if near:
        choices.append([*first, rng.choice(RELATIONS["near"]), *_name(rng, near[0], detail=0.4)])
    if rest and _moves(a) and _moves(rest[0]):
        second = [*_name(rng, rest[0], detail=0.3), _verb(rng, rest[0])]
        choices.append([*first, rng.choice(("while", "and", "as")), *second])
    return rng.choice(choices)


def _look(rng: Random, scene: Scene) -> list[Piece]:
    """Describe one group in full detail."""
    a, *rest = _salient(rng, scene.groups, 2)
    first = _name(rng, a, detail=0.9)
    view = rng.choice(("a photo of", "a view of", "a picture of", "a close look at"))
    choices = [
        [*first, *_where(rng, scene, a)],
        [view, *first, *_sometimes(rng, 0.4, _when(rng, scene))],
    ]
    if rest:
        choices.append([*first, rng.choice(("with", "and")), *_name(rng, rest[0], detail=0.5)])
    return rng.choice(choices)


def _name(rng: Random, group: Things, detail: float, exact: bool = False) -> list[Piece]:
    """Build a noun phrase: each attribute has probability `detail`; `exact` gives numbers."""
    thing, count = group[0], len(group)
    told = [a for a in (thing.size, thing.pattern, thing.colour) if rng.random() < detail]
    adjectives = [rng.choice(ADJECTIVES[a]) for a in told if a in ADJECTIVES]
    nouns = NOUNS[thing.category] + NOUNS.get(f"{thing.size} {thing.category}", ())
    noun = rng.choice(nouns)[count > 1]
    if thing.kind != "people":
        return [_phrase(rng, [*adjectives, noun], thing.kind, [t.box for t in group], exact)]
    person = _phrase(rng, [noun], "people", [t.box for t in group], exact)
    if not adjectives:
        return [person]
    garment = rng.choice(NOUNS[f"{thing.category} clothes"])[count > 1]
    words = " ".join([*adjectives, garment])
    worn = words if count > 1 else _article(words)
    verb = rng.choice(("in", "in", "wearing"))
    return [person, verb, NounPhrase(worn, "clothing", [t.clothes for t in group])]


def _phrase(rng: Random, words: list[str], kind: str, boxes: list[Box], exact: bool) -> NounPhrase:
    """Build a phrase of words with an article or a number in front."""
    text, count = " ".join(words), len(boxes)
    if count == 1:
        text = f"one {text}" if exact and rng.random() < 0.4 else _article(text)
        return NounPhrase(text, kind, boxes)
    numbers = NUMBERS[count][: 1 if exact else None]
    return NounPhrase(f"{rng.choice(numbers)} {text}", kind, boxes)


def _article(text: str) -> str:
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _where(rng: Random, scene: Scene, things: Sequence[Thing]) -> list[Piece]:
    """Name the place of things: air, water or land, or the whole place for several or none."""
    zones = {thing.zone for thing in things}
    zone = zones.pop() if len(zones) == 1 else "mixed"
    if zone == "air" and rng.random() < 0.5:
        return ["in", NounPhrase("the sky", "scene", [scene.backdrop["air"]])]
    places = PLACES[scene.setting]
    before, place, part = rng.choice(places.get(zone, places["land"]))
    before = rng.choice(("above", "over")) if zone == "air" else before
    return [before, NounPhrase(place, "scene", [scene.backdrop[part]])]


def _when(rng: Random, scene: Scene) -> list[Piece]:
    return [rng.choice(LIGHT_WORDS[scene.light])]


def _is(group: Things) -> str:
    return "is" if len(group) == 1 else "are"


def _verb(rng: Random, group: Things) -> str:
    """Choose a form of the verb: runs, run, is running, are running, running."""
    singular, plural, progressive = rng.choice(VERBS[group[0].pose])
    simple = singular if len(group) == 1 else plural
    return rng.choice((simple, f"{_is(group)} {progressive}"))


def _moves(group: Things) -> bool:
    """Tell whether the group can do more than stand there."""
    return group[0].kind in ("people", "animals") or group[0].zone != "land"


def _salient(rng: Random, groups: list[Things], count: int) -> list[Things]:
    """Choose up to `count` groups; people, animals, and large or many things come first."""
    interest = {"people": 4, "animals": 3, "vehicles": 2, "other": 1}

    def weight(group: Things) -> float:
        x1, y1, x2, y2 = union([t.box for t in group])
        return interest[group[0].kind] * (0.3 + ((x2 - x1) * (y2 - y1)) ** 0.5) * rng.random()

    return sorted(groups, key=weight, reverse=True)[:count]


def _sometimes(rng: Random, probability: float, pieces: list[Piece]) -> list[Piece]:
    return pieces if rng.random() < probability else []


def _sentence(pieces: list[Piece]) -> tuple[str, list[Mention]]:
    """Join the pieces, capitalise, end with a full stop, and locate each phrase's words."""
    words: list[str] = []
    mentions: list[Mention] = []
    for piece in pieces:
        text = piece.text if isinstance(piece, NounPhrase) else piece
        start = len(words)
        words += text.split()
        if isinstance(piece, NounPhrase):
            mentions.append(Mention(piece, start, len(words)))
    words[0] = words[0].capitalize()
    spoken = [
        m._replace(phrase=m.phrase._replace(text=" ".join(words[m.start : m.stop])))
        for m in mentions
    ]
    return " ".join([*words, "."]), spoken
