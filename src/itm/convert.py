"""`python -m itm.convert`: convert published weights to a folder to load."""

from __future__ import annotations

import shlex
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from itm.app.entry import run


def command(cfg: DictConfig) -> None:
    """Read original weights, check them, and write a folder to load.

    Raises:
        TakenError: out= holds other files of the same names, or, without overwrite=true, a
            saved matcher.
        ValueError: published= or out= is missing, or the weights do not fit their model.
    """
    # Late, because they load Lightning, and `--help` should not wait for it.
    from itm.published.convert import from_published
    from itm.runs.record import describe_size
    from itm.utils.manifest import content_hashes

    missing = [key for key in ("published", "out") if OmegaConf.is_missing(cfg, key)]
    if missing:
        raise ValueError(f"give {' and '.join(f'{key}=...' for key in missing)}")
    files = (cfg.published, cfg.vocab, cfg.concepts)
    options: Any = OmegaConf.to_container(cfg.options)
    matcher = from_published(
        *files, cfg.family, cfg.captioner, options=options, tokenizer=cfg.tokenizer, text=cfg.bert
    )
    typed = HydraConfig.get().overrides.task
    matcher.record = {
        "command": shlex.join(["python", "-m", "itm.convert", *typed]),
        "inputs": content_hashes(path for path in (*files, cfg.captioner) if path),
    }
    folder = matcher.save_pretrained(cfg.out, overwrite=cfg.overwrite)
    print(f"{type(matcher).__name__}, {describe_size(matcher)}, written to {folder}")
    if matcher.vocab is None:
        print("without vocab=... the folder cannot read sentences, only sentence vectors or ids")


def main() -> None:
    """Console entry point."""
    run("convert", command)


if __name__ == "__main__":
    main()
