"""`python -m itm.search`: the best images for a sentence, the best captions for an image."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import hydra
from omegaconf import DictConfig

from itm.app.arguments import quote_free_text
from itm.app.config import CONF
from itm.app.entry import run
from itm.app.splits import find_split
from itm.data.layout import Split, read_captions

if TYPE_CHECKING:
    from itm.index.index import Hit, Index
    from itm.matcher.matcher import Matcher

Own = dict[str, list[str]]  # id of each image -> its own captions

FREE = ("query", "image", "queries", "checkpoint", "index", "out", "images")
HOW = (
    "train a matcher first, minutes on a laptop: `python -m itm.train hydra.run.dir=run`, then "
    "`python -m itm.search checkpoint=run query='a red ball'`"
)


class Answer(NamedTuple):
    """What was found for one query.

    Attributes:
        query: the sentence, or the image's id.
        to: "images" or "captions".
        hits: best first.
    """

    query: str
    to: str
    hits: list[Hit]


def search(cfg: DictConfig) -> list[Answer]:
    """Answer the queries; print a table for each, and write `out`.

    Raises:
        ValueError: no checkpoint, no query, an unknown id, `top` below 1, or an `out` of another
            kind.
    """
    asked = _queries(cfg)
    if cfg.out is not None and Path(cfg.out).suffix not in (".html", ".json"):
        raise ValueError(f"out={cfg.out} must end in .html or .json")
    if cfg.top < 1:
        raise ValueError(f"top={cfg.top}: expected at least 1")
    from itm.data.layout import find_row  # late: what it imports takes seconds, mistakes need not

    split = find_split(cfg)
    own = _captions_of(split)
    asked = [
        (to, query if to == "images" else list(own)[find_row(split, query)]) for to, query in asked
    ]
    index = _index(cfg, split)
    answers = []
    for to, query in asked:
        _mention_unknown(index, to, query)
        given: dict[str, Any] = {"sentence" if to == "images" else "image": query}
        answers.append(Answer(query, to, index.search(**given, top=cfg.top, exact=cfg.exact)))
        print(_table(answers[-1], own))
    if cfg.out is not None:
        made = _page if Path(cfg.out).suffix == ".html" else _json
        Path(cfg.out).parent.mkdir(parents=True, exist_ok=True)
        Path(cfg.out).write_text(made(cfg, split, own, answers), encoding="utf-8")
        print(f"written to {cfg.out}")
    return answers


def _queries(cfg: DictConfig) -> list[tuple[str, str]]:
    """(what is looked for, query) of all queries."""
    if cfg.checkpoint is None and (cfg.index is None or not Path(cfg.index).is_dir()):
        raise ValueError(f"give checkpoint=RUN (a run folder, saved folder or .ckpt); {HOW}")
    asked = [("images", cfg.query)] if cfg.query is not None else []
    asked += [("captions", cfg.image)] if cfg.image is not None else []
    if cfg.queries is not None:
        asked += [("images", line) for line in read_captions(Path(cfg.queries))]
    if not asked:
        raise ValueError("give query='a sentence', image=ID or queries=FILE (one sentence a line)")
    return asked


def _index(cfg: DictConfig, split: Split) -> Index:
    """The index of the split, read from or written to `index` when given.

    Raises:
        ValueError: the saved index is of another split or of another matcher.
    """
    from itm.checkpoints.folder import load
    from itm.index.index import Index
    from itm.utils.devices import find_device

    if cfg.index is not None and Path(cfg.index, "index.json").is_file():
        index = Index.load(cfg.index, device=find_device(cfg.device), model_class=cfg.model_class)
        index.shortlist = cfg.shortlist
        if cfg.checkpoint is not None and not _same(
            load(cfg.checkpoint, model_class=cfg.model_class), index.matcher
        ):
            raise ValueError(
                f"the index {cfg.index} was made by another matcher than {cfg.checkpoint}; choose "
                "another index= folder, or leave out checkpoint= to search with its own"
            )
        if index.ids != _ids(split) or index.captions != split.captions:
            raise ValueError(
                f"the index {cfg.index} is not of split {split.name} in {split.folder} "
                f"({len(index.ids)} and {split.num_images} images); choose another index= folder"
            )
        return index
    index = Index(
        load(cfg.checkpoint, model_class=cfg.model_class, device=cfg.device),
        split,
        _ids(split),
        kind=cfg.kind,
        shortlist=cfg.shortlist,
        batch_size=cfg.batch_size,
    )
    if cfg.index is not None:
        print(f"index written to {index.save(cfg.index)}")
    return index


def _same(a: Matcher, b: Matcher) -> bool:
    """Whether two matchers have the same tensors."""
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(
        mine[k].shape == other[k].shape and bool((mine[k] == other[k].cpu()).all()) for k in mine
    )


def _ids(split: Split) -> list[str]:
    return split.ids or [str(row) for row in range(split.num_images)]


def _mention_unknown(index: Index, to: str, query: str) -> None:
    """Say which words of a sentence the matcher has never seen."""
    from itm.text.tokenizers import TOKENIZERS
    from itm.text.vocabulary import Vocabulary

    vocab = index.matcher.vocab
    if to == "images" and isinstance(vocab, Vocabulary):
        words = TOKENIZERS[vocab.tokenizer](query)
        unknown = [word for word in dict.fromkeys(words) if word not in vocab.ids]
        if unknown:
            print(f"words the matcher does not know: {_printable(' '.join(unknown))}")


def _captions_of(split: Split) -> Own:
    """Id of each image -> its own captions."""
    found: dict[str, list[str]] = {name: [] for name in _ids(split)}
    names = list(found)
    for caption, row in zip(split.captions, split.caption_image, strict=True):
        found[names[row]].append(caption)
    return found


# Output -------------------------------------------------------------------------------------------


def _table(answer: Answer, own: Own) -> str:
    from itm.runs.tables import rows_table

    if answer.to == "images":
        title, columns = answer.query, ["", "image", "score", "one of its captions"]
        rows = [[hit.item, hit.score, next(iter(own[hit.item]), "")] for hit in answer.hits]
    else:
        title, columns = f"image {answer.query}", ["", "caption", "score", "its own"]
        mine = own[answer.query]
        rows = [[hit.item, hit.score, "yes" if hit.item in mine else ""] for hit in answer.hits]
    cells = [
        [place, _plain(item), f"{score:.4f}", _plain(note)]
        for place, (item, score, note) in enumerate(rows, 1)
    ]
    return rows_table(_plain(title), columns, cells)


def _plain(text: str) -> str:
    """Anybody's text for a table: rich's markup does not act in it."""
    from rich.markup import escape

    return escape(_printable(text))


def _printable(text: str) -> str:
    """Text for a terminal, without control characters."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _json(cfg: DictConfig, split: Split, own: Own, answers: list[Answer]) -> str:
    results = [
        {"query": answer.query, "images": [hit._asdict() for hit in answer.hits]}
        if answer.to == "images"
        else {
            "image": answer.query,
            "captions": [
                {**hit._asdict(), "own": hit.item in own[answer.query]} for hit in answer.hits
            ],
        }
        for answer in answers
    ]
    facts = {"checkpoint": cfg.checkpoint, "root": str(split.folder), "split": split.name}
    return json.dumps({**facts, "results": results}, indent=1, ensure_ascii=False)


def _page(cfg: DictConfig, split: Split, own: Own, answers: list[Answer]) -> str:
    from itm.data.pictures import Pictures
    from itm.visual import html as pages

    pictures = Pictures(split, cfg.images)
    sections = []
    for answer in answers:
        if answer.to == "images":
            cards = [
                pages.card(
                    next(iter(own[hit.item]), ""),
                    picture=pictures.thumbnail(hit.item),
                    note=f"{place}. {hit.item}, score {hit.score:.4f}",
                    good=answer.query in own[hit.item],
                )
                for place, hit in enumerate(answer.hits, 1)
            ]
            sections.append(pages.section(answer.query, pages.gallery(*cards)))
        else:
            rows = [
                (
                    place,
                    hit.item,
                    f"{hit.score:.4f}",
                    "its own" if hit.item in own[answer.query] else "",
                )
                for place, hit in enumerate(answer.hits, 1)
            ]
            table = pages.table(["", "caption", "score", ""], rows)
            shown = pictures.thumbnail(answer.query) or ""
            sections.append(pages.section(f"Image {answer.query}", shown, table))
    about = f"{len(own)} images of {split.folder.name} {split.name}, {cfg.checkpoint or cfg.index}"
    return pages.page("Search", pages.element("p", about, class_="quiet"), *sections)


@hydra.main(version_base="1.3", config_path=CONF, config_name="search")
def _main(cfg: DictConfig) -> None:
    search(cfg)


def main() -> None:
    """Console entry point."""
    sys.argv[1:] = quote_free_text(sys.argv[1:], FREE)
    run(_main)


if __name__ == "__main__":
    main()
