"""`python -m itm.search`: find the best images for a sentence, the best captions for an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from itm.app.config import check_one_checkpoint
from itm.app.entry import run
from itm.app.run_data import tell_run_data, use_run_data
from itm.app.splits import find_split
from itm.data.layout import Split, find_row, name_of, read_captions
from itm.index.answers import (
    Answer,
    answer,
    answer_table,
    captions_by_id,
    tell_unknown,
    write_answers,
)
from itm.runs.outputs import check_file
from itm.utils.checks import check_text

if TYPE_CHECKING:
    from itm.index.index import Index

COMMAND = "itm.search"
HOW = (
    "train a matcher first, minutes on a laptop: `python -m itm.train hydra.run.dir=run`, then "
    "`python -m itm.search checkpoint=run query='a red ball'`"
)


def command(cfg: DictConfig) -> list[Answer]:
    """Answer the queries, write `out`, and print a table for each query.

    Raises:
        ValueError: no checkpoint or no query is given, an id is unknown, `top` is below 1, or `out`
            has another ending or exists.
    """
    check_one_checkpoint(cfg.checkpoint)
    asked = _queries(cfg)
    if cfg.top < 1:
        raise ValueError(f"top={cfg.top}: expected at least 1")
    if cfg.out is not None:
        if Path(cfg.out).suffix not in (".html", ".json"):
            raise ValueError(f"out={cfg.out} must end in .html or .json")
        check_file(cfg.out, COMMAND, cfg.overwrite)
    split = find_split(cfg)
    asked = [(to, q if to == "images" else name_of(split, find_row(split, q))) for to, q in asked]
    index = _index(cfg, split)
    tell_run_data()
    answers = [answer(index, to, query, cfg.top, cfg.exact) for to, query in asked]
    captions = captions_by_id(split)
    if cfg.out is not None:
        write_answers(cfg.out, answers, split, captions, cfg.checkpoint, cfg.index, cfg.images)
    sentences = [query for to, query in asked if to == "images"]
    tell_unknown(index.matcher, sentences)
    for found in answers:
        print(answer_table(found, captions))
    if cfg.out is not None:
        print(f"written to {cfg.out}")
    return answers


def _queries(cfg: DictConfig) -> list[tuple[str, str]]:
    """List ("images" or "captions", query) of all queries."""
    if cfg.checkpoint is None and (cfg.index is None or not Path(cfg.index).is_dir()):
        raise ValueError(f"give checkpoint=RUN (a run folder, saved folder or .ckpt); {HOW}")
    if cfg.query is not None:
        check_text(cfg.query, "query=")
    asked = [("images", cfg.query)] if cfg.query is not None else []
    asked += [("captions", cfg.image)] if cfg.image is not None else []
    if cfg.queries is not None:
        lines = read_captions(Path(cfg.queries))
        if not lines:
            raise ValueError(f"queries={cfg.queries} holds no sentence (one a line)")
        asked += [("images", line) for line in lines]
    if not asked:
        raise ValueError("give query='a sentence', image=ID or queries=FILE (one sentence a line)")
    return asked


def _index(cfg: DictConfig, split: Split) -> Index:
    """Read the index in `index=`, or build it and write it there."""
    from itm.index.stored import index_of  # late: imports the models, and takes seconds

    keys = ("model_class", "device", "kind", "shortlist", "batch_size")
    is_new = cfg.index is not None and not Path(cfg.index, "index.json").is_file()
    index = index_of(split, cfg.checkpoint, cfg.index, **{key: cfg[key] for key in keys})
    if is_new:
        print(f"index written to {cfg.index}")
    return index


def main() -> None:
    """Console entry point."""
    run("search", command, use_run_data)


if __name__ == "__main__":
    main()
