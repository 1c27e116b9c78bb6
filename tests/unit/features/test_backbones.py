import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    DetrConfig,
    DetrModel,
    ResNetConfig,
    ResNetModel,
    SwinConfig,
    SwinModel,
    YolosConfig,
    YolosModel,
)
from vision import TINY, VISION, save, save_vit

from itm.features.backbones import LITE, backbone


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return save_vit(tmp_path_factory.mktemp("vit"))


def test_networks_of_several_kinds(tmp_path):
    torch.manual_seed(0)
    text = {**TINY, "intermediate_size": 32, "vocab_size": 9, "max_position_embeddings": 5}
    clip = CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8)
    swin = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
    resnet = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}
    models = {
        "clip": (CLIPModel(clip), (16, 4, 4)),
        "swin": (SwinModel(SwinConfig(image_size=32, patch_size=2, **swin)), (16, 8, 8)),
        "resnet": (ResNetModel(ResNetConfig(**resnet)), (12, 4, 4)),
    }
    for name, (model, shape) in models.items():
        network = backbone(save(model, tmp_path / name))
        assert network.size == 32 and not network.training
        assert network(torch.rand(2, 3, 32, 32) * 255).shape == (2, *shape), name


def test_patches_stay_in_their_places(vit):
    # With other pixels in one corner, the cell of that corner changes most.
    network = backbone(vit)
    plain = torch.full((1, 3, 32, 32), 100.0)
    marked = plain.clone()
    marked[..., 24:, :8] = 255
    change = (network(marked) - network(plain)).norm(dim=1)[0]
    assert change.argmax().item() == 3 * 4 + 0


def test_the_network_in_a_package():
    pytest.importorskip("efficientnet_lite_pytorch")
    network = backbone(LITE, size=64)
    maps = network(torch.full((1, 3, 64, 64), 127.0))
    assert maps.shape == (1, 1280, 2, 2) and maps.min() >= 0 and maps.max() <= 6  # ReLU6
    assert backbone(LITE).size == 260


def test_an_unpinned_backbone_is_said_aloud(vit, monkeypatch, capsys):
    from transformers import AutoModel
    from transformers.image_processing_base import ImageProcessingMixin

    asked, commit = [], "a" * 40

    def model(name, revision):
        asked.append(revision)
        found = load(vit)
        found.config._commit_hash = commit
        return found

    def settings(name, revision):
        asked.append(revision)
        return read(vit)

    load, read = AutoModel.from_pretrained, ImageProcessingMixin.get_image_processor_dict
    backbone(vit)
    assert not capsys.readouterr().out  # a folder
    monkeypatch.setattr(AutoModel, "from_pretrained", model)
    monkeypatch.setattr(ImageProcessingMixin, "get_image_processor_dict", settings)
    backbone("some/model")
    assert f"some/model is unpinned: its owner may change it. This run uses commit {commit}" in (
        capsys.readouterr().out
    )
    backbone("some/model", revision=commit)
    assert not capsys.readouterr().out and asked == ["main", "main", commit, commit]


def test_no_network():
    with pytest.raises(ValueError, match=r"backbone=/nowhere cannot be loaded.*hub name"):
        backbone("/nowhere")


def test_networks_without_a_feature_map_are_refused(tmp_path):
    stages = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1]}
    resnet = ResNetConfig(layer_type="basic", out_features=["stage2"], **stages)
    sizes = {f"{side}_{name}": n for side in ("encoder", "decoder")
             for name, n in (("layers", 1), ("ffn_dim", 16), ("attention_heads", 2))}  # fmt: skip
    own = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    detr = DetrConfig(backbone_config=resnet, d_model=16, num_queries=16, **own, **sizes)
    yolos = YolosConfig(num_detection_tokens=9, **{**VISION, "image_size": [32, 32]})
    bert = BertConfig(vocab_size=10, intermediate_size=16, **TINY)
    models = {
        "detr": (DetrModel(detr), "belongs to queries and not to places"),
        "yolos": (YolosModel(yolos), "26 tokens for 16 patches"),
        "bert": (BertModel(bert), "makes no feature map of a picture of 32 x 32 pixels"),
    }
    for name, (model, message) in models.items():
        with pytest.raises(ValueError, match=f"backbone=.*{name} .*{message}"):
            backbone(save(model, tmp_path / name))
