"""Test the generated corpus: its files, and that its captions are true."""

import filecmp
import inspect
import json
import re
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest

from itm.scenes import (
    cache_root,
    load_phrases,
    load_scenes,
    render,
    scenes_folder,
    write_scenes,
)
from itm.scenes.corpus import VERSION

IMAGES = (60, 40, 80)
SPLITS = dict(zip(("train", "dev", "test"), IMAGES, strict=True))

# a reader of captions of its own: it knows English words, and nothing of how captions are made
NOUNS = {
    "man": "man men guy guys",
    "woman": "woman women lady ladies",
    "boy": "boy boys",
    "girl": "girl girls",
    "dog": "dog dogs puppy puppies",
    "cat": "cat cats kitten kittens",
    "horse": "horse horses pony ponies",
    "cow": "cow cows calf calves",
    "sheep": "sheep lamb lambs",
    "bird": "bird birds",
    "duck": "duck ducks duckling ducklings",
    "car": "car cars",
    "bus": "bus buses coach coaches",
    "bicycle": "bicycle bicycles bike bikes",
    "boat": "boat boats sailboat sailboats ship ships",
    "ball": "ball balls",
    "kite": "kite kites",
    "balloon": "balloon balloons",
    "umbrella": "umbrella umbrellas parasol parasols",
    "bench": "bench benches seat seats",
    "tree": "tree trees",
    "house": "house houses building buildings cottage cottages",
    "tent": "tent tents",
    "flower": "flower flowers",
}
CATEGORY = {word: name for name, words in NOUNS.items() for word in words.split()}
PEOPLE = {"man", "woman", "boy", "girl"}
ANIMALS = {"dog", "cat", "horse", "cow", "sheep", "bird", "duck"}
VEHICLES = {"car", "bus", "bicycle", "boat"}
KINDS = {"person": PEOPLE, "people": PEOPLE, "animal": ANIMALS, "animals": ANIMALS}
KINDS |= {"vehicle": VEHICLES, "vehicles": VEHICLES}
PLAIN = "red blue green yellow orange purple pink white black brown grey"
COLOURS = {colour: colour for colour in PLAIN.split()}
COLOURS |= {"crimson": "red", "golden": "yellow", "violet": "purple", "dark": "black"}
COLOURS |= {"gray": "grey"}
LOOKS = {"striped": "striped", "spotted": "spotted", "dotted": "spotted"}
LOOKS |= {"small": "small", "little": "small", "tiny": "small"}
LOOKS |= {"large": "large", "big": "large", "huge": "large"}
NUMBERS = {"a": (1, 1), "an": (1, 1), "one": (1, 1), "two": (2, 2), "three": (3, 3)}
NUMBERS |= {"four": (4, 4), "a pair of": (2, 2), "a couple of": (2, 2), "a few": (3, 9)}
NUMBERS |= {"several": (3, 9), "a group of": (3, 9), "some": (2, 9)}
NAMED = re.compile(
    rf"\b({'|'.join(sorted(NUMBERS, key=len, reverse=True))}) "
    rf"((?:(?:young|{'|'.join({**COLOURS, **LOOKS})}) )*)({'|'.join(CATEGORY)})\b"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"), images=IMAGES)


def captions(folder, split):
    return (folder / f"{split}_caps.txt").read_text("utf-8").splitlines()


def is_true(caption, scene):
    """Check that every phrase such as "two brown dogs" fits the scene in number and looks."""
    for number, looks, noun in NAMED.findall(caption.lower()):
        things = [t for t in scene.things if t.category == CATEGORY[noun]]
        low, high = NUMBERS[number]
        if not low <= len(things) <= high:
            return False
        for look in set(looks.split()) - {"young"}:
            for thing in things:
                if COLOURS.get(look, thing.colour) != thing.colour:
                    return False
                if LOOKS.get(look, thing.size) not in (thing.size, thing.pattern):
                    return False
    return True


def contains(outer, inner):
    """Check that the box `inner` lies inside the box `outer`."""
    return outer[0] < inner[0] < inner[2] < outer[2] and outer[1] < inner[1] < inner[3] < outer[3]


def test_files_have_the_scan_layout(folder):
    for split, count in SPLITS.items():
        vectors = np.load(folder / f"{split}_ims.npy", mmap_mode="r")
        boxes = np.load(folder / f"{split}_boxes.npy")
        ids = (folder / f"{split}_ids.txt").read_text().splitlines()
        assert vectors.shape == (count, 12, 64) and vectors.dtype == np.float16
        assert np.isfinite(vectors).all() and (np.abs(vectors).sum(-1) > 0).all()
        assert boxes.shape == (count, 12, 4)
        assert (boxes >= 0).all() and (boxes <= 1).all() and (boxes[..., :2] < boxes[..., 2:]).all()
        assert len(set(ids)) == len(ids) == count
        assert ids == [scene.id for scene in load_scenes(folder, split)]
        assert len(captions(folder, split)) == 5 * count
        assert all(line.endswith(" .") and line[0].isupper() for line in captions(folder, split))


@pytest.mark.parametrize("regions", [1, 3, 20])
def test_regions_and_width_are_as_asked(tmp_path, regions):
    made = write_scenes(tmp_path, images=(3, 2, 2), regions=regions, width=16)
    assert np.load(made / "dev_ims.npy").shape == (2, regions, 16)
    assert json.loads((made / "scenes.json").read_text())["regions"] == regions


def test_same_parameters_same_bytes(folder, tmp_path):
    again = write_scenes(tmp_path, images=list(IMAGES))
    names = sorted(path.name for path in folder.iterdir())
    assert again.name == folder.name and names == sorted(path.name for path in again.iterdir())
    assert filecmp.cmpfiles(folder, again, names, shallow=False) == (names, [], [])


def test_second_call_writes_nothing(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert write_scenes(folder.parent, images=IMAGES) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_other_parameters_other_folder(folder):
    default = scenes_folder(folder.parent, images=IMAGES)
    others = [
        scenes_folder(folder.parent, images=IMAGES, **{name: value})
        for name, value in {"regions": 13, "width": 65, "noise": 0.5, "seed": 1}.items()
    ]
    assert default == folder
    assert len({default, *others}) == 5
    # one schema, spelt twice
    defaults = [
        {name: p.default for name, p in inspect.signature(f).parameters.items()}
        for f in (write_scenes, scenes_folder)
    ]
    assert defaults[0] == defaults[1]


def test_noise_and_width_leave_scenes_and_captions_alone(folder, tmp_path):
    other = write_scenes(tmp_path, images=IMAGES, noise=0.0, width=8)
    for name in ("dev_caps.txt", "dev_scenes.jsonl", "dev_phrases.jsonl"):
        assert filecmp.cmp(folder / name, other / name, shallow=False)


def test_equal_facts_have_equal_vectors_without_noise(tmp_path):
    """The code of a fact does not depend on the seed, so all seeds share a feature space."""
    made = [write_scenes(tmp_path, images=(120, 1, 1), noise=0.0, seed=seed) for seed in (1, 2)]
    solutions = []
    for one in made:
        # skies: the region nearest to the box of the sky; linear in light, setting and place
        boxes, vectors = np.load(one / "train_boxes.npy"), np.load(one / "train_ims.npy")
        scenes = load_scenes(one, "train")
        rows = np.arange(len(scenes))
        sky = [np.abs(boxes[i] - scenes[i].backdrop["air"]).sum(1).argmin() for i in rows]
        facts = [[s.light == "night", s.setting == "beach", 1] for s in scenes]
        keep = [i for i, s in enumerate(scenes) if s.light in ("night", "sunny")]
        keep = [i for i in keep if scenes[i].setting in ("beach", "park")]
        design = np.concatenate([np.array(facts, float), boxes[rows, sky]], 1)[keep]
        target = vectors[rows, sky].astype(float)[keep]
        solutions.append(np.linalg.lstsq(design, target, rcond=None)[0][:2])
    np.testing.assert_allclose(solutions[0], solutions[1], atol=0.05)


def test_processes_writing_at_the_same_time_agree(tmp_path):
    script = "import sys, itm.scenes as s; print(s.write_scenes(sys.argv[1], images=(40, 10, 10)))"
    command = [sys.executable, "-c", script, str(tmp_path)]
    jobs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = {job.communicate()[0].strip() for job in jobs}
    assert [job.returncode for job in jobs] == [0, 0, 0]
    assert printed == {str(path) for path in tmp_path.iterdir()} and len(printed) == 1


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("itm.scenes.corpus.captions", fail)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path, images=(2, 2, 2))
    assert not list(tmp_path.iterdir())


def test_the_version_is_raised_when_the_written_data_change(tmp_path):
    folder = write_scenes(tmp_path, images=(2, 2, 2))
    text = b"".join((folder / f"dev_{name}").read_bytes() for name in ("caps.txt", "scenes.jsonl"))
    size = np.abs(np.load(folder / "dev_ims.npy").astype(float)).sum()
    assert (VERSION, sha256(text).hexdigest()[:16], round(size)) == (1, "4b58ebde65fa4019", 2969), (
        "the generated scenes changed: raise VERSION in itm/scenes/corpus.py, so that nobody reads "
        "cached scenes of before, and then the three values here"
    )


def test_cache_root_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ITM_CACHE", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_root() == tmp_path / "a"
    assert scenes_folder().parent == tmp_path / "a"
    monkeypatch.delenv("ITM_CACHE")
    assert cache_root() == tmp_path / "b" / "itm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "itm"


def test_bad_input_says_what_to_do(tmp_path):
    for bad in ({"images": (1, 2)}, {"images": (5, 0, 5)}, {"regions": 0}, {"noise": -1.0}):
        with pytest.raises(ValueError, match="at least"):
            write_scenes(tmp_path, **bad)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="ITM_CACHE"):
        write_scenes(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match="write_scenes"):
        load_scenes(tmp_path, "dev")


def test_captions_are_true_in_number_and_looks(folder):
    for split in SPLITS:
        lines = captions(folder, split)
        for row, scene in enumerate(load_scenes(folder, split)):
            for line in lines[5 * row : 5 * row + 5]:
                assert is_true(line, scene), (line, scene)
    read = [NAMED.findall(line.lower()) for line in captions(folder, "train")]
    assert sum(map(bool, read)) > 0.7 * len(read)  # the reader above does read


def test_captions_are_true_in_light_place_and_people(folder):
    lights = {"sunny": "sunny|sunshine|clear blue|bright day", "cloudy": "cloudy|dull|grey sky"}
    lights |= {"sunset": "sunset|evening|sun goes down", "night": "night|after dark|moon"}
    places = {"beach": r"beach|sea\b", "park": r"park\b", "street": "street", "field": "meadow"}
    places |= {"snow": "snow", "desert": "desert", "lake": "lake|shore", "garden": "garden|lawn"}
    seen = set()
    for split in SPLITS:
        for row, scene in enumerate(load_scenes(folder, split)):
            for line in captions(folder, split)[5 * row : 5 * row + 5]:
                for words, truth in ((lights, scene.light), (places, scene.setting)):
                    told = {name for name, w in words.items() if re.search(rf"\b({w})", line, re.I)}
                    assert told <= {truth}, (line, scene.setting, scene.light)
                    seen |= told
                if re.search("nobody|no one|no people", line):
                    assert not any(t.category in PEOPLE | ANIMALS for t in scene.things)
    assert seen == {*lights, *places}


def test_captions_are_true_in_where_things_are(folder):
    told = dict.fromkeys(("left of", "right of", "in front of", "behind"), 0)
    for split in SPLITS:
        scenes = load_scenes(folder, split)
        for row, line in enumerate(captions(folder, split)):
            found = re.search(f" ({'|'.join(told)}) ", line)
            names = NAMED.findall(line.lower())
            if not found or len(names) != 2:
                continue
            a, b = (
                np.mean([t.box for t in scenes[row // 5].things if t.category == CATEGORY[n]], 0)
                for _, _, n in names
            )
            told[found[1]] += 1
            if found[1].endswith(" of") and "front" not in found[1]:
                assert (a[0] + a[2] < b[0] + b[2]) == found[1].startswith("left"), line
            else:
                assert (a[3] > b[3]) == (found[1] == "in front of"), line
    assert min(told.values()) > 5


def test_phrases_are_words_of_their_captions(folder):
    for split in SPLITS:
        lines = captions(folder, split)
        for phrase in load_phrases(folder, split):
            line, (start, stop) = lines[phrase["caption"]], phrase["span"]
            assert phrase["image"] == phrase["caption"] // 5
            assert " ".join(line.split()[start:stop]) == phrase["phrase"]
            assert phrase["phrase"] in line


def test_phrases_have_the_boxes_of_what_they_name(folder):
    several: set[str] = set()
    before: dict = {}
    for split in SPLITS:
        scenes = load_scenes(folder, split)
        for phrase in load_phrases(folder, split):
            scene, words = scenes[phrase["image"]], phrase["phrase"].lower().split()
            boxes = {tuple(box) for box in phrase["boxes"]}
            several |= {phrase["type"]} if len(boxes) > 1 else set()
            if phrase["type"] == "scene":
                air, land = scene.backdrop["air"], scene.backdrop["land"]
                part = {"sky": air, "sand": land, "shore": land, "lawn": land, "street": land}
                water = {"lake", "sea", "water"}
                expected = scene.backdrop["water"] if words[-1] in water else None
                assert boxes == {part.get(words[-1], expected or land)}
            elif phrase["type"] == "clothing":
                # "two men in red coats": the wearers are named just before
                assert before["type"] == "people" and before["caption"] == phrase["caption"]
                wearers = [t for t in scene.things if list(t.box) in before["boxes"]]
                assert len(wearers) == len(boxes)
                for thing, box in zip(wearers, phrase["boxes"], strict=True):
                    assert contains(thing.box, box)
                    assert {COLOURS[w] for w in words if w in COLOURS} <= {thing.colour}
                    assert {LOOKS[w] for w in words if w in LOOKS} <= {thing.pattern}
            else:
                category = CATEGORY.get(words[-1])
                named = {category} if category else KINDS[words[-1]]
                assert boxes == {t.box for t in scene.things if t.category in named}
                assert is_true(phrase["phrase"], scene)
            before = phrase
    assert several == {"people", "animals", "vehicles", "other", "clothing"}


def test_phrases_can_be_localised(folder):
    """Nearly every phrase has a region that overlaps its box (or union of boxes) by half."""
    regions = np.load(folder / "test_boxes.npy")
    hits = []
    for phrase in load_phrases(folder, "test"):
        boxes, seen = np.array(phrase["boxes"]), regions[phrase["image"]]
        box = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])
        shared = np.minimum(box[2:], seen[:, 2:]) - np.maximum(box[:2], seen[:, :2])
        shared = shared.clip(0).prod(1)
        area = (box[2:] - box[:2]).prod() + (seen[:, 2:] - seen[:, :2]).prod(1)
        hits.append((shared / (area - shared)).max() >= 0.5)
    assert np.mean(hits) > 0.9


def test_meanings_overlap_and_neighbours_differ_little(folder):
    scenes, lines = load_scenes(folder, "test"), captions(folder, "test")
    read = [line for line in lines if NAMED.search(line.lower())]
    shared = [sum(is_true(line, scene) for scene in scenes) > 1 for line in read]
    assert 0.3 < np.mean(shared) < 1
    facts = [
        {(t.category, t.colour, t.pattern, t.size, t.pose) for t in scene.things}
        for scene in scenes
    ]
    twins = [len(a ^ b) <= 2 for a, b in zip(facts, facts[1:], strict=False)]
    assert 0.15 < np.mean(twins) < 0.6


def test_render_draws_a_picture(folder, tmp_path):
    image = pytest.importorskip("PIL.Image")
    scenes = load_scenes(folder, "dev")
    for scene in scenes[:8]:
        picture = render(scene, tmp_path / f"{scene.id}.png", size=(160, 120))
        assert picture.size == (160, 120) and picture.mode == "RGB"
        with image.open(tmp_path / f"{scene.id}.png") as saved:
            np.testing.assert_array_equal(np.asarray(saved), np.asarray(picture))
    shown = []
    for scene in scenes:
        pixels = np.asarray(render(scene, size=(160, 120)), float)
        front = max(scene.things, key=lambda t: (t.zone == "land", t.box[3]))
        if front.colour in ("red", "green", "blue") and front.pattern == "plain":
            x1, y1, x2, y2 = (np.array(front.box) * [160, 120, 160, 120]).astype(int)
            channel = ("red", "green", "blue").index(front.colour)
            own = pixels[y1:y2, x1:x2, channel] - 1.4 * np.delete(pixels, channel, 2)[
                y1:y2, x1:x2
            ].max(-1)
            shown.append((own > 0).mean())
    assert len(shown) > 3 and min(shown) > 0.08
    np.testing.assert_array_equal(np.asarray(render(scenes[0])), np.asarray(render(scenes[0])))


def test_a_scene_survives_json(folder):
    scene = load_scenes(folder, "dev")[0]
    assert type(scene).from_dict(json.loads(json.dumps(scene.to_dict()))) == scene
