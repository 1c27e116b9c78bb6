"""Models of transformers are looked for before anything loads them."""

import huggingface_hub
import pytest

from itm.features.backbones import LITE, check_backbone
from itm.utils.hub import check_hub_name


class RepositoryNotFoundError(Exception):
    pass


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nonsense", "backbone=nonsense must be efficientnet-lite2, a folder, or a hub name"),
        ("efficientnet_lite2", "did you mean efficientnet-lite2?"),
        ("resnet50", "did you mean microsoft/resnet-50?"),
        ("/nowhere", "backbone=/nowhere is neither a folder nor a hub name such as user/model"),
        ("a/b/c", "backbone=a/b/c is neither a folder nor a hub name such as user/model"),
    ],
)
def test_a_wrong_backbone_is_refused_without_a_question_to_the_hub(name, said, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: pytest.fail("asked the hub"))
    with pytest.raises(ValueError) as error:
        check_backbone(name)
    assert said in str(error.value) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (RepositoryNotFoundError(), "hub has no such model; did you mean facebook/dinov2-base?"),
        (ConnectionError("Errno -2"), "hub cannot be reached, and its cache here lacks the model"),
    ],
)
def test_the_hub_is_asked_once(answer, said, monkeypatch):
    asked = []

    class Hub:
        def model_info(self, name, revision, timeout):
            asked.append(timeout)
            raise answer

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    with pytest.raises(ValueError, match="there is no such folder; the Hugging Face") as error:
        check_backbone("facebook/dinov2-bas", "abc" if "lacks" in said else None)
    assert said in str(error.value)
    assert len(asked) == 1 and asked[0] <= 10, "seconds; transformers asks for half a minute"


def test_what_is_here_needs_no_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: pytest.fail("asked the hub"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: "config.json")
    check_backbone(LITE)
    check_backbone(str(tmp_path))
    check_hub_name("model.text.path", "user/cached")
