import os
import shutil
import struct
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from PIL import Image, ImageCms

from itm.features.arrays import read_arrays
from itm.features.drawn import draw_pictures
from itm.features.pictures import (
    PictureDataset,
    find_pictures,
    inspect_pictures,
    load_pixels,
)
from itm.features.plan import make_plan
from itm.utils.errors import TakenError
from itm.utils.picture_files import MOST_PIXELS, as_shown, read_picture


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
    broken, alike = inspect_pictures({n: tmp_path / n for n in ("a.jpg", "b.png")}, 2)
    assert list(broken) == ["b.png"] and not alike


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
    assert "8 or 16 bits" in inspect_pictures({"a": tmp_path / "a.tif"}, 1)[0]["a"]


@pytest.mark.parametrize("most", [255, 65535])
def test_whole_numbers_of_32_bits_are_refused(tmp_path, most):
    """0 to 255 would become black if they were taken for 16 bits."""
    ramp = np.linspace(0, most, 64).reshape(8, 8).astype(np.int32)
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=f"mode I from 0 to {most}; save .* with 8 or 16 bits"):
        read_picture(tmp_path / "a.tif")


def test_signed_pixels_of_16_bits_are_read(tmp_path):
    """Pillow reads them as 32 bits; a TIFF file of 4 x 1 pixels, byte by byte."""
    pixels = np.array([0, 257, 2570, 32639], "<i2").tobytes()
    tags = ((256, 4), (257, 1), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1),
            (279, 8), (339, 2))  # fmt: skip
    rows = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels
    (tmp_path / "a.tif").write_bytes(head + struct.pack("<H", len(tags)) + rows + bytes(4))
    assert np.array(read_picture(tmp_path / "a.tif"))[0, :, 0].tolist() == [0, 1, 10, 127]


def test_a_grey_value_that_is_transparent_shows_the_page(tmp_path):
    grey = np.full((4, 4), 1000, np.uint16)
    grey[2:] = 65535 // 2
    Image.fromarray(grey).save(tmp_path / "a.png", transparency=1000)
    seen = np.array(read_picture(tmp_path / "a.png"))
    assert (seen[:2] == 255).all() and (seen[2:] == 127).all()


def test_the_content_decides_and_no_program_runs(tmp_path):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    (tmp_path / "a.jpg").write_bytes(eps)
    with pytest.raises(
        ValueError, match=r"a\.jpg is not a picture that can be read; expected JPEG"
    ):
        read_picture(tmp_path / "a.jpg")
    Image.new("RGB", (3, 3), "red").save(tmp_path / "b.ppm")  # a format that is not meant
    (tmp_path / "b.ppm").rename(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png is not a picture"):
        read_picture(tmp_path / "b.png")
    Image.new("RGB", (3, 3), "red").save(tmp_path / "c.png")
    (tmp_path / "c.png").rename(tmp_path / "c.jpg")
    assert read_picture(tmp_path / "c.jpg").getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(ValueError, match="cannot be read: .*not a regular file"):
        read_picture(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_picture(tmp_path / "nothing.png")


def head_of_png(side):
    """Make a PNG that promises side x side pixels and holds none, so that decoding would fail."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("pixels", [MOST_PIXELS + 2**20, 3 * MOST_PIXELS])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, pixels):
    (tmp_path / "a.png").write_bytes(head_of_png(int(pixels**0.5) + 1))
    with pytest.raises(ValueError, match=r"a\.png cannot be read: .* pixels, expected at most"):
        read_picture(tmp_path / "a.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_only_files_inside_the_folder(tmp_path, capsys):
    folder, outside = tmp_path / "pictures", tmp_path / "outside.png"
    (folder / "d.png").mkdir(parents=True)
    for path in (outside, folder / "a.png"):
        Image.new("RGB", (3, 3)).save(path)
    (folder / "b.png").symlink_to(outside)
    (folder / "same.png").symlink_to("a.png")  # a link that stays inside
    os.mkfifo(folder / "c.png")
    assert list(find_pictures(folder)) == ["a.png", "same.png"]
    assert "left out: 3 entries" in capsys.readouterr().out
    with pytest.raises(ValueError, match="not a regular file"):  # and no waiting for a writer
        read_picture(folder / "c.png")
    (tmp_path / "link").symlink_to(folder)  # the folder itself may be a link
    assert list(find_pictures(tmp_path / "link")) == ["a.png", "same.png"]


def test_the_same_picture_twice_is_told(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in "abc":
        pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "copy.png")
    Image.open(tmp_path / "b.png").save(tmp_path / "other.bmp")  # other bytes, the same pixels
    pictures = find_pictures(tmp_path)
    broken, alike = inspect_pictures(pictures, 2)
    assert not broken and alike == [["a.png", "copy.png"], ["b.png", "other.bmp"]]
    for split, names in {"train": ["a", "b", "c", "other"], "test": ["copy"]}.items():
        (tmp_path / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    (tmp_path / "captions.txt").write_text("".join(f"{name}\ttext\n" for name in pictures))
    lists = {split: tmp_path / f"{split}.txt" for split in ("train", "test")}
    make_plan(pictures, tmp_path / "captions.txt", lists)
    text = capsys.readouterr().out
    assert "the same picture under several names: 2, such as a.png = copy.png" in text
    assert "warning: 1 of them are in several splits, such as a.png = copy.png" in text


def test_formats_that_are_not_read_are_told(tmp_path, capsys):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.jfif", "JPEG")
    (tmp_path / "b.heic").write_bytes(b"x")
    (tmp_path / "notes.txt").write_bytes(b"x")
    assert list(find_pictures(tmp_path)) == ["a.jfif"]
    assert "left out: 1 files of formats that are not read, such as b.heic" in (
        capsys.readouterr().out
    )


def profile_of(name):
    """Make a profile that exchanges red and green unless it is called sRGB."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace("sRGB".encode("utf-16-be"), name.encode("utf-16-be"))
    if name != "sRGB":
        head, rest = profile[:400], profile[400:]
        for old, new in ((b"rXYZ", b"????"), (b"gXYZ", b"rXYZ"), (b"????", b"gXYZ")):
            head = head.replace(old, new)
        profile = head + rest
    return profile


def test_the_profile_of_transparent_and_palette_pictures_is_applied(tmp_path):
    red = Image.new("RGB", (2, 2), (200, 0, 0))
    clear = red.convert("RGBA")
    clear.putalpha(Image.fromarray(np.array([[255, 255], [0, 0]], np.uint8)))
    for name, picture, options in (
        ("a.png", red.convert("P", palette=Image.Palette.ADAPTIVE), {}),
        ("b.png", red, {"transparency": (1, 2, 3)}),
        ("c.png", clear, {}),
        ("d.webp", clear, {"lossless": True}),
    ):
        picture.save(tmp_path / name, icc_profile=profile_of("xRGB"), **options)
        seen = np.asarray(read_picture(tmp_path / name))
        np.testing.assert_allclose(seen[0, 0], (0, 200, 0), atol=3)
        assert (seen[1, 1] == 255).all() or picture is not clear  # on white


@pytest.mark.parametrize(("name", "shown"), [("sRGB", (200, 0, 0)), ("xRGB", (0, 200, 0))])
def test_a_colour_profile_is_applied(tmp_path, name, shown):
    profile = profile_of(name)
    picture = Image.new("RGB", (2, 2), (200, 0, 0))
    picture.save(tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_allclose(np.asarray(read_picture(tmp_path / "a.png"))[0, 0], shown, atol=3)
    picture.save(tmp_path / "a.png", icc_profile=b"no profile" * 20)
    assert read_picture(tmp_path / "a.png").getpixel((0, 0)) == (200, 0, 0)


def test_drawn_pictures_replace_nothing(tmp_path):
    folder, captions = tmp_path / "scenes", tmp_path / "scenes.txt"
    captions.write_text("mine")
    with pytest.raises(TakenError, match="scenes.txt holds other text"):
        draw_pictures(folder, count=4)
    assert captions.read_text() == "mine" and not folder.exists()
    captions.unlink()
    for _ in range(2):
        assert draw_pictures(folder, count=4) == captions
    (folder / "cat.jpg").write_text("mine")
    with pytest.raises(TakenError, match="holds cat.jpg, which was not drawn here"):
        draw_pictures(folder, count=4)


def test_links_to_folders_are_told(tmp_path, capsys):
    (tmp_path / "pictures" / "real").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    Image.new("L", (3, 3)).save(tmp_path / "pictures" / "real" / "a.png")
    np.save(tmp_path / "pictures" / "a.npy", np.ones((2, 3), np.float32))
    (tmp_path / "pictures" / "inside").symlink_to("real")
    (tmp_path / "pictures" / "out.jpg").symlink_to(tmp_path / "elsewhere")
    for read in (find_pictures, lambda folder: [r.name for r in read_arrays(folder)]):
        assert len(list(read(tmp_path / "pictures"))) == 1
        told = capsys.readouterr().out
        assert told.count("2 links to folders below") == 1 and "such as inside, out.jpg" in told


@pytest.mark.parametrize(
    ("name", "message"),
    [(b"a\nb.png", r"'a\\nb.png' .* holds a line break; rename"),
     (b"caf\xe9.png", r"'caf\\udce9.png' .* is not UTF-8, perhaps Latin-1; rename .*convmv")],
)  # fmt: skip
def test_names_of_files_that_are_no_lines_are_refused(tmp_path, name, message):
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    except OSError:  # as on a Mac
        pytest.skip("the disk takes no such name")
    with pytest.raises(ValueError, match=message):
        find_pictures(tmp_path)


def test_boxes_of_the_picture_without_its_orientation_are_named(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    Image.new("L", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    Image.new("L", (20, 40)).save(tmp_path / "b.jpg")

    def boxes_of(name, box):
        return PictureDataset([tmp_path / name], [0], 8, [np.array([box], np.float32)])[0][2]

    assert boxes_of("a.jpg", [0, 0, 20, 40]).tolist() == [[0, 0, 1, 1]]
    with pytest.raises(ValueError, match="as it is stored, 40 x 20 .* orientation tag turns it"):
        boxes_of("a.jpg", [0, 0, 40, 20])
    with pytest.raises(ValueError, match="TensorFlow's order .*box_order=yxyx"):
        boxes_of("b.jpg", [0, 0, 40, 20])
