"""`python -m itm.explain`: show why an image and a caption score as they do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from itm.app.config import check_one_checkpoint
from itm.app.entry import run
from itm.app.run_data import tell_run_data, use_run_data
from itm.app.splits import find_split
from itm.data.layout import find_row, name_of
from itm.index.answers import tell_unknown
from itm.matcher.explanation import Details, Explanation, explain
from itm.runs.escape import printable
from itm.runs.outputs import check_file
from itm.utils.files import write_text

__all__ = ["Details", "Explanation", "explain"]

COMMAND = "itm.explain"


def command(cfg: DictConfig) -> Path:
    """Explain one pair and write a picture or a page.

    Raises:
        ValueError: no checkpoint is given, the split lacks the image, the caption is empty, or
            `out` has another ending or exists.
    """
    # Late, because `from itm.explain import explain` needs neither matplotlib nor Pillow.
    from itm.checkpoints.folder import load
    from itm.data.pictures import Pictures
    from itm.visual.explanation_figure import draw_explanation, region_boxes
    from itm.visual.explanation_page import explanation_page
    from itm.visual.figure_files import save

    check_one_checkpoint(cfg.checkpoint)
    if cfg.checkpoint is None:
        raise ValueError("give checkpoint=RUN, the output folder of a training run")
    out = Path(cfg.out)
    if out.suffix not in (".png", ".pdf", ".svg", ".html"):
        raise ValueError(f"out={out}: expected a .png, .pdf, .svg or .html")
    check_file(out, COMMAND, cfg.overwrite)
    split = find_split(cfg)
    row = find_row(split, cfg.image)
    caption = cfg.caption
    if caption is None:
        caption = split.captions[int(np.argmax(split.caption_image == row))]
    if not caption.strip():
        raise ValueError("caption= is empty; give a sentence, or leave it out for the image's own")
    matcher = load(cfg.checkpoint, model_class=cfg.model_class)
    found = explain(matcher, split.images(np.array([row]))[0], caption)
    name = name_of(split, row)
    picture = Pictures(split, cfg.images).full(name)
    figure = draw_explanation(found, picture, region_boxes(split, row, picture))
    if out.suffix == ".html":
        write_text(out, explanation_page(found, figure, name))
    else:
        save(figure, out, command=COMMAND)
    tell_run_data()
    numbers = "".join(f", {title} {x:.4g}" for title, x in found.details.numbers.items())
    tell_unknown(matcher, [caption])
    print(f"image {printable(name)}: {caption!r} scores {found.score:.4f}{numbers}")
    print(f"written to {out}")
    return out


def main() -> None:
    """Console entry point."""
    run("explain", command, use_run_data)


if __name__ == "__main__":
    main()
