"""Tag all words of many captions, and count tags."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from itm.text.tagger import LexiconTagger, Tagger, choose
from itm.text.words import CaptionWords


class Tags(NamedTuple):
    """The tags of all words.

    Attributes:
        names: tags, each once.
        of_word: (W,) place in `names`, for the words of all captions.
    """

    names: list[str]
    of_word: np.ndarray


def tag_all(captions: CaptionWords, tagger: Tagger) -> Tags:
    """Tag every caption as `tagger` does; `LexiconTagger` takes all captions at once."""
    if type(tagger) is LexiconTagger:
        return _by_lexicon(captions, tagger)
    place: dict[str, int] = {}
    found = np.empty(len(captions.numbers.values), np.int16)
    ends = captions.numbers.ends
    for row in range(len(captions)):
        tags = tagger(captions[row])
        if len(tags) != ends[row + 1] - ends[row]:
            raise ValueError(f"the tagger gave {len(tags)} tags for the words {captions[row]}")
        found[ends[row] : ends[row + 1]] = [place.setdefault(tag, len(place)) for tag in tags]
    return Tags(list(place), found)


def _by_lexicon(captions: CaptionWords, tagger: LexiconTagger) -> Tags:
    """Tag word by word from the left, in all captions at once.

    A word with one possible tag has it everywhere. The tag of another word depends on few facts
    about its neighbours, so it is chosen once for all places with the same facts.
    """
    options = [tagger.options(word) for word in captions.words]
    names = list(dict.fromkeys(tag for tags in options for tag in tags))
    place = {tag: i for i, tag in enumerate(names)}
    none = len(names)  # the tag before the first word and after the last
    names = [*names, ""]
    numbers, ends = captions.numbers.values, captions.numbers.ends
    tags = np.array([place[tags[0]] for tags in options], np.int64)[numbers]  # by default
    verbal = np.array([name.startswith("VB") for name in names], bool)
    caption = captions.numbers.rows()
    position = np.arange(len(numbers)) - ends[caption]
    following = np.append(tags[1:], none)
    following[ends[1:][np.diff(ends) > 0] - 1] = none
    several = np.array([len(tags) > 1 for tags in options], bool)
    undecided = np.flatnonzero(several[numbers])
    undecided = undecided[np.argsort(position[undecided], kind="stable")]
    verbs = np.zeros(len(captions), bool)  # a verb among the words before the current position
    for step in range(int(position[undecided].max(initial=-1)) + 1):
        first, last = np.searchsorted(position[undecided], (step, step + 1))
        at = undecided[first:last]
        previous = tags[at - 1] if step else np.full(len(at), none)
        facts = np.stack([numbers[at], previous, verbs[caption[at]], following[at]], 1)
        kinds, kind = np.unique(facts, axis=0, return_inverse=True)
        chosen = [
            place[choose(options[word], names[before], bool(verb), names[after])]
            for word, before, verb, after in kinds.tolist()
        ]
        tags[at] = np.array(chosen, np.int64)[kind.ravel()]
        here = np.flatnonzero(captions.numbers.lengths > step)
        verbs[here] |= verbal[tags[ends[here] + step]]
    return Tags(names, tags)
