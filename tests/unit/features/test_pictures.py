import numpy as np
from PIL import Image

from itm.features.pictures import broken, load_pixels


def test_pictures_are_upright_and_rgb(tmp_path):
    pixels = np.zeros((20, 40), np.uint8)
    pixels[:, 20:] = 255  # the right half is white
    turned = Image.fromarray(pixels)
    exif = turned.getexif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: white is below
    turned.save(tmp_path / "a.jpg", exif=exif)
    shown, size = load_pixels(tmp_path / "a.jpg", 8)
    assert size == (20, 40) and shown.shape == (8, 8, 3)
    assert shown[0].max() < 20 and shown[-1].min() > 235
    (tmp_path / "b.png").write_text("no picture")
    assert list(broken([tmp_path / "a.jpg", tmp_path / "b.png"], 2)) == [tmp_path / "b.png"]
