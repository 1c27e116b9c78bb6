"""What `from_published` refuses and completes, and what `save_published` and `convert` write."""

import argparse
import hashlib
import json
import os
import warnings
import zipfile
from collections import OrderedDict
from importlib import import_module

import numpy as np
import pytest
import torch
from cli import run
from golden_metrics import check_recalls
from goldens_path import case, read_npz, shared
from hostile import Hostile
from toy import MeanMatcher

import itm
from itm.checkpoints.initialise import start_from
from itm.models import CASC, SCAN
from itm.published.convert import from_published, read_checkpoint, save_published
from itm.text.concepts import Concepts
from itm.text.vocabulary import SPECIALS, Vocabulary


def rewrite(tmp_path, name, change, **options):
    """A golden checkpoint whose state dicts `change` has edited."""
    states, opt = read_checkpoint(case(name) / "checkpoint.pth.tar")
    states = [OrderedDict(state) for state in states]
    change(states)
    path = tmp_path / "model_best.pth.tar"
    torch.save({"model": states, "opt": argparse.Namespace(**{**opt, **options})}, path)
    return path


def without(state, *parts):
    for name in [name for name in state if any(part in name for part in parts)]:
        del state[name]


FAMILIES = {"casc", "cvse", "scan", "sgraf", "vsrn"}


@pytest.mark.parametrize("family", ["casc", "scan", "sgraf"])
def test_a_family_leaves_checkpoints_of_others_alone(family):
    read = import_module(f"itm.published.{family}").read
    paths = [p for p in shared("goldens").glob("*/*/*.pth.tar") if p.parts[-3] in FAMILIES]
    assert {p.parts[-3] for p in paths} == FAMILIES
    for path in paths:
        if path.parts[-3] != family:
            assert read(*read_checkpoint(path)) is None, path


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("scan/t2i_lse", lambda s: without(s[1], "_reverse"), "bi_gru=True, its tensors False"),
        (
            "scan/t2i_lse_weightnorm_nonorm_2layer",
            lambda s: without(s[1], "_l1"),
            "num_layers=2, its tensors 1",
        ),
        ("sgraf/sgr", lambda s: without(s[2], "SGR_module.2."), "sgr_step=3, its tensors 2"),
        ("scan/t2i_lse", lambda s: without(s[0], "fc.bias"), "missing image.bias"),
        ("scan/t2i_lse", lambda s: without(s[1], "embed"), "scan weights without their 'embed"),
        ("scan/t2i_lse", lambda s: s[0].update(x=torch.ones(2)), r"unexpected x \(2,\)"),
        ("sgraf/saf", lambda s: without(s[2], "SAF_module.bn.weight"), "missing reduce.norm.w"),
        ("sgraf/saf", lambda s: without(s[2], "sim_tranloc_w"), "sgraf weights without their"),
        ("casc/all_bigru_maxviol", lambda s: without(s[2], "fc2.bias"), "missing head.second.bias"),
        ("casc/all_bigru_maxviol", lambda s: s.pop(), "CASC .* lack their third state dict"),
        ("vsrn/f30k_caption", lambda s: without(s[0], "Rs_GCN_1.g"), r"missing image.blocks.0.g"),
        ("cvse/f30k", lambda s: s.pop(), "must be 8 state dicts, got 7"),
        ("scan/t2i_lse", lambda s: s[0]["fc.bias"].fill_(np.nan), "image.bias holds NaN"),
        (
            "scan/t2i_lse",
            lambda s: s[0].update({5: torch.ones(2)}),
            "has the key 5, expected names",
        ),
        (
            "scan/t2i_lse",
            lambda s: s[0].update({"fc.bias": 5}),
            "fc.bias is a int, expected a tensor",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_named(tmp_path, name, change, message):
    path = rewrite(tmp_path, name, change)
    with pytest.raises(ValueError, match=message):
        from_published(path)


def test_batches_that_old_versions_did_not_count(tmp_path):
    def change(states):
        without(states[2], "num_batches_tracked")

    matcher = from_published(rewrite(tmp_path, "sgraf/saf", change))
    whole = from_published(case("sgraf/saf") / "checkpoint.pth.tar").state_dict()
    for name, value in matcher.state_dict().items():
        expected = torch.tensor(0) if name.endswith("num_batches_tracked") else whole[name]
        assert torch.equal(value, expected), name


def test_some_options_for_a_checkpoint_without_any(tmp_path, capsys):
    states, _ = read_checkpoint(case("scan/i2t_lse") / "checkpoint.pth.tar")
    torch.save({"model": states}, tmp_path / "m.pth.tar")
    matcher = from_published(tmp_path / "m.pth.tar", options={"lambda_softmax": 4.0})
    assert type(matcher) is SCAN and matcher.hparams["temperature"] == 4.0
    assert matcher.hparams["direction"] == "t2i"
    options = {"cross_attn": "i2t", "no_imgnorm": True}
    matcher = from_published(tmp_path / "m.pth.tar", options=options)
    assert (matcher.hparams["direction"], matcher.hparams["normalize_images"]) == ("i2t", False)
    assert "without effect" not in capsys.readouterr().out
    from_published(tmp_path / "m.pth.tar", options={"use_restval": True, "margin": 0.1})
    assert "without effect on scan weights: use_restval\n" in capsys.readouterr().out
    with pytest.raises(ValueError, match="'lambda_softmaxx'; did you mean 'lambda_softmax'"):
        from_published(tmp_path / "m.pth.tar", options={"lambda_softmaxx": 4.0})
    with pytest.raises(ValueError, match="options say embed_size=1024, its tensors 24"):
        from_published(tmp_path / "m.pth.tar", options={"embed_size": 1024})
    with pytest.raises(ValueError, match="option for temperature is nan, expected a finite number"):
        from_published(tmp_path / "m.pth.tar", options={"lambda_softmax": float("nan")})
    with pytest.raises(IsADirectoryError, match="is a folder: give the checkpoint file in it"):
        from_published(tmp_path)


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        (zipfile.ZipInfo("x"), r"zipfile\.\S*ZipInfo"),
        (Hostile(os.system, "true"), r"\w+\.system"),
    ],
)
def test_a_foreign_class_is_named(tmp_path, extra, name):
    torch.save({"model": [], "extra": extra}, tmp_path / "m.pth.tar")
    with pytest.raises(ValueError, match=f"GLOBAL {name}") as found:
        from_published(tmp_path / "m.pth.tar")
    assert "weights_only" not in str(found.value)


def test_reading_leaves_the_caller_s_safe_classes_alone():
    with torch.serialization.safe_globals([argparse.Namespace]):
        read_checkpoint(case("scan/t2i_lse") / "checkpoint.pth.tar")
        assert argparse.Namespace in torch.serialization.get_safe_globals()


def test_parts_of_other_weights(tmp_path):
    vsrn, scan = (case(x) / "checkpoint.pth.tar" for x in ("vsrn/f30k_caption", "scan/t2i_lse"))
    with pytest.raises(ValueError, match="captioner=.*scan.* expected the tensors of VSRN's"):
        from_published(vsrn, captioner=scan)
    branch = case("vsrn/f30k_caption") / "caption_model.pth.tar"
    with pytest.raises(ValueError, match="captioner= is for vsrn, but .* weights of scan"):
        from_published(scan, captioner=branch)
    with pytest.raises(ValueError, match="give vocab= too"):
        from_published(scan, tokenizer="treebank")
    for file in ("m.index", "m.data-00000-of-00001"):
        with pytest.raises(
            ValueError, match=r"one file of a TensorFlow checkpoint: give its prefix, \S+/m$"
        ):
            from_published(tmp_path / file)
    with pytest.raises(ValueError, match="concepts= is for cvse, but .* weights of scan"):
        from_published(scan, concepts=case("cvse/f30k") / "concepts")


def test_concepts_of_other_weights():
    checkpoint = case("cvse/coco") / "checkpoint.pth.tar"
    with pytest.raises(ValueError, match="other concepts than these 20"):
        from_published(checkpoint, concepts=case("cvse/f30k") / "concepts")
    own = Concepts.load(case("cvse/coco") / "concepts")
    turned = Concepts(
        own.words[::-1],
        counts=own.counts[::-1].copy(),
        adjacency=own.adjacency[::-1, ::-1].copy(),
        vectors=own.vectors[::-1].copy(),
    )
    with pytest.raises(ValueError, match="other concepts than these"):
        from_published(checkpoint, concepts=turned)
    with pytest.raises(ValueError, match="got a list"):
        from_published(checkpoint, concepts=own.words)


def test_files_are_legacy_and_hold_all_parts(tmp_path):
    scan = from_published(case("scan/t2i_lse") / "checkpoint.pth.tar")
    save_published(scan, tmp_path / "m.pth.tar", {"margin": 0.3})
    assert not zipfile.is_zipfile(tmp_path / "m.pth.tar")  # which old versions cannot read
    _, options = read_checkpoint(tmp_path / "m.pth.tar")
    assert (options["margin"], options["grad_clip"], options["max_violation"]) == (0.3, 2.0, True)
    casc = from_published(case("casc/all_bigru_maxviol") / "checkpoint.pth.tar")
    assert type(casc) is CASC
    with pytest.raises(ValueError, match="3 state dicts, write them to a .pth.tar"):
        save_published(casc, tmp_path / "m.npz")


def test_only_matchers_with_an_original_are_written(tmp_path):
    with pytest.raises(ValueError, match="MeanMatcher has no original code base; expected .*CASC"):
        save_published(MeanMatcher(5, 4), tmp_path / "m.pth.tar")


def test_strings_of_python_2(tmp_path):
    states, options = read_checkpoint(case("scan/t2i_lse") / "checkpoint.pth.tar")
    opt = argparse.Namespace(**{**options, "data_path": "cafes"})
    file = tmp_path / "m.pth.tar"
    torch.save({"model": states, "opt": opt}, file, _use_new_zipfile_serialization=False)
    text = file.read_bytes()
    assert text.count(b"X\x05\x00\x00\x00cafes") == 1
    # As Python 2 pickles a string of bytes, which need not be UTF-8.
    file.write_bytes(text.replace(b"X\x05\x00\x00\x00cafes", b"U\x05caf\xe9s"))
    again, found = read_checkpoint(file)
    assert found == {**options, "data_path": "caf\u00e9s"}
    assert all(torch.equal(again[0][name], value) for name, value in states[0].items())


@pytest.mark.parametrize("axis", ["features", "regions"])
def test_an_npz_file_keeps_its_options(tmp_path, axis):
    matcher = from_published(
        case("two_branch_similarity/cite_k3_verbatim") / "weights_init.npz",
        options={"norm_axis": axis, "embed_l1": 2e-4},
    )
    save_published(matcher, tmp_path / "m.npz")
    assert from_published(tmp_path / "m.npz").hparams == matcher.hparams
    with pytest.raises(ValueError, match=r"option dims=\[1\] must be a number"):
        save_published(matcher, tmp_path / "m.npz", {"dims": [1]})


def test_convert_takes_options_and_a_tokenizer(tmp_path):
    folder = case("cvse/f30k")
    states, _ = read_checkpoint(case("scan/i2t_lse") / "checkpoint.pth.tar")
    torch.save({"model": states}, tmp_path / "m.pth.tar")
    run("convert", "published=m.pth.tar", "out=scan", "+options.cross_attn=i2t", cwd=tmp_path)
    saved = itm.load(tmp_path / "scan")
    assert saved.hparams["direction"] == "i2t"
    assert saved.record["command"].startswith("python -m itm.convert published=m.pth.tar")
    digest = hashlib.sha256((tmp_path / "m.pth.tar").read_bytes()).hexdigest()
    assert saved.record["inputs"] == {"m.pth.tar": digest}
    files = [f"vocab={folder / 'vocab.json'}", f"concepts={folder / 'concepts'}", "out=cvse"]
    published = f"published={folder / 'checkpoint.pth.tar'}"
    run("convert", published, *files, "tokenizer=bytes_repr", cwd=tmp_path)
    expected = read_npz(folder / "expected.npz")
    matcher = itm.load(tmp_path / "cvse")
    captions = next(folder.glob("data/*/test_caps.txt")).read_text().splitlines()
    for caption, ids, length in zip(
        captions, expected["cap_ids_pyrepr"], expected["cap_len_pyrepr"], strict=True
    ):
        assert matcher.vocab.encode(caption) == ids[:length].tolist()


def test_convert_replaces_only_what_it_wrote_and_only_if_asked(tmp_path):
    matcher = SCAN(vocab_size=6, img_dim=4, word_dim=3, embed_dim=5)
    save_published(matcher, tmp_path / "m.pth.tar")
    (tmp_path / "README.md").write_text("my project")
    arguments = "convert", "published=m.pth.tar"
    text = run(*arguments, "out=.", "overwrite=true", cwd=tmp_path, fails=True)
    assert "holds README.md, which this command did not write" in text
    assert (tmp_path / "README.md").read_text() == "my project"
    matcher.vocab = Vocabulary([*SPECIALS, "a", "dog"])
    matcher.save_pretrained(tmp_path / "scan")
    with pytest.raises(FileExistsError, match="overwrite=true"):
        matcher.save_pretrained(tmp_path / "scan", overwrite=False)
    run(*arguments, "out=scan", "overwrite=true", cwd=tmp_path)
    assert itm.load(tmp_path / "scan").vocab is None


def test_evaluation_with_completed_labels(tmp_path):
    folder = case("cvse/f30k")
    expected = read_npz(folder / "expected.npz")
    matcher = from_published(
        folder / "checkpoint.pth.tar", folder / "vocab.json", folder / "concepts"
    )
    matcher.save_pretrained(tmp_path / "cvse")
    data = next(folder.glob("data/*/test_caps.txt")).parent
    options = ["checkpoint=cvse", "data=f30k", f"data.root={data}", "protocol=full", "plot=false"]
    run("evaluate", *options, "transductive=f30k", "hydra.run.dir=out", cwd=tmp_path)
    results = json.loads((tmp_path / "out" / "report.json").read_text())["results"]
    for name, suffix in (("cvse", "_stage1"), ("cvse (transductive)", "")):
        check_recalls(results[name], *(expected[f"{way}{suffix}"] for way in ("i2t", "t2i")))
    said = run("evaluate", *options, "transductive=flickr", cwd=tmp_path, fails=True)
    assert "transductive" in said and "'flickr'" in said and "'f30k'" in said


def toy_data(name, **files):
    data = next(case(name).glob("data/*/test_caps.txt")).parent
    options = [f"data.{key}={case(name) / value}" for key, value in files.items()]
    names = ["data.train=test", "data.val=test", "data.test=test", "data.drop_last=false"]
    return ["data=f30k", f"data.root={data}", "data.protocol=full", *names, *options]


def init(model, source, *overrides):
    matcher = itm.build(model=model, data="f30k", overrides=list(overrides))
    start_from(matcher, str(source))
    return matcher.eval()


def test_training_goes_on_from_converted_weights(tmp_path):
    name = "scan/t2i_lse"
    scan = from_published(case(name) / "checkpoint.pth.tar", case(name) / "vocab.json")
    scan.save_pretrained(tmp_path / "scan")
    scan.vocab.save(tmp_path / "words.json")
    data = toy_data(name)[1:]
    small = ["model.word_dim=12", "model.embed_dim=24"]
    own = f"data.vocab={tmp_path / 'scan' / 'vocab.json'}"  # as `save` wrote it
    with pytest.raises(
        ValueError, match=r"vocab differs .*\(79 words against \d+\).* data.vocab=FILE"
    ):
        init("scan_t2i_lse", tmp_path / "scan", *data, *small)
    with pytest.raises(ValueError, match=r"was built with model.embed_dim=24 .*model.word_dim=12"):
        init("scan_t2i_lse", tmp_path / "scan", *data, own)
    with pytest.warns(UserWarning, match="built with model.aggregation=LogSumExp; these differ"):
        init("scan_t2i", tmp_path / "scan", *data, *small, own)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        again = init("scan_t2i_lse", tmp_path / "scan", *data, *small, own)
    captions = ["a man in a red shirt", "two dogs"]
    features = np.random.default_rng(0).standard_normal((3, 36, 48)).astype(np.float32)
    np.testing.assert_array_equal(again.score(features, captions), scan.score(features, captions))


def test_training_goes_on_from_a_converted_cvse(tmp_path):
    folder = case("cvse/f30k")
    cvse = from_published(folder / "checkpoint.pth.tar", folder / "vocab.json", folder / "concepts")
    cvse.save_pretrained(tmp_path / "cvse")
    data = toy_data("cvse/f30k", vocab="vocab.json", concepts="concepts")[1:]
    small = ["model.word_dim=12", "model.embed_dim=24", "model.concept_dim=10"]
    again = init("cvse", tmp_path / "cvse", *data, *small)
    assert again.concepts.words == cvse.concepts.words
    Concepts(cvse.concepts.words, vectors=cvse.concepts.vectors).save(tmp_path / "words.json")
    with pytest.raises(ValueError, match="words.json has no counts.* give the original's folder"):
        init("cvse", tmp_path / "cvse", *data, *small, f"data.concepts={tmp_path / 'words.json'}")
    for key, value in cvse.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def bare(tmp_path, name, **options):
    """A golden checkpoint whose options were not saved, but for these."""
    states, _ = read_checkpoint(case(name) / "checkpoint.pth.tar")
    path = tmp_path / "m.pth.tar"
    torch.save({"model": states, **({"opt": options} if options else {})}, path)
    return path


@pytest.mark.parametrize(
    ("name", "arguments", "assumed"),
    [
        ("scan/i2t_lse", {}, "cross_attn=t2i, raw_feature_norm=clipped_l2norm, lambda_softmax=9.0"),
        (
            "vsepp/order0_abs",
            {"family": "vsepp"},
            "measure=cosine, use_abs=False, no_imgnorm=False",
        ),
        ("sgraf/saf", {}, "no_imgnorm=False, no_txtnorm=False"),
        ("vsrn/f30k_caption", {}, "use_abs=False, no_imgnorm=False, measure=cosine"),
        ("casc/all_bigru_maxviol", {}, "t2i_agg_func=Mean"),
        ("cvse/f30k", {"concepts": "concepts"}, "data_name=f30k_precomp"),
    ],
)
def test_assumed_options_are_told(tmp_path, capsys, name, arguments, assumed):
    if "concepts" in arguments:
        arguments = {"concepts": case(name) / "concepts"}
    from_published(case(name) / "checkpoint.pth.tar", **arguments)
    assert "assumed" not in capsys.readouterr().out
    from_published(bare(tmp_path, name), **arguments)
    told = capsys.readouterr().out
    assert assumed in told and "give options=" in told, told


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("scan/t2i_lse", {"no_imgnorm": "False"}, "no_imgnorm must be of type bool, .*got 'False'"),
        ("scan/t2i_lse", {"no_txtnorm": None}, "no_txtnorm must be of type bool"),
        ("scan/t2i_lse", {"lambda_softmax": "9"}, "lambda_softmax must be of type float"),
        ("scan/t2i_lse", {"precomp_enc_type": "weight_norm"}, "its tensors basic"),
        ("vse_infty/bigru_ragged", {"no_imgnorm": "no"}, "no_imgnorm must be of type bool"),
    ],
)
def test_options_of_other_types_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        from_published(case(name) / "checkpoint.pth.tar", options=options)


def test_how_cvse_splits_captions_is_told(capsys):
    folder = case("cvse/f30k")
    given = (folder / "checkpoint.pth.tar", folder / "vocab.json", folder / "concepts")
    from_published(*given)
    assert "give tokenizer=bytes_repr" in capsys.readouterr().out
    from_published(*given, tokenizer="treebank")
    assert "bytes_repr" not in capsys.readouterr().out
