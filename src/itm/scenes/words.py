"""Words for things, attributes, places and times, with synonyms."""

Forms = tuple[tuple[str, str], ...]

NOUNS: dict[str, Forms] = {
    "man": (("man", "men"), ("man", "men"), ("guy", "guys")),
    "woman": (("woman", "women"), ("woman", "women"), ("lady", "ladies")),
    "boy": (("boy", "boys"), ("young boy", "young boys")),
    "girl": (("girl", "girls"), ("young girl", "young girls")),
    "dog": (("dog", "dogs"),),
    "small dog": (("puppy", "puppies"),),
    "cat": (("cat", "cats"),),
    "small cat": (("kitten", "kittens"),),
    "horse": (("horse", "horses"),),
    "small horse": (("pony", "ponies"),),
    "cow": (("cow", "cows"),),
    "small cow": (("calf", "calves"),),
    "sheep": (("sheep", "sheep"),),
    "small sheep": (("lamb", "lambs"),),
    "bird": (("bird", "birds"),),
    "duck": (("duck", "ducks"),),
    "small duck": (("duckling", "ducklings"),),
    "car": (("car", "cars"),),
    "bus": (("bus", "buses"), ("coach", "coaches")),
    "bicycle": (("bicycle", "bicycles"), ("bike", "bikes")),
    "boat": (("boat", "boats"), ("sailboat", "sailboats")),
    "large boat": (("ship", "ships"),),
    "ball": (("ball", "balls"),),
    "kite": (("kite", "kites"),),
    "balloon": (("balloon", "balloons"),),
    "umbrella": (("umbrella", "umbrellas"), ("parasol", "parasols")),
    "bench": (("bench", "benches"), ("seat", "seats")),
    "tree": (("tree", "trees"),),
    "house": (("house", "houses"), ("building", "buildings")),
    "small house": (("cottage", "cottages"),),
    "tent": (("tent", "tents"),),
    "flower": (("flower", "flowers"),),
    "man clothes": (("shirt", "shirts"), ("jacket", "jackets")),
    "woman clothes": (("dress", "dresses"), ("coat", "coats")),
    "boy clothes": (("shirt", "shirts"), ("sweater", "sweaters")),
    "girl clothes": (("dress", "dresses"), ("coat", "coats")),
}

# captions never mention "medium" and "plain"
ADJECTIVES: dict[str, tuple[str, ...]] = {
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
    "striped": ("striped",),
    "spotted": ("spotted", "dotted"),
    "red": ("red", "red", "crimson"),
    "blue": ("blue",),
    "green": ("green",),
    "yellow": ("yellow", "yellow", "golden"),
    "orange": ("orange",),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
    "white": ("white",),
    "black": ("black", "black", "dark"),
    "brown": ("brown",),
    "grey": ("grey", "gray"),
}

NUMBERS: dict[int, tuple[str, ...]] = {
    2: ("two", "two", "a pair of", "a couple of"),
    3: ("three", "three", "several", "a few", "a group of"),
    4: ("four", "four", "several", "some", "a group of"),
}

# one of a kind, two, more
KINDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "people": (
        ("a person", "one person"),
        ("people", "some people"),
        ("people", "some people", "a few people"),
    ),
    "animals": (
        ("an animal", "one animal"),
        ("animals", "some animals"),
        ("animals", "some animals", "a few animals"),
    ),
    "vehicles": (
        ("a vehicle", "one vehicle"),
        ("vehicles", "some vehicles"),
        ("vehicles", "some vehicles", "a few vehicles"),
    ),
}

Places = tuple[tuple[str, str, str], ...]

# by the zone of the things (mixed: several zones): preposition, place, and the part of the backdrop
# that the place refers to
PLACES: dict[str, dict[str, Places]] = {
    "beach": {
        "land": (("on", "the beach", "land"), ("on", "the sand", "land")),
        "water": (("on", "the sea", "water"), ("on", "the water", "water")),
        "mixed": (("at", "the beach", "land"), ("by", "the sea", "water")),
    },
    "park": {"land": (("in", "the park", "land"), ("on", "the grass", "land"))},
    "street": {"land": (("on", "the street", "land"), ("on", "a city street", "land"))},
    "field": {"land": (("in", "the field", "land"), ("in", "a meadow", "land"))},
    "snow": {"land": (("in", "the snow", "land"), ("in", "a snowy field", "land"))},
    "desert": {"land": (("in", "the desert", "land"), ("on", "the sand", "land"))},
    "lake": {
        "land": (("by", "the lake", "water"), ("on", "the shore", "land")),
        "water": (("on", "the lake", "water"), ("on", "the water", "water")),
        "mixed": (("at", "the lake", "water"), ("by", "a lake", "water")),
    },
    "garden": {"land": (("in", "the garden", "land"), ("on", "the lawn", "land"))},
}

LIGHT_WORDS: dict[str, tuple[str, ...]] = {
    "sunny": ("on a sunny day", "in the sunshine", "under a clear blue sky"),
    "cloudy": ("on a cloudy day", "under a grey sky", "in dull weather"),
    "sunset": ("at sunset", "in the evening", "as the sun goes down"),
    "night": ("at night", "after dark", "under the moon"),
}

TIMES: dict[str, tuple[str, ...]] = {
    "sunny": ("a sunny day", "a bright day"),
    "cloudy": ("a cloudy day", "a dull day"),
    "sunset": ("sunset", "a warm evening"),
    "night": ("a night", "a clear night"),
}

RELATIONS: dict[str, tuple[str, ...]] = {
    "left": ("to the left of", "on the left of"),
    "right": ("to the right of", "on the right of"),
    "above": ("above", "over"),
    "front": ("in front of",),
    "behind": ("behind",),
    "near": ("next to", "beside", "near", "close to"),
}

VERBS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "standing": (("stands", "stand", "standing"),),
    "running": (("runs", "run", "running"), ("races", "race", "racing")),
    "jumping": (("jumps", "jump", "jumping"), ("leaps", "leap", "leaping")),
    "waving": (("waves", "wave", "waving"),),
    "sleeping": (("sleeps", "sleep", "sleeping"), ("rests", "rest", "resting")),
    "flying": (("flies", "fly", "flying"),),
    "swimming": (("swims", "swim", "swimming"),),
    "parked": (("is parked", "are parked", "parked"),),
    "driving": (("drives", "drive", "driving"),),
    "sailing": (("sails", "sail", "sailing"),),
    "lying": (("lies", "lie", "lying"),),
    "floating": (("floats", "float", "floating"),),
    "open": (("stands", "stand", "standing"),),
    "empty": (("stands", "stand", "standing"),),
    "growing": (("grows", "grow", "growing"), ("stands", "stand", "standing")),
    "built": (("stands", "stand", "standing"),),
    "pitched": (("stands", "stand", "standing"),),
}
