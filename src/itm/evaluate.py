"""`python -m itm.evaluate`: score one or several matchers, or saved similarity matrices."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig

from itm.app.config import CONF
from itm.app.entry import run
from itm.app.splits import find_split
from itm.data.layout import Split
from itm.metrics.protocols import check_size

if TYPE_CHECKING:
    from itm.metrics.eccv import Tables
    from itm.metrics.ranking import Ranks

LEAST_MEMORY = 2**20  # a block of less is slow, and a number of gigabytes rather than of bytes


def evaluate(cfg: DictConfig) -> dict[str, dict[str, float]]:
    """Metrics of every matcher and of their ensemble; writes report.json.

    Returns:
        Name of the row -> metrics.

    Raises:
        ValueError: options that contradict each other or the split, before anything is scored.
    """
    from itm.app.splits import split_codes, split_tables
    from itm.models.cvse.transductive import PUBLISHED
    from itm.relevance.sources import check_source
    from itm.runs.record import environment, split_facts, write_ranks
    from itm.runs.tables import metric_table

    out = Path(HydraConfig.get().runtime.output_dir)
    split = find_split(cfg)
    protocol = cfg.protocol or split.protocol
    if cfg.similarity is None:  # before the scores, which take minutes
        check_size(protocol, split.num_images, len(split.captions))
    if cfg.relevance is not None:
        check_source(cfg.relevance)
    if cfg.batch_size < 1:
        raise ValueError(f"batch_size={cfg.batch_size}: expected at least 1")
    if cfg.memory_budget < LEAST_MEMORY:
        raise ValueError(
            f"memory_budget={cfg.memory_budget} is too small: it is a number of bytes, at least "
            f"{LEAST_MEMORY} (1 MiB); the default is 1073741824 (1 GiB)"
        )
    if cfg.transductive is not None and cfg.transductive not in PUBLISHED:
        raise ValueError(
            f"transductive={cfg.transductive} must be {' or '.join(PUBLISHED)}, whose rule to use"
        )
    completed = {} if cfg.transductive is None else complete(cfg, split)
    tables = split_tables(split) if cfg.eccv else None
    codes = None if cfg.pmrp is None else split_codes(cfg.pmrp, split)
    captioning = describe(cfg, split, out) if cfg.describe else None
    matrices: dict[str, np.ndarray] = {}
    for name, matrix in _matrices(cfg, split, out):
        # The same file given twice is two members of the ensemble.
        matrices[f"{name} #{len(matrices) + 1}" if name in matrices else name] = matrix
    if len(matrices) > 1:
        matrices[f"ensemble of {len(matrices)}"] = _mean(list(matrices.values()))
    matrices |= completed
    owner = caption_owner(next(iter(matrices.values())), split)
    relevance = find_relevance(cfg.relevance, split)
    report, ranks = {}, {}
    for i, (name, S) in enumerate(matrices.items()):
        report[name], ranks[name] = measure(S, owner, protocol, relevance, tables, codes)
        if cfg.save_ranks:
            write_ranks(out / f"ranks_{i}.npz", *ranks[name], owner)
    title = f"{split.folder.name} {split.name}, protocol {protocol}"
    print(metric_table(report, title))
    facts = {
        **split_facts(split, protocol),
        "checkpoints": [str(Path(path).resolve()) for path in names_of(cfg.checkpoint)],
        **environment(),
    }
    if captioning is not None:
        facts["captioning"] = captioning
    (out / "report.json").write_text(json.dumps({**facts, "results": report}, indent=1))
    _keep(cfg, matrices, ranks, out)
    print(f"written to {out}")
    return report


def names_of(value: Any) -> list[str]:
    """No, one or several paths as a list."""
    return [str(x) for x in (value if isinstance(value, ListConfig) else [value]) if x is not None]


def _matrices(cfg: DictConfig, split: Split, out: Path) -> Any:
    """(name, (N, M) scores) of every checkpoint or file, one matrix after the other.

    Raises:
        ValueError: neither or both of checkpoint= and similarity=, or a file of the wrong shape.
    """
    if (cfg.checkpoint is None) == (cfg.similarity is None):
        raise ValueError("give either checkpoint=FOLDER or similarity=FILE.npy (or a list of them)")
    if cfg.similarity is not None:
        first: tuple[int, ...] | None = None
        for path in names_of(cfg.similarity):
            matrix = np.load(path, mmap_mode="r", allow_pickle=False)
            if matrix.ndim != 2 or (first is not None and matrix.shape != first):
                raise ValueError(
                    f"{path} is {matrix.shape}, expected (images, captions) {first or ''}"
                )
            first = matrix.shape
            yield path, matrix
        return
    settings = (split, cfg.device, cfg.batch_size, cfg.memory_budget, cfg.model_class)
    for path in names_of(cfg.checkpoint):
        yield path, score_split(path, *settings)


def score_split(
    checkpoint: str,
    split: Split,
    device: str,
    batch_size: int,
    memory_budget: int,
    model_class: str | None = None,
) -> np.ndarray:
    """(N, M) scores of a saved matcher on a split; each image and caption is encoded once."""
    from itm.checkpoints.folder import load
    from itm.layers.text import as_text_encoder

    matcher = load(checkpoint, model_class=model_class, device=device)
    matcher.memory_budget = memory_budget
    vectors = as_text_encoder(matcher.text).needs_vectors
    sentences = split.sentence_vectors() if vectors else split.captions
    return matcher.score(split.view(), sentences, batch_size)


def complete(cfg: DictConfig, split: Split) -> dict[str, np.ndarray]:
    """Scores of every CVSE with concept labels that captions of the test set lend each other.

    Raises:
        ValueError: none of the matchers is a CVSE.
    """
    from itm.checkpoints.folder import load
    from itm.models.cvse.cvse import CVSE
    from itm.models.cvse.transductive import PUBLISHED, score_transductive

    found = {}
    for path in names_of(cfg.checkpoint):
        matcher = load(path, model_class=cfg.model_class, device=cfg.device)
        if isinstance(matcher, CVSE):
            found[f"{path} (transductive)"] = score_transductive(
                matcher, split.view(), split.captions, *PUBLISHED[cfg.transductive], cfg.batch_size
            )
    if not found:
        raise ValueError("transductive= completes the concept labels of CVSE; give its checkpoint=")
    return found


def _mean(matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Mean similarity of an ensemble."""
    total = np.array(matrices[0], np.float32)
    for matrix in matrices[1:]:
        total += matrix
    return total / len(matrices)


def caption_owner(matrix: np.ndarray, split: Split) -> np.ndarray:
    """(M,) image of each caption, from the split, or five per image for a matrix of another size.

    Raises:
        ValueError: the matrix fits neither.
    """
    images, captions = matrix.shape
    if (images, captions) == (split.num_images, len(split.captions)):
        return split.caption_image
    if captions == 5 * images:
        print(
            f"matrix {matrix.shape} is not from split {split.name}: five captions per image assumed"
        )
        return np.arange(captions) // 5
    raise ValueError(
        f"the matrix is {matrix.shape}, but {split.folder} {split.name} has {split.num_images} "
        f"images and {len(split.captions)} captions; choose data= and data.split= of the matrix"
    )


def find_relevance(name: str | None, split: Split) -> np.ndarray | None:
    """(M, N) semantic relevance: CIDEr-D of the split, or a file."""
    if name is None:
        return None
    from itm.relevance.sources import relevance

    return relevance(name, split.captions, split.references())


def measure(
    scores: np.ndarray,
    owner: np.ndarray,
    protocol: str,
    relevance: np.ndarray | None = None,
    tables: Tables | None = None,
    codes: np.ndarray | None = None,
) -> tuple[dict[str, float], Ranks]:
    """All metrics of one matrix, and the ranks of its queries."""
    from itm import metrics

    results, ranks = metrics.evaluate_queries(scores, owner, protocol, relevance)
    if tables is not None:
        from itm.metrics.eccv import evaluate_eccv

        results |= evaluate_eccv(scores, tables)
    if codes is not None:
        from itm.metrics.pmrp import pmrp

        results |= pmrp(scores, codes, owner, protocol, annotated=codes.max(1) > 0)
    return results, ranks


def describe(cfg: DictConfig, split: Split, out: Path) -> dict[str, dict[str, float]]:
    """Captioning scores of every matcher that writes sentences, which go to described_i.txt.

    Raises:
        ValueError: none of the matchers can.
    """
    from itm.checkpoints.folder import load
    from itm.metrics.captioning import caption_scores
    from itm.models.vsrn.vsrn import VSRN

    found = {}
    for i, path in enumerate(names_of(cfg.checkpoint)):
        matcher = load(path, model_class=cfg.model_class, device=cfg.device)
        if not isinstance(matcher, VSRN) or matcher.captioner is None:
            continue
        sentences = matcher.describe(split.view(), cfg.batch_size)
        (out / f"described_{i}.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
        found[path] = caption_scores(sentences, split.references())
        print(f"{path}: " + ", ".join(f"{k} {v:.1f}" for k, v in found[path].items()))
    if not found:
        raise ValueError(
            "describe=true needs a matcher that writes sentences: VSRN with model.caption_weight>0"
        )
    return found


def _keep(
    cfg: DictConfig, matrices: dict[str, np.ndarray], ranks: dict[str, Ranks], out: Path
) -> None:
    """Write matrices and the plot, as asked."""
    if cfg.save_similarity:
        for i, matrix in enumerate(matrices.values()):
            np.save(out / f"similarity_{i}.npy", matrix)
    if cfg.plot:
        try:
            from itm.visual.ranks_figure import plot_ranks
        except ImportError:
            print("no plot: pip install 'itm-lightning[plot]'")
        else:
            plot_ranks(ranks, out / "ranks.png")


@hydra.main(version_base="1.3", config_path=CONF, config_name="evaluate")
def _main(cfg: DictConfig) -> None:
    evaluate(cfg)


def main() -> None:
    """Console entry point."""
    run(_main)


if __name__ == "__main__":
    main()
