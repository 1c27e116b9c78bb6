import inspect
from dataclasses import dataclass

import pytest

from itm.utils.options import flat, flat_keywords


@dataclass(frozen=True)
class Size:
    width: int = 3
    height: int = 4

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"width={self.width} must be at least 1")


class Box:
    @flat_keywords
    def __init__(self, name: str, *, size: Size = Size(), colour: str = "red"):
        self.options = flat(locals())


def test_groups_and_plain_keywords_are_the_same():
    expected = {"name": "a", "width": 5, "height": 4, "colour": "blue"}
    for box in (
        Box("a", size=Size(5), colour="blue"),
        Box("a", width=5, colour="blue"),
        Box(name="a", size=Size(2), width=5, colour="blue"),
        Box(**Box("a", width=5, colour="blue").options),
    ):
        assert box.options == expected and list(box.options) == list(expected)
    assert Box("a").options == {"name": "a", "width": 3, "height": 4, "colour": "red"}


def test_the_signature_shows_the_groups():
    assert list(inspect.signature(Box).parameters) == ["name", "size", "colour"]


def test_wrong_options_are_named():
    with pytest.raises(TypeError, match=r"Box.__init__\(\) got .* keyword argument 'depth'"):
        Box("a", depth=1)
    with pytest.raises(ValueError, match="width=0 must be at least 1"):
        Box("a", width=0)
