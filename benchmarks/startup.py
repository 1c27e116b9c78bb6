"""Time what a run does with its captions before the first step, against nltk's rules alone.

    python -m benchmarks.startup captions=566000

Vocabulary, ids of the reader, and the labels of CASC are made from synthetic captions (scenes),
once with the shortcut of `itm.text.tokenizers.tokenize` and once without. Both must be equal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np

from itm.scenes.language import captions
from itm.scenes.sample import draw_scenes
from itm.text import tokenizers
from itm.text.labels import Labels
from itm.text.vocabulary import Vocabulary


def corpus(size: int) -> list[str]:
    """Make captions of scenes; every tenth has signs that only nltk's rules divide."""
    rng, found = Random(0), list[str]()
    scenes = list(draw_scenes(rng, 2000, "train"))
    while len(found) < size:
        found += [text for scene in scenes for text, _ in captions(rng, scene)]
    return [
        f'{x[:-1]}; it isn\'t "far" !' if i % 10 == 0 else x for i, x in enumerate(found[:size])
    ]


def parts(texts: list[str]) -> dict[str, Callable[[], Any]]:
    """Return the steps of a start by name."""
    image = np.arange(len(texts)) // 5
    vocab = Vocabulary.build(texts[:5000], 1)
    return {
        "vocabulary": lambda: Vocabulary.build(texts).words,
        "ids": lambda: [vocab.encode(text) for text in texts],
        "labels": lambda: Labels.build(texts, 500, caption_image=image).state(),
    }


def main() -> None:
    """Print seconds, ratios and their sum."""
    options = dict(word.split("=") for word in sys.argv[1:])
    texts = corpus(int(options.get("captions", 20000)))
    print(f"{len(texts)} captions\n{'step':12} {'nltk s':>8} {'ours s':>8} {'ratio':>6}")
    before, after = 0.0, 0.0
    for name, step in parts(texts).items():
        begin = time.perf_counter()
        ours = step()
        middle = time.perf_counter()
        with patch.object(tokenizers, "_PLAIN", tokenizers.re.compile("(?!)")):
            plain = step()
        end = time.perf_counter()
        assert ours == plain, name
        show(name, end - middle, middle - begin)
        before, after = before + end - middle, after + middle - begin
    show("all", before, after)


def show(name: str, before: float, after: float) -> None:
    """Print a row of the table."""
    print(f"{name:12} {before:8.1f} {after:8.1f} {before / after:6.1f}")


if __name__ == "__main__":
    main()
