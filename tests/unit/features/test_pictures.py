import numpy as np
from PIL import Image

from itm.data.pictures import as_shown
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


def shown(picture, tmp_path, ending=".png", **options):
    picture.save(tmp_path / f"a{ending}", **options)
    with Image.open(tmp_path / f"a{ending}") as opened:
        return np.array(as_shown(opened))


def test_pixels_are_those_that_a_viewer_shows(tmp_path):
    ramp = np.linspace(0, 65535, 4096).reshape(64, 64).astype(np.uint16)
    for ending in (".png", ".tif"):
        grey = shown(Image.fromarray(ramp), tmp_path, ending)
        np.testing.assert_array_equal(grey[..., 0], np.round(ramp / 257))
    clear = np.zeros((4, 4, 4), np.uint8)  # black, but transparent above
    clear[2:, :, 3] = 255
    for mode in ("RGBA", "LA"):
        seen = shown(Image.fromarray(clear).convert(mode), tmp_path)
        assert (seen[:2] == 255).all() and (seen[2:] == 0).all()
    palette = Image.fromarray(clear[..., 3]).convert("P")
    seen = shown(palette, tmp_path, transparency=palette.getpixel((0, 3)))
    assert (seen[:2] == 0).all() and (seen[2:] == 255).all()
    red = shown(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), tmp_path, ".jpg")
    assert red[0, 0, 0] > 240 and red[0, 0, 1:].max() < 15
    frames = [Image.new("L", (4, 4), level) for level in (40, 200)]
    first = shown(frames[0], tmp_path, ".gif", save_all=True, append_images=frames[1:])
    assert (first == 40).all()


def test_pixels_of_unknown_range_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "a.tif")
    assert "8 or 16 bits" in broken([tmp_path / "a.tif"], 1)[tmp_path / "a.tif"]
