"""Image files: valid, unusual and damaged ones, all generated with Pillow."""

from __future__ import annotations

import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from storage.formats.folders import list_images
from storage.formats.images import (
    BadImageError,
    ImageInfo,
    inspect_image,
    read_image,
    write_jpeg,
    write_png,
)

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def smooth(height: int = 40, width: int = 60) -> np.ndarray:
    """A colour gradient that JPEG hardly changes."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 4, y * 6, 255 - x * 4], axis=2).astype(np.uint8)


def reason(data: bytes, **limits: int) -> str:
    with pytest.raises(BadImageError) as caught:
        inspect_image(data, **limits)
    with pytest.raises(BadImageError):
        read_image(data, **limits)
    return caught.value.reason


# --- unusable files ---


def test_an_empty_file_is_named_as_such() -> None:
    assert reason(b"") == "the file is empty"


def test_a_text_file_is_no_image_and_its_start_is_quoted() -> None:
    assert reason(b"Gr\xc3\xbc\xc3\x9fe, no picture here") == (
        "not an image: the file holds text ('Grüße, no picture here')"
    )


def test_random_bytes_are_no_image() -> None:
    assert "no image format" in reason(b"\xf5\x00\x9c\x01" * 100)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"%PDF-1.7 ...", "PDF"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(20), "HEIC"),
        (b'<?xml version="1.0"?><svg width="3"/>', "SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
    ],
)
def test_other_known_files_are_named(data: bytes, word: str) -> None:
    assert word in reason(data)


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF"]
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_file_that_was_cut_off_is_found(kind: str, share: float) -> None:
    data = saved(Image.fromarray(NOISE), kind)
    assert inspect_image(data).format == kind
    assert "cut off" in reason(data[: int(len(data) * share)])


def test_a_jpeg_that_lacks_only_its_last_bytes_is_found() -> None:
    assert "cut off" in reason(write_jpeg(NOISE)[:-3])


def test_a_damaged_png_is_found() -> None:
    data = bytearray(write_png(NOISE))
    data[len(data) // 2] ^= 0xFF
    assert "damaged" in reason(bytes(data))
    assert "cut off" in reason(write_png(NOISE)[:-14])


def check_damaged(raw: bytearray, data: st.DataObject) -> None:
    """A file with changed bytes is refused, or read with the reported size."""
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        info = inspect_image(bytes(raw), max_pixels=100_000)
    except BadImageError:
        return
    assert read_image(bytes(raw), max_pixels=100_000).shape == (info.height, info.width, 3)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"]), st.data())
@pytest.mark.filterwarnings("ignore")
def test_whatever_bytes_are_damaged_only_bad_image_errors_come_out(
    kind: str, data: st.DataObject
) -> None:
    raw = bytearray(saved(Image.fromarray(NOISE[:8, :9]), kind))
    check_damaged(raw, data)


def png_bomb(side: int) -> bytes:
    """A complete, valid black PNG of side x side, 1 bit per pixel, written without holding it."""
    packer = zlib.compressobj(9)
    rows = [packer.compress(bytes(1 + (side + 7) // 8)) for _ in range(side)]

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    body = b"".join(rows) + packer.flush()
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def test_a_pixel_bomb_is_refused_from_its_header_in_little_time_and_memory() -> None:
    bomb = png_bomb(20_000)
    assert len(bomb) < 1_000_000
    assert inspect_image(png_bomb(50)).width == 50  # a valid PNG; and Pillow is loaded now
    peak_before = peak_resident_bytes()
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(BadImageError, match=r"too large: 20000 x 20000 = 400,000,000 pixels"):
        inspect_image(bomb)
    seconds = time.perf_counter() - start
    _, peak_python = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 0.1
    assert peak_python < 3_000_000
    assert peak_resident_bytes() - peak_before < 20_000_000  # 400 MB decoded


def peak_resident_bytes() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("peak memory is read from /proc")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.filterwarnings("error")
def test_only_the_given_limit_counts_and_pillows_own_stays_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert inspect_image(write_png(NOISE)) == ImageInfo(40, 60, "PNG", ".png")
    assert "at most 2,399 are read" in reason(write_png(NOISE), max_pixels=2_399)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "GIF", "PNG", "JPEG"])
def test_pillows_limit_below_ours_refuses_nothing(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    data = saved(Image.fromarray(NOISE), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image(data).shape == NOISE.shape
    assert Image.MAX_IMAGE_PIXELS == 100


def test_an_image_of_one_pixel_is_too_small() -> None:
    assert reason(write_png(NOISE[:1, :1])) == "too small: 1 x 1 pixels, each side needs 2"
    assert "too small" in reason(write_png(NOISE[:1]), min_side=2)
    assert read_image(write_png(NOISE[:1, :1]), min_side=1).shape == (1, 1, 3)


def test_a_colour_mode_that_cannot_be_converted_is_unsupported() -> None:
    lab = Image.frombytes("LAB", (4, 3), bytes(36))
    assert reason(saved(lab, "TIFF")) == "TIFF with the colour mode LAB is not supported"


# --- valid files ---


@pytest.mark.parametrize(
    ("kind", "extension"),
    [("PNG", ".png"), ("BMP", ".bmp"), ("TIFF", ".tif"), ("PPM", ".ppm"), ("JPEG2000", ".jp2")],
)
def test_lossless_formats_are_read_exactly(kind: str, extension: str) -> None:
    data = saved(Image.fromarray(NOISE), kind)
    assert inspect_image(data) == ImageInfo(40, 60, kind, extension)
    np.testing.assert_array_equal(read_image(data), NOISE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_applied_to_size_and_pixels(kind: str, orientation: int) -> None:
    turn: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(smooth()), kind, exif=exif)
    expected = turn[orientation](smooth())
    info, image = inspect_image(data), read_image(data)
    assert (info.height, info.width) == expected.shape[:2] == image.shape[:2]
    assert info.orientation == orientation
    assert np.abs(image.astype(int) - expected).mean() < 5


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_exif_block_does_not_cost_the_image() -> None:
    data = saved(
        Image.fromarray(smooth()), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xffgarbage"
    )
    assert read_image(data).shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("L", "PNG"),
        ("1", "PNG"),
        ("P", "PNG"),
        ("LA", "PNG"),
        ("RGBA", "PNG"),
        ("RGBX", "TIFF"),
        ("YCbCr", "JPEG"),
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
    ],
)
def test_every_colour_mode_becomes_rgb_that_looks_the_same(mode: str, kind: str) -> None:
    image = Image.fromarray(smooth()).convert(mode)
    back = read_image(saved(image, kind))
    assert back.dtype == np.uint8
    assert back.shape == (40, 60, 3)
    assert np.abs(back.astype(int) - np.asarray(image.convert("RGB"))).mean() < 6


def test_transparent_pixels_become_white_and_half_transparent_ones_mix() -> None:
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[:, 2:4, 3] = 255
    rgba[:, 4:, 3] = 128
    image = read_image(saved(Image.fromarray(rgba), "PNG"))
    assert (image[:, :2] == 255).all()
    assert (image[:, 2:4] == 0).all()
    assert (image[:, 4:] == 127).all()


def test_a_transparent_palette_colour_becomes_white() -> None:
    palette = Image.new("P", (6, 4), 0)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.paste(1, (3, 0, 6, 4))
    image = read_image(saved(palette, "PNG", transparency=0))
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[0, 5].tolist() == [200, 100, 50]


def test_grey_with_a_transparent_value_is_composited_too() -> None:
    grey = np.full((4, 6), 7, np.uint8)
    grey[0] = 9
    image = read_image(saved(Image.fromarray(grey), "PNG", transparency=7))
    assert (image[0] == 9).all()
    assert (image[1:] == 255).all()


def test_the_first_frame_of_a_moving_gif_and_the_first_page_of_a_tiff_count() -> None:
    pages = [Image.new("RGB", (6, 4), colour) for colour in ("red", "lime", "blue")]
    gif = saved(pages[0], "GIF", save_all=True, append_images=pages[1:], duration=50)
    tiff = saved(pages[0], "TIFF", save_all=True, append_images=[Image.new("RGB", (99, 88))])
    assert (read_image(gif) == [255, 0, 0]).all()
    assert (read_image(tiff) == [255, 0, 0]).all()
    assert inspect_image(tiff) == ImageInfo(4, 6, "TIFF", ".tif", pages=2, is_flat=True)


def test_a_phones_picture_of_several_jpegs_is_a_jpeg() -> None:
    pages = [Image.fromarray(smooth()), Image.fromarray(smooth() // 2)]
    info = inspect_image(saved(pages[0], "MPO", save_all=True, append_images=pages[1:]))
    assert (info.height, info.width, info.extension, info.pages) == (40, 60, ".jpg", 1)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_pages_and_frames_are_counted(kind: str) -> None:
    pages = [Image.fromarray(np.roll(smooth(), shift, 1)) for shift in (0, 9, 20)]
    assert inspect_image(saved(pages[0], kind)).pages == 1
    assert inspect_image(saved(pages[0], kind, save_all=True, append_images=pages[1:])).pages == 3


# --- more than 8 bits ---


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_16_bit_image_of_small_range_does_not_become_black(kind: str) -> None:
    x = np.tile(np.linspace(1_000, 1_200, 300), (200, 1)).astype(np.uint16)
    image = read_image(saved(Image.fromarray(x), kind))
    assert image.shape == (200, 300, 3)
    assert image.min() == 0
    assert image.max() == 255
    assert (np.diff(image[0, :, 0].astype(int)) >= 0).all()
    assert 120 < image[0, 150, 0] < 135


def test_a_few_hot_pixels_do_not_darken_a_16_bit_image() -> None:
    x = np.tile(np.linspace(1_000, 1_200, 300), (200, 1)).astype(np.uint16)
    x[0, :5] = 65_535
    assert read_image(saved(Image.fromarray(x), "PNG")).mean() > 100


def test_a_few_bright_pixels_on_an_even_ground_stay_visible() -> None:
    x = np.full((200, 300), 500, np.uint16)
    x[50, 60:65] = 900
    image = read_image(saved(Image.fromarray(x), "PNG"))
    assert (image[50, 60:65] == 255).all()
    assert (image[0] == 0).all()


def test_an_even_16_bit_image_is_black() -> None:
    assert not read_image(saved(Image.fromarray(np.full((9, 9), 777, np.uint16)), "PNG")).any()


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bit_and_float_tiffs_are_stretched(dtype: type) -> None:
    x: np.ndarray = (np.tile(np.linspace(-0.5, 0.5, 300), (20, 1)) * 1e6).astype(dtype)
    image = read_image(saved(Image.fromarray(x), "TIFF"))
    assert (image.min(), image.max()) == (0, 255)
    assert 120 < image[0, 150, 0] < 135


@pytest.mark.filterwarnings("error")
def test_nan_and_infinity_in_a_float_tiff_do_no_harm() -> None:
    x = np.tile(np.linspace(0, 1, 300, dtype=np.float32), (20, 1))
    x[0, :3] = [np.nan, np.inf, -np.inf]
    image = read_image(saved(Image.fromarray(x), "TIFF"))
    assert image[0, :3, 0].tolist() == [0, 255, 0]
    assert 120 < image[1, 150, 0] < 135
    x[:] = np.nan
    assert not read_image(saved(Image.fromarray(x), "TIFF")).any()


@pytest.mark.parametrize("extension", [".png", ".tiff"])
def test_16_bit_colour_of_small_range_does_not_become_black_either(extension: str) -> None:
    rgb = smooth(200, 60).astype(np.uint16) + 300
    done, coded = cv2.imencode(extension, np.ascontiguousarray(rgb[..., ::-1]))
    assert done
    image = read_image(coded.tobytes())
    assert np.abs(image.astype(int) - smooth(200, 60)).max() <= 3


def test_16_bit_colour_with_alpha_is_composited_on_white() -> None:
    bgra = np.zeros((20, 30, 4), np.uint16)
    bgra[..., 2] = np.arange(30) * 20
    bgra[:10, :, 3] = 65_535
    _, coded = cv2.imencode(".png", bgra)
    image = read_image(coded.tobytes())
    assert (image[10:] == 255).all()
    assert image[0, 29].tolist() == [255, 0, 0]


def test_16_bit_colour_is_turned_as_its_exif_says() -> None:
    rgb = np.zeros((20, 30, 3), np.uint16)
    rgb[:, :10, 0] = 500
    _, coded = cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))
    exif = Image.Exif()
    exif[0x0112] = 6
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\x00\x00")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    data = coded.tobytes()
    image = read_image(data[:33] + chunk + data[33:])
    assert image.shape == (30, 20, 3)
    assert (image[:10, :, 0] == 255).all()
    assert not image[10:].any()


# --- writing ---


@settings(max_examples=30, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(2, 9), st.integers(2, 9), st.just(3))))
def test_png_gives_back_what_was_written(image_HWC: np.ndarray) -> None:
    np.testing.assert_array_equal(read_image(write_png(image_HWC)), image_HWC)


def test_jpeg_is_near_and_quality_costs_bytes() -> None:
    assert np.abs(read_image(write_jpeg(smooth())).astype(int) - smooth()).mean() < 5
    assert len(write_jpeg(NOISE, quality=95)) > len(write_jpeg(NOISE, quality=40))


@pytest.mark.parametrize(
    "wrong", [NOISE[..., 0], NOISE.astype(float), NOISE[:0], np.zeros((2, 2, 4), np.uint8)]
)
def test_writing_anything_but_rgb_uint8_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        write_jpeg(wrong)
    with pytest.raises(ValueError, match="expected"):
        write_png(wrong)


def test_jpegs_own_limits_are_named() -> None:
    with pytest.raises(ValueError, match="65,500"):
        write_jpeg(np.zeros((2, 65_501, 3), np.uint8))
    with pytest.raises(ValueError, match="quality"):
        write_jpeg(NOISE, quality=0)


# --- finding ---


def test_images_are_listed_sorted_from_all_folders_broken_ones_too(tmp_path: Path) -> None:
    wanted = ["b/2.PNG", "a.jpg", "b/c/x.TiFf", "b/1.jpeg", "z.webp", "photo.HEIC"]
    unwanted = ["notes.txt", ".hidden.jpg", ".git/x.png", "b/._a.jpg", "noext"]
    for name in wanted + unwanted:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    found = list(list_images(tmp_path))
    assert found == sorted(tmp_path / name for name in wanted)


def test_links_out_of_the_folder_and_loops_are_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    for file in (root / "in.png", outside / "secret.png"):
        file.write_bytes(b"")
    (root / "linked").symlink_to(outside)
    (root / "secret.png").symlink_to(outside / "secret.png")
    (root / "sub" / "loop").symlink_to(root)
    (root / "sub" / "alias.png").symlink_to(root / "in.png")
    (root / "dangling.png").symlink_to(root / "gone.png")
    assert list(list_images(root)) == [root / "in.png", root / "sub" / "alias.png"]


def test_listing_something_that_is_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError):
        list_images(tmp_path / "nowhere")
