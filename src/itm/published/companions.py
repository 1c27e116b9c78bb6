"""Read what checkpoints do not hold: CVSE's concepts, and VSRN's captioning branch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from itm.published.files import read_checkpoint
from itm.published.tables import State
from itm.text.concepts import Concepts


def read_captioner(path: str | Path) -> State:
    """Read the state dict of VSRN's captioning branch.

    Raises:
        ValueError: the file holds other tensors.
    """
    states, _ = read_checkpoint(path)
    names = [name for state in states for name in state]
    if len(states) != 1 or not any(name.startswith("encoder.vid2hid") for name in names):
        raise ValueError(
            f"captioner={path} holds {', '.join(sorted(names)[:4])}, ...; expected the tensors of "
            "VSRN's captioning branch, encoder.vid2hid... and decoder..."
        )
    return states[0]


def take_concepts(matcher: Any, concepts: Any, tensors: State, source: str) -> State:
    """Set the concept words of a matcher and return their vectors.

    Args:
        matcher: CVSE.
        concepts: `Concepts`, or the file or folder of them.
        tensors: of the checkpoint, with the graph.
        source: file of the weights, for messages.

    Raises:
        ValueError: no concepts or vectors are given, or they belong to other weights.
    """
    if isinstance(concepts, (str, Path)):
        concepts = Concepts.load(concepts)
    if not isinstance(concepts, Concepts) or concepts.vectors is None:
        given = (
            f"a {type(concepts).__name__} without vectors" if concepts is not None else "nothing"
        )
        raise ValueError(
            f"{source} holds neither the concept words nor their word vectors: give concepts=, the "
            "folder of category_concepts.json and its pickles, or a Concepts with vectors; got "
            f"{given}"
        )
    matcher.set_concepts(concepts)
    counted = concepts.counts is not None and concepts.adjacency is not None
    mine, theirs = matcher.graph.adjacency, tensors.get("graph.adjacency", torch.empty(0))
    if not counted:
        print(
            "the concept file holds no counts, so it cannot be checked that these concepts, in "
            f"this order, belong to {source}"
        )
    if counted and mine.shape == theirs.shape and not torch.allclose(mine, theirs, atol=1e-4):
        raise ValueError(
            f"{source} was trained with other concepts than these {len(concepts)} "
            f"({', '.join(concepts.words[:4])}, ...): the graphs of their counts differ"
        )
    return {"graph.vectors": matcher.graph.vectors}
