"""Images of more than 8 bits or more than three bands: colour, alpha, stretching, inversion,
refusals; and the limits of the libraries."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from storage.formats.images import (
    BadImageError,
    inspect_image,
    is_flat,
    read_image,
    write_jpeg,
    write_png,
)
from tests.unit.test_images import check_damaged

Y, X = np.mgrid[:60, :96]
COLOURS = np.stack([X * 2 + 20, Y * 4, 255 - X * 2], axis=2).clip(0, 255).astype(np.uint8)
"""From 0 to 255, so that stretching gives it back."""
GREY = COLOURS[..., 1]
OTHERS = np.repeat((255 - COLOURS[..., :1]) // 2, 6, axis=2)
"""Bands that are no colour, such as near infrared."""


def tiff(values: np.ndarray, **options: Any) -> bytes:
    out = BytesIO()
    options.setdefault("planarconfig", "contig" if values.ndim == 3 else None)
    tifffile.imwrite(out, values, **options)
    return out.getvalue()


def bands(number: int, dtype: str = "uint16") -> np.ndarray:
    """The colours, then other bands, in a small part of the type's range."""
    factor = {"uint8": 1, "uint32": 16_000_000, "float16": 0.5}.get(dtype, 12)
    values = np.concatenate([COLOURS, OTHERS], axis=2)[..., :number].astype(float)
    return np.asarray((values * factor).astype(dtype))


def planes(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(values, 2, 0))


def refusal(data: bytes, **limits: int) -> str:
    with pytest.raises(BadImageError) as caught:
        inspect_image(data, **limits)
    with pytest.raises(BadImageError):
        read_image(data, **limits)
    return caught.value.reason


def difference(data: bytes, expected: np.ndarray) -> float:
    """Mean difference of levels; asserts the sizes of `inspect_image`."""
    info, image = inspect_image(data), read_image(data)
    assert image.shape == (info.height, info.width, 3)
    wanted = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=2)
    return float(np.abs(image.astype(int) - wanted).mean())


# --- colour ---

UNSAID = "unspecified"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32", "float64"])
@pytest.mark.parametrize("number", [3, 4, 6])
@pytest.mark.parametrize("photometric", ["rgb", "minisblack"])
@pytest.mark.parametrize("is_planar", [False, True])
def test_the_first_three_bands_are_the_picture_whatever_follows(
    dtype: str, number: int, photometric: str, is_planar: bool
) -> None:
    if dtype == "float64" and number > 4:
        number = 4
    values = bands(number, dtype)
    extra = [UNSAID] * (number - (3 if photometric == "rgb" else 1))
    options: dict[str, Any] = {"photometric": photometric, "extrasamples": extra}
    if is_planar:
        values, options["planarconfig"] = planes(values), "separate"
    assert difference(tiff(values, **options), COLOURS) < 0.5


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_fourth_band_that_no_tag_calls_alpha_is_none(dtype: str) -> None:
    data = tiff(bands(4, dtype), photometric="rgb", extrasamples=[UNSAID], metadata=None)
    tag = struct.pack("<HHIHH", 338, 3, 1, 0, 0)
    assert data.count(tag) == 1
    without = data.replace(tag, struct.pack("<HHIHH", 60_000, 3, 1, 0, 0))  # a private tag
    assert difference(without, COLOURS) < 0.5


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_of_two_bands_without_colours_the_first_is_the_picture(dtype: str) -> None:
    values = bands(2, dtype)[..., ::-1]
    data = tiff(values, photometric="minisblack", extrasamples=[UNSAID])
    top = 255 if dtype == "uint8" else GREY.max()
    assert difference(data, np.rint(GREY * (255 / top))) < 0.5


@pytest.mark.parametrize(
    "options", [{"compression": "zlib", "predictor": True}, {"tile": (16, 16)}]
)
def test_compressed_and_tiled_ones_are_the_same_picture(options: dict[str, Any]) -> None:
    assert (
        difference(tiff(bands(4), photometric="rgb", extrasamples=[UNSAID], **options), COLOURS) < 1
    )


def test_what_tifffile_has_no_codec_for_is_read_where_another_library_can() -> None:
    done, lzw = cv2.imencode(".tiff", np.ascontiguousarray(bands(3)[..., ::-1]))
    assert done
    assert tifffile.TiffFile(BytesIO(lzw.tobytes())).pages[0].compression == 5
    assert difference(lzw.tobytes(), COLOURS) < 0.5
    out = BytesIO()
    Image.fromarray(bands(2)[..., 1]).save(out, "TIFF", compression="tiff_lzw")
    assert difference(out.getvalue(), np.rint(GREY * (255 / GREY.max())).astype(int)) < 0.5


def test_a_turned_deep_tiff_stands_upright() -> None:
    data = tiff(bands(3), photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    assert difference(data, np.rot90(COLOURS, -1)) < 0.5
    assert inspect_image(data).orientation == 6


def test_an_orientation_that_exif_does_not_know_turns_nothing() -> None:
    data = tiff(bands(3), photometric="rgb", extratags=[(274, 3, 1, 9, True)])
    assert difference(data, COLOURS) < 0.5
    assert inspect_image(data).orientation == 1


def test_of_several_deep_pages_the_first_is_the_picture_and_all_are_counted() -> None:
    pages = np.stack([bands(3), bands(3) // 2, bands(3) // 3])
    data = tiff(pages, photometric="rgb")
    assert difference(data, COLOURS) < 0.5
    assert inspect_image(data).pages == 3


@pytest.mark.parametrize("maximum", [3_060, 65_535])
@pytest.mark.parametrize("is_text", [False, True])
def test_deep_ppm_and_pgm_are_stretched_alike(maximum: int, is_text: bool) -> None:
    for letter, values in ((3, bands(3)), (2, bands(2)[..., 1])):
        head = b"P%d\n96 60\n%d\n" % (letter if is_text else letter + 3, maximum)
        words = " ".join(map(str, values.ravel())).encode() + b"\n"
        data = head + (words if is_text else values.astype(">u2").tobytes())
        assert "cut off" in refusal(data[: len(data) * 3 // 4])
        wanted = COLOURS if letter == 3 else np.rint(GREY * (255 / GREY.max())).astype(int)
        assert difference(data, wanted) < 0.5


def test_deep_jpeg_2000_is_stretched_and_its_fourth_band_no_alpha() -> None:
    options = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
    for values in (bands(3), bands(4)):
        bgr = values[..., [2, 1, 0, 3][: values.shape[2]]]
        done, coded = cv2.imencode(".jp2", np.ascontiguousarray(bgr), options)
        assert done
        assert difference(coded.tobytes(), COLOURS) < 1


# --- alpha ---


def rgba(dtype: type, opaque: int) -> np.ndarray:
    """Transparent on the left, with meaningless values; opaque on the right."""
    alpha = np.where(X < 48, 0, opaque)[..., None]
    colours = COLOURS.astype(int) * (opaque // 255)
    colours[:, :48] = opaque
    return np.concatenate([colours, alpha], axis=2).astype(dtype)


@pytest.mark.parametrize(("dtype", "opaque"), [(np.uint8, 255), (np.uint16, 65_535)])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_a_band_that_is_called_alpha_hides_what_is_transparent(
    dtype: type, opaque: int, kind: str
) -> None:
    image = read_image(tiff(rgba(dtype, opaque), photometric="rgb", extrasamples=[kind]))
    assert (image[:, :48] == 255).all()
    low, high = (0, 255) if dtype == np.uint8 else (COLOURS[:, 48:].min(), COLOURS[:, 48:].max())
    wanted = (COLOURS[:, 48:] - float(low)) * 255 / (high - low)
    assert np.abs(image[:, 48:] - wanted).mean() < 1


def test_colours_that_were_multiplied_with_alpha_are_divided_by_it() -> None:
    share = np.where(Y < 30, 0.5, 1.0)[..., None]
    values = np.concatenate([bands(3) * 8 * share, share * 65_535], axis=2).astype(np.uint16)
    image = read_image(tiff(values, photometric="rgb", extrasamples=["assocalpha"])).astype(int)
    assert np.abs(image[30:] - COLOURS[30:]).mean() < 1
    assert np.abs(image[:30] - (COLOURS[:30].astype(int) + 255) / 2).mean() < 2


@pytest.mark.parametrize("highest", [0, 3_000])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_by_which_no_pixel_is_opaque_is_none(highest: int, dtype: type) -> None:
    values = bands(4, np.dtype(dtype).name)
    values[..., 3] = min(highest, 200) if dtype == np.uint8 else highest
    data = tiff(values, photometric="rgb", extrasamples=["unassalpha"])
    assert difference(data, COLOURS) < 0.5
    if dtype == np.uint8:
        out = BytesIO()
        Image.fromarray(values).save(out, "PNG")
        assert difference(out.getvalue(), COLOURS) == 0


def test_jpeg_2000_has_alpha_where_it_says_so() -> None:
    out = BytesIO()
    Image.fromarray(rgba(np.uint8, 255)).save(out, "JPEG2000")
    data = out.getvalue()
    assert b"cdef" in data
    assert (read_image(data)[:, :48] == 255).all()
    assert not (read_image(data.replace(b"cdef", b"none"))[:, 48:] == 255).all()


def test_a_transparent_value_of_a_deep_grey_png_is_white() -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        sum_ = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + sum_

    rows = np.tile(np.arange(500, 596, dtype=">u2"), (60, 1))
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = struct.pack(">IIBBBBB", 96, 60, 16, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"tRNS", struct.pack(">H", 500))
    image = read_image(data + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    assert (image[:, 0] == 255).all()
    assert (image[:, 1] < 5).all()


# --- stretching and inversion ---


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32"])
def test_where_zero_is_white_the_picture_is_inverted(dtype: str) -> None:
    data = tiff(bands(1, dtype)[..., 0] * 0 + bands(2, dtype)[..., 1], photometric="miniswhite")
    top = GREY.max()
    wanted = 255 - GREY.astype(int) if dtype == "uint8" else (top - GREY) * (255 / top)
    assert difference(data, np.asarray(wanted)) < 0.6


@pytest.mark.parametrize("nothing", [-9999.0, -3.4028234663852886e38])
def test_the_number_for_no_data_does_not_darken_the_rest(nothing: float) -> None:
    values = bands(3, "float32")
    values[:, :20] = nothing
    text = f"{nothing!r}\0"
    data = tiff(values, photometric="rgb", extratags=[(42113, 2, len(text), text, True)])
    image = read_image(data)
    assert not image[:, :20].any()
    assert np.abs(image[:, 20:].astype(int) - COLOURS[:, 20:]).mean() < 12
    assert not inspect_image(data).is_flat


def test_numbers_below_zero_are_numbers() -> None:
    values = bands(3).astype(np.int16) - 2_000
    assert difference(tiff(values, photometric="rgb"), COLOURS) < 0.5
    small = (COLOURS.astype(int) // 2 - 64).astype(np.int8)
    assert difference(tiff(small, photometric="rgb"), COLOURS) < 2


# --- refusals ---


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tiff(bands(1)[..., 0], photometric="cfa"), ["16 bits", "CFA"]),
        (lambda: tiff(bands(3), photometric="cielab"), ["3 bands", "CIELAB"]),
        (lambda: tiff(bands(6, "float64"), photometric="rgb"), ["6 bands", "keep fewer"]),
        (lambda: tiff((GREY * 1j).astype(np.complex64)), ["complex"]),
        (lambda: b"\xff\x0a" + bytes(40), ["JPEG XL"]),
        (lambda: b"\x76\x2f\x31\x01" + bytes(40), ["OpenEXR"]),
    ],
)
def test_what_cannot_be_shown_well_is_refused_and_says_what_it_is(
    make: Any, words: list[str]
) -> None:
    reason = refusal(make())
    assert all(word in reason for word in words), reason


@pytest.mark.parametrize("share", [0.2, 0.6, 0.98])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_deep_tiff_that_was_cut_off_is_found(share: float, compression: str | None) -> None:
    for values in (bands(4), planes(bands(4)), bands(2)[..., 1]):
        options: dict[str, Any] = {"compression": compression, "photometric": "minisblack"}
        if values.ndim == 3:
            options["extrasamples"] = [UNSAID] * 3
            options["planarconfig"] = "separate" if len(values) == 4 else "contig"
        data = tiff(values, **options)
        assert "cut off" in refusal(data[: int(len(data) * share)])


def test_a_deep_tiff_has_the_limits_that_others_have() -> None:
    data = tiff(bands(4), photometric="rgb", extrasamples=[UNSAID])
    reason = refusal(data, max_pixels=100)
    assert "too large: 96 x 60" in reason
    assert "max_pixels" in reason


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["rgb", "planes", "bits", "ppm"]), st.data())
def test_whatever_bytes_are_damaged_only_bad_image_errors_come_out(
    kind: str, data: st.DataObject
) -> None:
    small = bands(4)[:8, :9]
    raw = bytearray(
        {
            "rgb": lambda: tiff(small, photometric="rgb", extrasamples=["unassalpha"]),
            "planes": lambda: tiff(planes(small), planarconfig="separate", compression="zlib"),
            "bits": lambda: tiff(small[..., :1].repeat(3, axis=2) > 0, photometric="minisblack"),
            "ppm": lambda: b"P6\n9 8\n65535\n" + small[..., :3].astype(">u2").tobytes(),
        }[kind]()
    )
    check_damaged(raw, data)


# --- limits of the libraries ---


def test_a_png_with_a_long_text_is_read() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "y" * 3_000_000, zip=True)
    out = BytesIO()
    Image.fromarray(COLOURS).save(out, "PNG", pnginfo=text)
    assert difference(out.getvalue(), COLOURS) == 0


def test_deep_colours_beyond_opencvs_sides_are_refused_by_name() -> None:
    wide = np.zeros((2, (1 << 20) + 2, 3), ">u2")
    data = b"P6\n%d 2\n65535\n" % wide.shape[1] + wide.tobytes()
    assert "1,048,576 pixels per side" in refusal(data)


@pytest.mark.parametrize(
    ("kind", "side", "most"), [("JPEG", 65_501, "65,500"), ("AVIF", 32_769, "32,768")]
)
def test_sides_beyond_a_formats_library_are_refused_by_name(
    kind: str, side: int, most: str
) -> None:
    out = BytesIO()
    Image.new("RGB", (300, 40)).save(out, kind)
    form = ">H" if kind == "JPEG" else ">I"
    data = out.getvalue().replace(struct.pack(form, 300), struct.pack(form, side), 1)
    reason = refusal(data)
    assert f"{side} x 40" in reason
    assert most in reason


# --- almost uniform images ---


def test_a_picture_that_is_nearly_one_colour_is_told_from_one_that_is_dark() -> None:
    flat = np.full((60, 96, 3), 250, np.uint8)
    flat[::7, ::5] -= 9  # noise
    flat[0, :3] = 0  # a few dead pixels
    for data in (write_png(flat), write_jpeg(flat), tiff(np.full((60, 96), 777, np.uint16))):
        assert inspect_image(data).is_flat
    dark = np.zeros((60, 96, 3), np.uint8)
    dark[20:30, 20:30, 2] = 40
    assert not inspect_image(write_png(dark)).is_flat
    assert not is_flat(COLOURS)
    assert is_flat(flat)
