"""`python -m itm.convert`: published weights -> a folder that `itm.load` reads."""

import hydra
from omegaconf import DictConfig, OmegaConf

from itm.app.config import CONF
from itm.app.entry import run


def convert(cfg: DictConfig) -> None:
    """Read, check and save.

    Raises:
        ValueError: published= or out= is missing, or the weights are not what they should be.
    """
    from itm.published.convert import from_published

    missing = [key for key in ("published", "out") if OmegaConf.is_missing(cfg, key)]
    if missing:
        raise ValueError(f"give {' and '.join(f'{key}=...' for key in missing)}")
    matcher = from_published(
        cfg.published,
        cfg.vocab,
        cfg.concepts,
        cfg.family,
        cfg.captioner,
        options=OmegaConf.to_container(cfg.options),  # type: ignore[arg-type]
        tokenizer=cfg.tokenizer,
    )
    folder = matcher.save_pretrained(cfg.out)
    parameters = sum(p.numel() for p in matcher.parameters()) / 1e6
    print(f"{type(matcher).__name__}, {parameters:.2f} M parameters, written to {folder}")
    if matcher.vocab is None:
        print("without vocab=... the folder cannot read sentences, only sentence vectors or ids")


@hydra.main(version_base="1.3", config_path=CONF, config_name="convert")
def _main(cfg: DictConfig) -> None:
    convert(cfg)


def main() -> None:
    """Console entry point."""
    run(_main)


if __name__ == "__main__":
    main()
