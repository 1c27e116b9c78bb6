"""Format answers to queries: a table for the terminal, data for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from itm.data.layout import Split, name_of
from itm.runs.tables import rows_table
from itm.text.tokenizers import TOKENIZERS
from itm.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from itm.index.index import Hit
    from itm.matcher.matcher import Matcher

Captions = Mapping[str, Sequence[str]]  # id of each image -> its captions


class Answer(NamedTuple):
    """The results of one query.

    Attributes:
        query: the sentence, or the image's id.
        to: "images" or "captions".
        hits: best first.
    """

    query: str
    to: str
    hits: list[Hit]


def captions_by_id(split: Split) -> dict[str, list[str]]:
    """Collect the captions of every image under its id."""
    names = [name_of(split, row) for row in range(split.num_images)]
    found: dict[str, list[str]] = {name: [] for name in names}
    for caption, row in zip(split.captions, split.caption_image, strict=True):
        found[names[row]].append(caption)
    return found


def unknown_words(matcher: Matcher, sentence: str) -> list[str]:
    """List the words of a sentence that are not in the matcher's vocabulary, each once."""
    vocab = matcher.vocab
    if not isinstance(vocab, Vocabulary):  # word pieces cover every word
        return []
    words = dict.fromkeys(TOKENIZERS[vocab.tokenizer](sentence))
    return [word for word in words if word not in vocab.ids]


def answer_table(answer: Answer, captions: Captions) -> str:
    """Format an answer for the terminal; captions, ids and queries may hold any characters."""
    if answer.to == "images":
        title, columns = answer.query, ["", "image", "score", "one of its captions"]
        notes = [next(iter(captions[hit.item]), "") for hit in answer.hits]
    else:
        title, columns = f"image {answer.query}", ["", "caption", "score", "its own"]
        notes = ["yes" if hit.item in captions[answer.query] else "" for hit in answer.hits]
    rows = [
        [place, hit.item, f"{hit.score:.4f}", note]
        for place, (hit, note) in enumerate(zip(answer.hits, notes, strict=True), 1)
    ]
    return rows_table(title, columns, rows)


def answer_data(answer: Answer, captions: Captions) -> dict[str, Any]:
    """Turn an answer into plain data for JSON."""
    if answer.to == "images":
        return {"query": answer.query, "images": [hit._asdict() for hit in answer.hits]}
    own = captions[answer.query]
    found = [{**hit._asdict(), "own": hit.item in own} for hit in answer.hits]
    return {"image": answer.query, "captions": found}
