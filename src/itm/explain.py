"""`python -m itm.explain`: a page on why an image and a caption score as they do."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
import numpy as np
from omegaconf import DictConfig

from itm.app.arguments import quote_free_text
from itm.app.config import CONF
from itm.app.entry import run
from itm.data.layout import Split, find_row, name_of
from itm.data.pictures import Pictures
from itm.matcher.explanation import Details, Explanation, explain
from itm.phrases.boxes import in_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Details", "Explanation", "explain"]

FREE_TEXT = ("caption", "image")


def command(cfg: DictConfig) -> Path:
    """Explain one pair and write a picture or a page.

    Raises:
        ValueError: no checkpoint, an image that the split does not have, or another ending.
    """
    from itm.app.splits import find_split
    from itm.checkpoints.folder import load
    from itm.visual.explanation_figure import draw, save

    if cfg.checkpoint is None:
        raise ValueError("give checkpoint=RUN, the output folder of a training run")
    out = Path(cfg.out)
    if out.suffix not in (".png", ".pdf", ".svg", ".html"):
        raise ValueError(f"out={out}: expected a .png, .pdf, .svg or .html")
    split = find_split(cfg)
    row = find_row(split, cfg.image)
    caption = cfg.caption
    if caption is None:
        caption = split.captions[int(np.argmax(split.caption_image == row))]
    if not caption.strip():
        raise ValueError("caption= is empty; give a sentence, or leave it out for the image's own")
    found = explain(
        load(cfg.checkpoint, model_class=cfg.model_class), split.images(np.array([row]))[0], caption
    )
    name = name_of(split, row)
    picture = Pictures(split, cfg.images).full(name)
    figure = draw(found, picture, fractions(split, row, picture))
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".html":
        out.write_text(report(found, figure, name), encoding="utf-8")
    else:
        save(figure, out)
    print(f"image {name}: {caption!r} scores {found.score:.4f}\nwritten to {out}")
    return out


def fractions(split: Split, row: int, picture: Image | None) -> np.ndarray | None:
    """(R, 4) boxes of an image's regions as fractions of its picture; None without either."""
    if split.boxes is None or picture is None:
        return None
    boxes = np.asarray(split.boxes[split.row[row]], np.float64)
    width, height = picture.size
    return boxes / np.array([width, height, width, height]) if in_pixels(split.boxes) else boxes


def report(explanation: Explanation, figure, name: str) -> str:
    """The page: the figure, and the numbers of labels or concepts."""
    from PIL import Image

    from itm.visual.explanation_figure import save
    from itm.visual.html import element, page, section, table, thumbnail

    content = BytesIO()
    save(figure, content, "png")
    sheet = thumbnail(Image.open(content), 2000, alt="what the matcher looks at")
    lines = element("p", f"image {name}, score {explanation.score:.4f}", class_="quiet")
    tables = [
        section(title, table(["word", "image", "sentence"], rows))
        for title, rows in explanation.details.names.items()
    ]
    return page(explanation.caption, lines, sheet, *tables)


@hydra.main(version_base="1.3", config_path=CONF, config_name="explain")
def _main(cfg: DictConfig) -> None:
    command(cfg)


def main() -> None:
    """Console entry point."""
    sys.argv[1:] = quote_free_text(sys.argv[1:], FREE_TEXT)
    run(_main)


if __name__ == "__main__":
    main()
