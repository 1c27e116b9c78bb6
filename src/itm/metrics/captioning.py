"""Score generated sentences by the metrics of the COCO caption evaluation."""

import shutil
import string
import warnings
from collections.abc import Sequence

from itm.text.tokenizers import tokenize

_PUNCTUATION = {*string.punctuation, "``", "''", "...", "--"}

Sentences = dict[int, list[str]]  # number of each image -> sentences


def caption_scores(
    sentences: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Compute BLEU-1 to 4, ROUGE-L, CIDEr-D and, if Java runs, METEOR by pycocoevalcap.

    This library tokenises both sides and removes punctuation. The COCO evaluation server uses the
    PTB tokeniser, a Java program; the two may differ on hyphens and contractions.

    Args:
        sentences: N generated sentences, one per image.
        references: N lists of human captions.

    Returns:
        Name -> score in percent (CIDEr x 100, as is customary).

    Raises:
        ValueError: there are no sentences, the number of reference lists differs, or a list is
            empty.
    """
    if not sentences or len(sentences) != len(references) or not all(references):
        raise ValueError(
            f"{len(sentences)} sentences and {len(references)} lists of references "
            f"({sum(not x for x in references)} empty): every sentence needs at least one reference"
        )
    from pycocoevalcap.bleu.bleu import Bleu  # late, for start-up time
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    written = {i: [plain(sentence)] for i, sentence in enumerate(sentences)}
    human = {i: [plain(line) for line in lines] for i, lines in enumerate(references)}
    bleu, _ = Bleu(4).compute_score(human, written, verbose=0)
    scores = {f"bleu_{n}": value for n, value in enumerate(bleu, 1)}
    scores["rouge_l"] = Rouge().compute_score(human, written)[0]
    scores["cider_d"] = Cider().compute_score(human, written)[0]
    if shutil.which("java") is not None and (found := _meteor(human, written)) is not None:
        scores["meteor"] = found
    return {name: 100 * float(value) for name, value in scores.items()}


def _meteor(human: Sentences, written: Sentences) -> float | None:
    """Compute METEOR; warn and return None if its Java program fails."""
    from pycocoevalcap.meteor.meteor import Meteor  # late, for start-up time

    meteor = Meteor()
    try:
        score: float = meteor.compute_score(human, written)[0]
        return score
    except (OSError, ValueError) as error:  # it ended early, or answered with something else
        failed = error
    finally:
        meteor.meteor_p.kill()
        said = meteor.meteor_p.communicate()[1]  # closes all pipes, which the destructor does not
        if meteor.lock.locked():  # it failed, and the destructor would wait for this lock for ever
            meteor.lock.release()
    reason = " ".join(said.decode(errors="replace").split()) or failed
    warnings.warn(
        f"METEOR is left out, because its Java program failed ({reason}): it needs Java and 2 GB "
        "of memory",
        stacklevel=3,
    )
    return None


def plain(sentence: str) -> str:
    """Lower-case and tokenise a sentence, drop punctuation, and join the tokens by blanks."""
    return " ".join(token for token in tokenize(sentence) if token not in _PUNCTUATION)
