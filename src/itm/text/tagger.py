"""Tag the parts of speech of captions, without downloads.

`default_tagger` returns nltk's averaged perceptron if its data is installed, else `LexiconTagger`:
a list of words common in captions (lexicon.txt), suffix rules for all other words, and a few rules
on neighbours for words that can be noun or verb ("a walk", "they walk").
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.resources import files

Tagger = Callable[[Sequence[str]], list[str]]

BASE_S = {"NN": "NNS", "VB": "VBZ", "NNP": "NNPS"}  # tag of the -s form, by tag of the base form
VERBAL = {"TO", "MD", "PRP", "WP", "WDT"}  # tags after which a verb is expected
SUFFIXES = (
    (re.compile(r"[^\w]+$"), "."),
    (re.compile(r"\d[\d.,:/]*(st|nd|rd|th)?$"), "CD"),
    # "long-sleeved", "red-haired", "black-and-white", but "t-shirt", "merry-go-round"
    (re.compile(r".+-(.*ed|sleeve|and-\w+|free|like|sized?|color|colour)$"), "JJ"),
    (re.compile(r".*-"), "NN"),
    (re.compile(r"\w{2,}ing$"), "VBG"),
    (re.compile(r"\w+[^e]ed$"), "VBN"),
    (re.compile(r"\w{2,}ly$"), "RB"),
    (re.compile(r"\w{3,}(ful|ous|less|tive|able|ible|ical|ish|like)$"), "JJ"),
    (re.compile(r"\w+[^su]s$"), "NNS"),
)


def lexicon() -> dict[str, tuple[str, ...]]:
    """Read the possible tags of each word, the default tag first."""
    words: dict[str, tuple[str, ...]] = {}

    def add(word: str, tags: Sequence[str]) -> None:
        words[word] = tuple(dict.fromkeys([*words.get(word, ()), *tags]))

    lines = files("itm.text").joinpath("lexicon.txt").read_text(encoding="utf-8").splitlines()
    entries = [line.split() for line in lines if line and not line.startswith("#")]
    for tags, *listed in entries:
        for word in listed:
            add(word, tags.split("|"))
    for word, options in list(words.items()):
        plural = [BASE_S[tag] for tag in options if tag in BASE_S]
        if plural and (third := add_s(word)) not in words:
            add(third, plural)
    return words


def add_s(word: str) -> str:
    """Add -s to a noun or a verb: walk -> walks, catch -> catches, carry -> carries."""
    if re.search(r"(s|x|z|ch|sh|do|go)$", word):
        return word + "es"
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + "s"


class LexiconTagger:
    """Tag by lexicon and suffix; neighbours decide for words with several possible tags."""

    name = "lexicon"

    def __init__(self) -> None:
        self.words = lexicon()

    def __call__(self, tokens: Sequence[str]) -> list[str]:
        """Tag the lower-cased tokens of one sentence with Penn tags."""
        choices = [self.options(token) for token in tokens]
        tags: list[str] = []
        verb = False
        for i, options in enumerate(choices):
            following = choices[i + 1][0] if i + 1 < len(choices) else ""
            previous = tags[-1] if tags else ""
            alone = len(options) == 1
            tags.append(options[0] if alone else choose(options, previous, verb, following))
            verb = verb or tags[-1].startswith("VB")
        return tags

    def options(self, token: str) -> tuple[str, ...]:
        """Return the possible tags of a word, the default tag first."""
        return self.words.get(token) or (self._guess(token),)

    @staticmethod
    def _guess(token: str) -> str:
        return next((tag for pattern, tag in SUFFIXES if pattern.match(token)), "NN")


def choose(options: tuple[str, ...], previous: str, after_verb: bool, following: str) -> str:
    """Choose one of several tags of a word by its neighbours.

    Args:
        options: the possible tags.
        previous: tag of the word before; "" = none.
        after_verb: whether any word before is a verb.
        following: default tag of the next word; "" = none.
    """
    verb = next((tag for tag in options if tag.startswith("VB")), None)
    if verb is not None:
        agrees = previous == ("NN" if verb == "VBZ" else "NNS")
        joined = previous == "CC" and after_verb
        adverb = previous == "RB" and "JJ" not in options  # in "very clean", clean is an adjective
        if agrees or joined or adverb or previous in VERBAL:
            return verb
        if previous in {"DT", "PRP$", "CD", "POS"} or previous.startswith("JJ"):
            options = tuple(tag for tag in options if tag != verb)
    if "JJ" in options and "NN" in options:
        return "JJ" if following.startswith(("NN", "JJ")) else "NN"
    return options[0]


class PerceptronTagger:
    """Tag by nltk's averaged perceptron.

    Raises:
        LookupError: the perceptron's data is not installed.
    """

    name = "nltk perceptron"

    def __init__(self) -> None:
        from nltk.tag import PerceptronTagger as Perceptron  # late: nltk takes half a second

        self._tagger = Perceptron()

    def __call__(self, tokens: Sequence[str]) -> list[str]:
        """Tag the tokens of one sentence with Penn tags."""
        return [tag for _, tag in self._tagger.tag(list(tokens))]


@lru_cache(maxsize=1)
def default_tagger() -> LexiconTagger | PerceptronTagger:
    """Return nltk's tagger if its data is installed, else the lexicon tagger."""
    try:
        return PerceptronTagger()
    except LookupError:
        return LexiconTagger()


def tagger_name(tagger: Tagger) -> str:
    """Return the name of a tagger, which word lists store as their source."""
    return str(getattr(tagger, "name", getattr(tagger, "__name__", type(tagger).__name__)))
