"""Read a BERT in original weights, whose configuration and words are in other files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from itm.published.tables import Options, State, Table
from itm.text.bert_vocabulary import BertVocabulary
from itm.utils.hub import check_hub_name

# transformers 3.1 to 4.30 saved the position numbers with the weights; other versions do not.
POSITIONS = "bert.embeddings.position_ids"
WORDS = "bert.embeddings.word_embeddings.weight"
COMMAND = " (text= is bert= of itm.convert)"
BERT: Table = {POSITIONS: None, "bert": "text.bert", "linear": "text.project"}


def bert_arguments(text: State) -> Options:
    """Find the arguments of a text encoder with a BERT that was trained with the rest.

    Raises:
        KeyError: the embedding table is missing.
    """
    return {"vocab_size": len(text[WORDS]), "text": {"name": "bert", "finetune": True}}


def read_text(folder: str | Path | None, source: str, given: bool) -> tuple[Options, Any]:
    """Read the configuration and the vocabulary that belong to the BERT of some weights.

    Args:
        folder: config.json with tokenizer files or vocab.txt, or a name on the hub.
        source: the file of the weights.
        given: whether a vocabulary is given as well.

    Returns:
        The configuration and a `BertVocabulary`.

    Raises:
        ValueError: no folder is given or found, or a vocabulary is given as well.
    """
    from transformers import AutoConfig  # late, for start-up time

    if given:
        raise ValueError(
            f"{source} holds a BERT, whose words come from text=: leave vocab= out{COMMAND}"
        )
    if folder is None:
        raise ValueError(
            f"{source} holds a BERT, but neither its configuration nor its words: give text=, a "
            "folder with config.json and vocab.txt or tokenizer files, or a name on the hub "
            f"(published weights: text=bert-base-uncased){COMMAND}"
        )
    check_hub_name("text", str(folder))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    longest = getattr(config, "max_position_embeddings", 512)  # the original code cuts no caption
    return config.to_dict(), BertVocabulary.from_pretrained(str(folder), longest)


def positions(text: State) -> State:
    """Return the position numbers as transformers 4.18 saved them: (1, positions) int64."""
    count = len(text["bert.embeddings.position_embeddings.weight"])
    return {POSITIONS: torch.arange(count)[None]}
