"""`python -m itm.localise`: find the region of an image that a phrase means.

The protocol of Flickr30K Entities (Plummer et al., IJCV 2017; specified as used by Wang et al.,
TPAMI 2019): a phrase is found when the best region overlaps its box by at least 0.5; all phrases
with a box count, and several boxes of a phrase are replaced by the box around them.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from itm.app.config import check_one_checkpoint, output_folder
from itm.app.entry import run
from itm.app.run_data import check_result_folder, tell_run_data, use_run_data
from itm.app.splits import find_split
from itm.data.array_file import load_array
from itm.data.layout import find_row
from itm.phrases.localisation import (
    CONTEXTS,
    FOUND,
    check_scores_regions,
    localise,
    region_scores,
)
from itm.phrases.localisation import measure_localisation as measure
from itm.runs.escape import printable
from itm.runs.outputs import check_folder, result_folder
from itm.utils.checks import check_choice
from itm.utils.log_files import say

__all__ = ["localise", "measure", "region_scores"]

COMMAND = "itm.localise"
FILES = ("localisation.json", "phrases.png")
COLUMNS = ("type", "phrases", "R@1", "R@5", "R@10", "upper bound", "chance")


def command(cfg: DictConfig) -> dict[str, dict[str, float]]:
    """Localise the phrases of a split, write localisation.json, and print a table.

    Raises:
        ValueError: no checkpoint is given, or the folder holds another result.
    """
    # Late, because `from itm.localise import localise` needs none of these.
    from itm.checkpoints.folder import load
    from itm.data.pictures import required_picture
    from itm.matcher.split_scores import warn_words
    from itm.phrases.files import read_phrases
    from itm.phrases.split import phrase_split, region_fractions
    from itm.runs.plain_files import data_name
    from itm.runs.record import environment, split_facts, write_json
    from itm.runs.tables import rows_table

    check_one_checkpoint(cfg.checkpoint)
    if cfg.checkpoint is None:
        raise ValueError("give checkpoint=RUN, the output folder of a training run")
    out = output_folder()
    check_folder(out, COMMAND, FILES, cfg.overwrite)
    check_choice("context", cfg.context, CONTEXTS)
    matcher = load(cfg.checkpoint, model_class=cfg.model_class, device=cfg.device)
    check_scores_regions(matcher)  # first: no other phrases or pictures would help
    split = find_split(cfg)
    source = cfg.phrases or OmegaConf.select(cfg, "data.phrases.path")  # that of data=phrases
    phrases = phrase_split(split, read_phrases(source, split, cfg.refer_split))
    row = picture = None
    if cfg.image is None and cfg.images is not None:
        raise ValueError(f"images={cfg.images} has no effect without image=, which is drawn")
    if cfg.image is not None:
        row = find_row(phrases, cfg.image)
        if not (phrases.caption_image == row).any():
            raise ValueError(
                f"image={cfg.image} has no phrases; leave image= out or choose another"
            )
        picture = required_picture(phrases, row, cfg.images)
        region_fractions(phrases, row, picture.size)  # before the phrases are scored
    vectors = None if cfg.vectors is None else load_array(Path(cfg.vectors))
    scores = region_scores(matcher, phrases, cfg.context, vectors)
    tell_run_data()
    for line in warn_words(matcher, phrases):
        say(printable(line))
    report = measure(phrases, scores)
    facts = {
        "checkpoint": str(cfg.checkpoint),
        **split_facts(phrases, phrases.protocol),
        "phrases": None if source is None else str(Path(source).expanduser().resolve()),
        "refer_split": cfg.refer_split,
        "context": cfg.context,
        **environment(matcher.device),
    }
    with result_folder(out, COMMAND, FILES, cfg.overwrite) as place:
        write_json(place / "localisation.json", {**facts, "results": report})
        if picture is not None and row is not None:
            from itm.visual import draw_image, save  # late: matplotlib is optional

            save(draw_image(picture, phrases, scores, row), place / "phrases.png", command=COMMAND)
    measured = f"{data_name(split.folder.resolve())} {split.name}"
    title = f"{type(matcher).__name__}, {measured}, overlap {FOUND}"
    say(rows_table(title, COLUMNS, [[name, *row.values()] for name, row in report.items()]))
    say(f"written to {out / 'localisation.json'}")
    if picture is not None:
        say(f"drawn in {out / 'phrases.png'}")
    return report


def prepare(arguments: list[str]) -> list[str]:
    """Check the output folder, and take the data of the run of the checkpoint."""
    check_result_folder(arguments, COMMAND, FILES)
    return use_run_data(arguments)


def main() -> None:
    """Console entry point."""
    run("localise", command, prepare)


if __name__ == "__main__":
    main()
