"""Compare what a run does with its captions before the first step with a pass for each list.

The plain form splits the captions by nltk's rules again for the vocabulary, the ids, the labels and
their images, as the first version of the library did. "words kept on disk" starts again with the
file of an earlier run, see `itm.data.word_cache`.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np

from benchmarks.measure import Row, compare, race
from itm.data.word_cache import cached_words
from itm.scenes.language import captions
from itm.scenes.sample import draw_scenes
from itm.text.labels import Labels
from itm.text.tagger import LexiconTagger
from itm.text.tokenizers import lower, treebank
from itm.text.vocabulary import END, SPECIALS, START, UNK, Vocabulary
from itm.text.word_lists import STOP_WORDS, is_word

SIZES = {"tiny": 20_000, "small": 20_000, "paper": 100_000}
LABELS = 500


def corpus(size: int) -> list[str]:
    """Make captions of scenes; every tenth has signs that only nltk's rules divide."""
    rng, found = Random(0), list[str]()
    scenes = list(draw_scenes(rng, 2000, "train"))
    while len(found) < size:
        found += [text for scene in scenes for text, _ in captions(rng, scene)]
    return [
        f'{x[:-1]}; it isn\'t "far" !' if i % 10 == 0 else x for i, x in enumerate(found[:size])
    ]


def rows(size: str) -> Iterator[Row]:
    texts = corpus(SIZES[size])
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ITM_CACHE"] = folder
        cached_words(texts, "treebank")
        for labels, model in ((False, "SCAN"), (True, "CASC")):
            runs = race(
                {
                    "itm": lambda labels=labels: start(texts, labels, cache=False),
                    "a pass for each list": lambda labels=labels: plain_start(texts, labels),
                    "itm, kept": lambda labels=labels: start(texts, labels, cache=True),
                },
                1,
            )
            again = runs.pop("itm, kept")
            task = f"start of {model}, {len(texts)} captions"
            yield compare(task, runs, 0.0, targets={"speed": 2.5})
            runs["itm"] = again
            yield compare(f"{task}, words kept on disk", runs, 0.0, targets={"speed": 2.5})


def start(texts: list[str], labels: bool, cache: bool) -> list[Any]:
    """Make vocabulary, ids and labels as a data module does."""
    image = np.arange(len(texts)) // 5
    words = cached_words(texts, "treebank", cache)
    vocab = Vocabulary.build(words)
    ids = vocab.encode_all(words)
    found: list[Any] = [len(vocab), ids.values, ids.lengths]
    if labels:
        own = Labels.build(words, LABELS, LexiconTagger(), image)
        table = own.label_images(words, image, int(image[-1]) + 1)
        found += [np.array(own.positives), table.sum(1)]
    return found


def plain_start(texts: list[str], labels: bool) -> list[Any]:
    """Make the same numbers with a pass over the captions for each."""
    image = np.arange(len(texts)) // 5
    counts = Counter[str]()
    for text in texts:
        counts.update(treebank(lower(text)))
    kept = [*SPECIALS, *(word for word, n in counts.items() if n >= 4)]
    number = {word: i for i, word in enumerate(kept)}
    ids = [
        [START, *(number.get(word, UNK) for word in treebank(lower(text))), END] for text in texts
    ]
    flat = np.array([i for one in ids for i in one])
    found: list[Any] = [len(kept), flat, np.array([len(one) for one in ids])]
    if labels:
        tagger, nouns = LexiconTagger(), Counter[str]()
        for text in texts:
            words = treebank(lower(text))
            tagged = zip(words, tagger(words), strict=True)
            nouns.update(word for word, tag in tagged if tag.startswith("NN"))
        usable = [w for w, _ in nouns.most_common() if is_word(w) and w not in STOP_WORDS]
        column = {word: k for k, word in enumerate(usable[:LABELS])}
        for _ in range(2):  # for the counts, and for the labels of the images
            table = np.zeros((int(image[-1]) + 1, len(column)), np.float32)
            for row, text in zip(image, texts, strict=True):
                for word in treebank(lower(text)):
                    if word in column:
                        table[row, column[word]] = 1
        found += [table.sum(0), table.sum(1)]
    return found
