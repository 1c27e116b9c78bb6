"""Get a relevance matrix by name: CIDEr-D, SPICE, a text encoder, or a file."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from itm.metrics.graded_lists import as_relevance
from itm.relevance.cider_d import cider
from itm.relevance.ngrams import SplitWords, whitespace_tokens
from itm.relevance.sentences import (
    is_text_encoder,
    read_encoder_tokenizer,
    sentence_similarity,
)
from itm.utils.checks import check_references
from itm.utils.manifest import checksum


def relevance(
    source: str | Path | np.ndarray,
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    tokens: SplitWords = whitespace_tokens,
) -> np.ndarray:
    """Get a relevance matrix by name, from a file, or as given.

    Args:
        source: `cider`, `spice`, the path of a .npy file, the folder of a text
            encoder (`itm.relevance.sentence_similarity`), or the matrix itself.
        captions: M captions.
        references: N lists of reference captions.
        tokens: caption -> words, for CIDEr-D.

    Returns:
        (M, N) relevance of each caption for each image.

    Raises:
        ValueError: the name is unknown; the matrix has the wrong shape or holds negative, infinite
            or NaN values; or the file is damaged.
        FileNotFoundError: the file does not exist.
    """
    check_source(source)
    if isinstance(source, str) and source == "cider":
        return cider(captions, references, tokens=tokens)
    if isinstance(source, str) and source == "spice":
        return spice(captions, references)
    if is_text_encoder(source):
        return sentence_similarity(captions, references, str(source))
    matrix = source if isinstance(source, np.ndarray) else _read_matrix(Path(source))
    return as_relevance(matrix, len(captions), len(references))


def source_name(source: str) -> str:
    """Name a source of relevance, a file together with its checksum."""
    path = Path(source)
    return f"{path.name} {checksum(path)}" if path.is_file() else path.name


def _read_matrix(path: Path) -> np.ndarray:
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # compares the sizes
        del array
        with path.open("rb") as file:  # a map would end the process if the file shrank
            found: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
        return found
    except Exception as error:  # a damaged header can raise anything
        raise ValueError(
            f"relevance file {path} ({path.stat().st_size} bytes) is not a complete .npy file "
            f"({error})"
        ) from error


def check_source(source: str | Path | np.ndarray) -> None:
    """Check a source of relevance early, before scores are computed.

    Raises:
        ValueError: the name is unknown, or the folder of a text encoder has no tokeniser.
        FileNotFoundError: the file does not exist.
        SpiceError: there is no Java.
    """
    if isinstance(source, np.ndarray) or source == "cider":
        return
    if source == "spice":
        return _check_java()
    if is_text_encoder(source):
        read_encoder_tokenizer(str(source))
        return
    if Path(source).suffix != ".npy":
        raise ValueError(
            f"unknown relevance {str(source)!r}: choose cider, spice, the path of a .npy file or "
            "the folder of a text encoder (with its config.json)"
        )
    if not Path(source).is_file():
        raise FileNotFoundError(f"relevance file {source} does not exist")


def group_captions(captions: Sequence[str], caption_image: ArrayLike) -> list[list[str]]:
    """Group captions by image, to be used as `references`.

    Args:
        captions: M captions.
        caption_image: (M,) row of each caption's image.

    Returns:
        max(caption_image) + 1 lists.

    Raises:
        ValueError: the counts differ, or a row is negative.
    """
    rows = np.asarray(caption_image)
    if rows.min(initial=0) < 0:
        raise ValueError(f"caption_image must hold rows from 0 on, got {rows.min()}")
    references: list[list[str]] = [[] for _ in range(int(rows.max(initial=-1)) + 1)]
    for caption, row in zip(captions, rows.tolist(), strict=True):
        references[row].append(caption)
    return references


class SpiceError(RuntimeError, OSError):
    """SPICE cannot run: no Java, no parser, or its program failed; commands print one line."""


def _check_java() -> None:
    if shutil.which("java") is None:
        raise SpiceError(
            "SPICE needs Java, but there is no `java` on the PATH: install a Java 8 runtime, use "
            "relevance=cider, or give a matrix of precomputed scores (.npy)"
        )


def spice(
    captions: Sequence[str], references: Sequence[Sequence[str]], block: int = 20000
) -> np.ndarray:
    """Compute the SPICE F-score (0..1) of every caption against the references of every image.

    Run the Java program in `pycocoevalcap`, which downloads its parser on first use. Each pair
    compares two scene graphs, so use SPICE for thousands of pairs, not for a whole split.

    Args:
        captions: M captions.
        references: N non-empty lists of reference captions.
        block: number of pairs per Java process.

    Returns:
        (M, N) float64; NaN from SPICE (no scene graph on either side) becomes 0.

    Raises:
        SpiceError: Java is missing or fails, or the parser cannot be downloaded.
    """
    check_references(references)
    _check_java()
    from pycocoevalcap.spice.spice import Spice  # slow to import, and rarely used

    result = np.zeros((len(captions), len(references)))
    total = result.size
    for start in range(0, total, block):
        pairs = range(start, min(start + block, total))
        part = [divmod(pair, len(references)) for pair in pairs]
        try:
            _, scores = Spice().compute_score(
                {p: list(references[i]) for p, (_, i) in enumerate(part)},
                {p: [captions[c]] for p, (c, _) in enumerate(part)},
            )
        except OSError as error:  # URLError among them
            raise SpiceError(
                "SPICE could not download its parser (stanford-corenlp 3.6.0): put its two jar "
                "files into pycocoevalcap/spice/lib, or connect to the internet"
            ) from error
        except subprocess.CalledProcessError as error:
            raise SpiceError(
                f"SPICE's Java program failed (exit code {error.returncode}): it needs Java 8 and "
                "8 GB of memory"
            ) from error
        for (c, i), score in zip(part, scores, strict=True):
            result[c, i] = np.nan_to_num(score["All"]["f"])
    return result
