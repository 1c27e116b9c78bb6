import json
import math
import os
import subprocess
import sys

import pytest
from cli import run

from itm.metrics.captioning import caption_scores, plain


def test_a_perfect_sentence_and_one_without_a_common_word():
    references = [["a red ball lies here", "a ball"], ["two dogs run on grass", "dogs run"]]
    perfect = caption_scores(["A red ball lies here.", "two dogs run on grass"], references)
    assert perfect["bleu_4"] == pytest.approx(100, abs=1e-3)
    assert perfect["rouge_l"] == pytest.approx(100)
    nothing = caption_scores(["the sky", "the sky"], references)
    assert nothing["bleu_1"] == pytest.approx(0, abs=1e-3) and nothing["cider_d"] == 0


def test_bleu_1_by_hand():
    # 3 of 4 words occur, and the reference is one word longer: brevity penalty exp(1 - 5/4).
    scores = caption_scores(["a red cube lies"], [["a red ball lies here"]])
    assert scores["bleu_1"] == pytest.approx(100 * 0.75 * math.exp(1 - 5 / 4), rel=1e-4)


def test_punctuation_and_case_do_not_count():
    assert plain("A dog, a cat!") == "a dog a cat"


@pytest.mark.parametrize("references", [[], [["a"], ["b"]], [[]]])
def test_references_that_do_not_fit(references):
    with pytest.raises(ValueError, match="every sentence needs at least one reference"):
        caption_scores(["a dog"], references)


def test_evaluate_describes_images_and_counts_plausible_matches(tmp_path):
    run("train", "trainer=fast", "model.embed_dim=16", "model.word_dim=8",
        "model.caption_weight=1", "model.caption_dim=16", "model.caption_word_dim=16",
        "hydra.run.dir=run", cwd=tmp_path)  # fmt: skip
    run("evaluate", "checkpoint=run", "data.limit=20", "describe=true", "hydra.run.dir=said",
        cwd=tmp_path)  # fmt: skip
    report = json.loads((tmp_path / "said/report.json").read_text())
    sentences = (tmp_path / "said/described_0.txt").read_text().splitlines()
    references = scenes_split().head(20).references()
    assert report["captioning"]["run"] == pytest.approx(caption_scores(sentences, references))

    numbers = [int(name.rsplit("-", 1)[-1]) for name in scenes_split().ids[:20]]
    found = [{"image_id": n, "category_id": 1 + n % 3} for n in numbers]
    (tmp_path / "instances.json").write_text(json.dumps({"annotations": found}))
    run("evaluate", "checkpoint=run", "data.limit=20", "pmrp=instances.json",
        "hydra.run.dir=plausible", cwd=tmp_path)  # fmt: skip
    results = json.loads((tmp_path / "plausible/report.json").read_text())["results"]["run"]
    assert 0 < results["i2t_pmrp"] <= 100


def scenes_split():
    from itm.data.layout import read_split
    from itm.scenes import write_scenes

    return read_split(write_scenes(), "test")


def test_a_java_that_does_not_run_leaves_meteor_out(tmp_path):
    """The stub of macOS, or a container with too little memory: the scores never came."""
    (tmp_path / "java").write_text("#!/bin/sh\necho no runtime >&2\nexit 1\n")
    (tmp_path / "java").chmod(0o755)
    code = (
        "from itm.metrics.captioning import caption_scores\n"
        "print(sorted(caption_scores(['a dog', 'a cat'], [['a dog runs'], ['cats', 'two cats']])))"
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.stdout == "['bleu_1', 'bleu_2', 'bleu_3', 'bleu_4', 'cider_d', 'rouge_l']\n"
    assert found.stderr.count("METEOR is left out, because its Java program failed (no run") == 1
    assert "Exception" not in found.stderr
