"""`python -m itm.evaluate`: score one or several matchers, or saved similarity matrices."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from itm.app.config import listed, output_folder
from itm.app.entry import run
from itm.app.evaluation import (
    describe_queries,
    find_banks,
    find_matrices,
    find_owner,
    find_relevance,
    plot,
    scored_with,
)
from itm.app.evaluation_options import check_options
from itm.app.run_data import check_result_folder, tell_run_data, use_run_data
from itm.runs.escape import printable
from itm.runs.outputs import check_folder, result_folder
from itm.utils.log_files import say

COMMAND = "itm.evaluate"
FILES = (
    "report.json", "ranks_*.npz", "queries_*.csv", "similarity_*.npy", "described_*.txt",
    "ranks.png", "failures.html",
)  # fmt: skip


def command(cfg: DictConfig) -> dict[str, dict[str, float]]:
    """Measure every matcher and their ensemble; write report.json.

    Returns:
        Name of the row -> metrics.

    Raises:
        ValueError: options contradict each other or the split, or the folder holds another result;
            raised before anything is scored.
    """
    # Late, because they load torch, and `--help` should not wait for it.
    from itm.app.model_outputs import write_sentences
    from itm.app.splits import find_bank, find_scored, split_codes, split_tables
    from itm.checkpoints.folder import load
    from itm.data.pictures import Pictures
    from itm.matcher.weight_identity import weight_digest
    from itm.metrics.rerank import rerank_rows
    from itm.runs.ensembles import ensembles
    from itm.runs.evaluation_files import evaluate_rows, write_evaluation
    from itm.runs.matrices import matrix_facts
    from itm.runs.plain_files import data_name
    from itm.runs.record import environment
    from itm.runs.tables import metric_table

    out, split = output_folder(), find_scored(cfg)
    check_folder(out, COMMAND, FILES, cfg.overwrite)
    protocol = check_options(cfg, split)
    bank = find_bank(cfg, split)
    pictures = Pictures(split, cfg.images) if cfg.failures else None
    tables = split_tables(split, None if cfg.eccv is True else cfg.eccv) if cfg.eccv else None
    codes = None if cfg.pmrp is None else split_codes(cfg.pmrp, split)
    paths = listed(cfg.checkpoint)
    started = datetime.now(timezone.utc).isoformat()  # a training may replace them from now on
    matchers = {x: load(x, None, cfg.model_class, cfg.device) for x in paths}
    tell_run_data()
    described = write_sentences(matchers, split, cfg.batch_size) if cfg.describe else {}
    matrices = find_matrices(cfg, split, matchers)
    owner = find_owner(cfg, next(iter(matrices.values())), split)
    banks = None if bank is None else find_banks(cfg, split, bank, matchers)
    reranked = rerank_rows(matrices, owner, protocol, listed(cfg.rerank), cfg.rerank_beta, banks)
    relevant, sentences = find_relevance(cfg, split)
    rows = evaluate_rows(matrices, owner, protocol, relevant, tables, codes, sentences)
    facts: dict[str, Any] = {
        **matrix_facts(next(iter(matrices.values())), split, protocol),
        "checkpoints": [str(Path(path).resolve()) for path in paths],
        "weights": [weight_digest(matchers[path]) for path in paths],
        "similarity": [str(Path(path).resolve()) for path in listed(cfg.similarity)],
        "members": ensembles(paths, cfg.pairs),
        **environment(next((x.device for x in matchers.values()), None)),
        "started": started,
    }
    facts |= scored_with(cfg)
    if described:
        facts["captioning"] = {path: written.scores for path, written in described.items()}
    facts |= {"reranked": reranked, "reranked_with": describe_queries(bank)} if reranked else {}
    written_for = {paths.index(path): written.sentences for path, written in described.items()}
    with result_folder(out, COMMAND, FILES, cfg.overwrite) as place:
        extras = (cfg.save_ranks, cfg.save_similarity, written_for)
        write_evaluation(place, facts, rows, owner, split, *extras)
        if pictures is not None:
            from itm.visual.failures_page import write_failures  # late: brings Jinja2

            write_failures(place, rows, owner, split, protocol, pictures, cfg.failures)
        if cfg.plot:
            plot({name: row.ranks for name, row in rows.items()}, place / "ranks.png")
    for path, written in described.items():
        say(f"{printable(path)}: " + ", ".join(f"{k} {v:.1f}" for k, v in written.scores.items()))
    report = {name: row.metrics for name, row in rows.items()}
    images, captions = next(iter(matrices.values())).shape
    title = f"{data_name(facts['root'])} {facts['split']}, {images} images, {captions} "
    title += facts.get("sentences", "captions")
    say(metric_table(report, f"{title}, protocol {protocol}"))
    if reranked:
        say(metric_table(reranked, f"re-ranked with {describe_queries(bank)}"))
    say(printable(f"written to {out}"))
    return report


def prepare(arguments: list[str]) -> list[str]:
    """Check the output folder, and take the data of the run of the checkpoint."""
    check_result_folder(arguments, COMMAND, FILES)
    return use_run_data(arguments)


def main() -> None:
    """Console entry point."""
    run("evaluate", command, prepare)


if __name__ == "__main__":
    main()
