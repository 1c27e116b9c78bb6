"""Tiny vision models of transformers, saved with the settings of their image processor."""

import json

import torch
from transformers import ViTConfig, ViTModel

SETTINGS = {
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
    "size": {"height": 32, "width": 32},
}
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**TINY, "intermediate_size": 32, "image_size": 32, "patch_size": 8}


def save(model, folder):
    torch.manual_seed(0)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    return str(folder)


def save_vit(folder):
    torch.manual_seed(0)
    return save(ViTModel(ViTConfig(**VISION), add_pooling_layer=False), folder)
