"""`python -m itm.evaluate`: score one or several matchers, or saved similarity matrices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from itm.app.config import CONF, listed, output_folder
from itm.app.entry import run
from itm.app.evaluation import check_options

if TYPE_CHECKING:
    import numpy as np

    from itm.data.layout import Split
    from itm.matcher.matcher import Matcher
    from itm.metrics.ranking import Ranks


def command(cfg: DictConfig) -> dict[str, dict[str, float]]:
    """Measure every matcher and their ensemble; write report.json.

    Returns:
        Name of the row -> metrics.

    Raises:
        ValueError: options that contradict each other or the split, before anything is scored.
    """
    # Late, since they bring torch, which `--help` need not wait for.
    from itm.app.splits import find_split, split_codes, split_tables
    from itm.checkpoints.folder import load
    from itm.metrics.combined import evaluate_all
    from itm.metrics.rerank import rerank_rows
    from itm.relevance.sources import relevance
    from itm.runs.matrices import caption_owner, fits_split
    from itm.runs.record import environment, split_facts, write_json
    from itm.runs.tables import metric_table

    out, split = output_folder(), find_split(cfg)
    protocol = check_options(cfg, split)
    tables = split_tables(split) if cfg.eccv else None
    codes = None if cfg.pmrp is None else split_codes(cfg.pmrp, split)
    checkpoints = listed(cfg.checkpoint)
    matchers = {
        path: load(path, None, cfg.model_class, cfg.device) for path in dict.fromkeys(checkpoints)
    }
    facts: dict[str, Any] = {
        **split_facts(split, protocol),
        "checkpoints": [str(Path(path).resolve()) for path in checkpoints],
        **environment(),
    }
    if cfg.describe:
        facts["captioning"] = describe(cfg, matchers, split, out)
    matrices = score(cfg, matchers, split)
    first = next(iter(matrices.values()))
    owner = caption_owner(first, split)
    if not fits_split(first, split):
        print(
            f"matrix {first.shape} is not from split {split.name}: five captions per image assumed"
        )
    relevant = None
    reranked = rerank_rows(matrices, owner, protocol, listed(cfg.rerank), cfg.rerank_beta)
    if cfg.relevance is not None:
        relevant = relevance(cfg.relevance, split.captions, split.references())
    report, ranks = {}, {}
    for name, matrix in matrices.items():
        report[name], ranks[name] = evaluate_all(matrix, owner, protocol, relevant, tables, codes)
    print(metric_table(report, f"{split.folder.name} {split.name}, protocol {protocol}"))
    facts |= {"reranked": reranked} if reranked else {}
    if reranked:
        print(metric_table(reranked, "re-ranked with all test queries at hand"))
    write_json(out / "report.json", {**facts, "results": report})
    keep(cfg, matrices, ranks, owner, out)
    print(f"written to {out}")
    return report


def describe(
    cfg: DictConfig, matchers: dict[str, Matcher], split: Split, out: Path
) -> dict[str, dict[str, float]]:
    """Print and return the scores of written sentences, which go to described_i.txt."""
    from itm.checkpoints.evaluation import write_sentences

    found = {}
    for path, (sentences, scores) in write_sentences(matchers, split, cfg.batch_size).items():
        file = out / f"described_{listed(cfg.checkpoint).index(path)}.txt"
        file.write_text("\n".join(sentences) + "\n", encoding="utf-8")
        print(f"{path}: " + ", ".join(f"{k} {v:.1f}" for k, v in scores.items()))
        found[path] = scores
    return found


def score(cfg: DictConfig, matchers: dict[str, Matcher], split: Split) -> dict[str, np.ndarray]:
    """Name the score matrices: of each matcher or file, of their ensemble, of completed labels."""
    from itm.checkpoints.evaluation import score_completed, score_split
    from itm.runs.matrices import read_matrices, with_ensemble

    completed = {}
    if cfg.transductive is not None:  # first, since it fails where no matcher has labels
        completed = score_completed(matchers, split, cfg.transductive, cfg.batch_size)
    if cfg.similarity is not None:
        names = listed(cfg.similarity)
        return with_ensemble(names, read_matrices(names)) | completed
    names = listed(cfg.checkpoint)
    scores = {}
    for path, matcher in matchers.items():
        matcher.memory_budget = cfg.memory_budget
        scores[path] = score_split(matcher, split, cfg.batch_size)
    return with_ensemble(names, [scores[path] for path in names]) | completed


def keep(
    cfg: DictConfig,
    matrices: dict[str, np.ndarray],
    ranks: dict[str, Ranks],
    owner: np.ndarray,
    out: Path,
) -> None:
    """Write the ranks, the matrices and the plot that were asked for."""
    from itm.runs.matrices import write_matrices
    from itm.runs.record import write_ranks

    if cfg.save_ranks:
        for i, both in enumerate(ranks.values()):
            write_ranks(out / f"ranks_{i}.npz", *both, owner)
    if cfg.save_similarity:
        write_matrices(out, matrices.values())
    if cfg.plot:
        try:
            from itm.visual.report_figures import plot_ranks
        except ImportError:
            print("no plot: pip install 'itm-lightning[plot]'")
        else:
            plot_ranks(ranks, out / "ranks.png")


@hydra.main(version_base="1.3", config_path=CONF, config_name="evaluate")
def _main(cfg: DictConfig) -> None:
    command(cfg)


def main() -> None:
    """Console entry point."""
    run(_main)


if __name__ == "__main__":
    main()
