"""`python -m itm.localise`: which region of an image does a phrase mean?

The protocol of Flickr30K Entities (Plummer et al., IJCV 2017; specified as used by Wang et al.,
TPAMI 2019): a phrase is found when the best region overlaps its box by at least 0.5; all phrases
with a box count, and several boxes of a phrase are one box around them.
"""

from __future__ import annotations

import json
from pathlib import Path

import hydra
import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from itm.app.config import CONF
from itm.app.entry import run
from itm.app.splits import find_split
from itm.data.layout import find_row, name_of, read_array
from itm.phrases.localisation import FOUND, localise, region_scores
from itm.phrases.localisation import measure_localisation as measure
from itm.phrases.split import PhraseSplit

__all__ = ["localise", "measure", "region_scores"]

COLUMNS = ("type", "phrases", "R@1", "R@5", "R@10", "upper bound", "chance")


def command(cfg: DictConfig) -> dict[str, dict[str, float]]:
    """Localise the phrases of a split, print a table, write localisation.json.

    Raises:
        ValueError: no checkpoint.
    """
    # Late: importing this module for `localise` needs nothing of this.
    from itm.checkpoints.folder import load
    from itm.phrases.files import read_phrases
    from itm.phrases.split import phrase_split
    from itm.runs.record import environment
    from itm.runs.tables import rows_table

    if cfg.checkpoint is None:
        raise ValueError("give checkpoint=RUN, the output folder of a training run")
    matcher = load(cfg.checkpoint, model_class=cfg.model_class, device=cfg.device)
    split = find_split(cfg)
    phrases = phrase_split(split, read_phrases(cfg.phrases, split))
    vectors = None if cfg.vectors is None else read_array(Path(cfg.vectors))
    scores = region_scores(matcher, phrases, cfg.context, vectors)
    report = measure(phrases, scores)
    title = f"{type(matcher).__name__}, {split.folder.name} {split.name}, overlap {FOUND}"
    print(rows_table(title, COLUMNS, [[name, *row.values()] for name, row in report.items()]))
    out = Path(HydraConfig.get().runtime.output_dir)
    facts = {"checkpoint": str(cfg.checkpoint), "split": split.name, **environment()}
    path = out / "localisation.json"
    path.write_text(json.dumps({**facts, "results": report}, indent=1), encoding="utf-8")
    print(f"written to {path}")
    if cfg.image is not None:
        print(f"drawn in {_draw(cfg, phrases, scores, out / 'phrases.png')}")
    return report


def _draw(cfg: DictConfig, split: PhraseSplit, scores: np.ndarray, path: Path) -> Path:
    """Draw the phrases of `image=` in its picture.

    Raises:
        ValueError: no such image, or no picture of it.
    """
    from itm.data.pictures import Pictures  # late: Pillow and matplotlib are optional
    from itm.visual import draw_image, save

    row = find_row(split, cfg.image)
    picture = Pictures(split, cfg.images).full(name_of(split, row))
    if picture is None:
        raise ValueError(f"image={cfg.image} has no picture; give images=FOLDER with pictures")
    save(draw_image(picture, split, scores, row), path)
    return path


@hydra.main(version_base="1.3", config_path=CONF, config_name="localise")
def _main(cfg: DictConfig) -> None:
    command(cfg)


def main() -> None:
    """Console entry point."""
    run(_main)


if __name__ == "__main__":
    main()
