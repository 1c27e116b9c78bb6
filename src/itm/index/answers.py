"""Answer queries, and format the answers: a table for the terminal, a page, data for JSON."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from itm.data.layout import Split, name_of
from itm.data.pictures import Pictures
from itm.runs.escape import printable
from itm.runs.outputs import maker
from itm.runs.tables import rows_table
from itm.text.bert_vocabulary import BertVocabulary
from itm.text.tokenizers import TOKENIZERS
from itm.text.vocabulary import Vocabulary
from itm.utils.files import write_text

if TYPE_CHECKING:
    from itm.index.index import Hit, Index
    from itm.matcher.matcher import Matcher

Form = Literal["NFC", "NFD"]
FORMS: tuple[Form, ...] = ("NFC", "NFD")  # of Unicode: letters with their accents, and apart

OwnCaptions = Mapping[str, Sequence[str]]  # id of each image -> its captions


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


def answer(index: Index, to: str, query: str, top: int = 10, exact: bool = False) -> Answer:
    """Search "images" for a sentence, or "captions" for the image with an id.

    Args:
        index: as in `Index.search`.
        to: "images" or "captions".
        query: the sentence, or the image's id.
        top: as in `Index.search`.
        exact: as there.

    Raises:
        KeyError: as in `Index.search`.
        ValueError: as there.
    """
    given: dict[str, Any] = {"sentence" if to == "images" else "image": query}
    return Answer(query, to, index.search(**given, top=top, exact=exact))


def captions_by_id(split: Split) -> dict[str, list[str]]:
    """Collect the captions of every image under its id."""
    names = [name_of(split, row) for row in range(split.num_images)]
    found: dict[str, list[str]] = {name: [] for name in names}
    for caption, row in zip(split.captions, split.caption_image, strict=True):
        found[names[row]].append(caption)
    return found


def unknown_words(matcher: Matcher, sentence: str) -> list[str]:
    """List the words of a sentence that are not in the matcher's vocabulary, each once.

    Tokens without a letter or digit, such as a quote, do not count. Word pieces cover most words;
    of others, such as those of another script, a word that is lost at least in part counts.
    """
    vocab = matcher.vocab
    if isinstance(vocab, BertVocabulary):
        return [word for word in dict.fromkeys(sentence.split()) if vocab.count_unknown([word])[1]]
    if not isinstance(vocab, Vocabulary):
        return []
    words = dict.fromkeys(TOKENIZERS[vocab.tokenizer](sentence))
    unknown = (word for word in words if word not in vocab.ids)
    return [word for word in unknown if any(map(str.isalnum, word))]


def knows_no_word(matcher: Matcher, sentence: str) -> bool:
    """Tell whether a matcher knows no word of a sentence: all such sentences look alike to it."""
    vocab = matcher.vocab
    if isinstance(vocab, BertVocabulary):
        pieces, unknown, _ = vocab.count_unknown([sentence])
        return pieces == unknown
    if not isinstance(vocab, Vocabulary):
        return False
    return not any(word in vocab.ids for word in TOKENIZERS[vocab.tokenizer](sentence))


def tell_unknown(matcher: Matcher, sentences: Sequence[str]) -> None:
    """Print words that a matcher does not know, and sentences that are cut or wholly unknown."""
    unknown = dict.fromkeys(word for s in sentences for word in unknown_words(matcher, s))
    if unknown:
        print(f"words the matcher does not know: {printable(' '.join(unknown))}")
    for form in FORMS:
        if known := [s for s in sentences if _knows_more(matcher, s, form)]:
            print(
                printable(
                    f"{known[0]!r} looks the same in Unicode's form {form}, of which the matcher "
                    f"knows more words; write it so, with unicodedata.normalize('{form}', sentence)"
                )
            )
    vocab = matcher.vocab
    for sentence in sentences:
        if isinstance(vocab, BertVocabulary) and vocab.is_cut(sentence):
            print(printable(f"{sentence!r} is cut after {vocab.max_length} word pieces"))
        if knows_no_word(matcher, sentence):
            print(printable(f"no word of {sentence!r} is known: its scores have no meaning"))


def _knows_more(matcher: Matcher, sentence: str, form: Form) -> bool:
    """Tell whether a matcher knows more words of a sentence in one of Unicode's forms."""
    other = unicodedata.normalize(form, sentence)
    return len(unknown_words(matcher, other)) < len(unknown_words(matcher, sentence))


def answer_table(answer: Answer, captions: OwnCaptions) -> str:
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


def write_answers(
    path: str | Path,
    answers: Sequence[Answer],
    split: Split,
    captions: OwnCaptions,
    checkpoint: str | None = None,
    index: str | None = None,
    images: str | Path | None = None,
) -> None:
    """Write answers as a page with pictures (.html) or as data (.json).

    Args:
        path: the file.
        answers: answers from an index of `split`.
        split: what was searched.
        captions: captions of its images.
        checkpoint: path of the matcher, for the record.
        index: folder of the index, for the record if `checkpoint` is None.
        images: folder of pictures, as in `itm.data.pictures.Pictures`.
    """
    if Path(path).suffix == ".html":
        from itm.visual.search_page import search_page  # late: brings Jinja2

        searched = checkpoint or index
        about = f"{split.num_images} images of {split.folder} {split.name}, {searched}"
        text = search_page(answers, captions, Pictures(split, images), about)
    else:
        facts = {"checkpoint": checkpoint, "root": str(split.folder), "split": split.name}
        results = [answer_data(answer, captions) for answer in answers]
        record = {"generator": maker("itm.search"), **facts, "results": results}
        text = json.dumps(record, indent=1, ensure_ascii=False)
    write_text(path, text)


def answer_data(answer: Answer, captions: OwnCaptions) -> dict[str, Any]:
    """Turn an answer into plain data for JSON."""
    if answer.to == "images":
        return {"query": answer.query, "images": [hit._asdict() for hit in answer.hits]}
    own = captions[answer.query]
    found = [{**hit._asdict(), "own": hit.item in own} for hit in answer.hits]
    return {"image": answer.query, "captions": found}
