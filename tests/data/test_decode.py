from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageOps

from foveate.config.settings import DecodeConfig
from foveate.data.decode import decode_image, decode_mask, decode_pair, probe
from foveate.errors import SampleError

CONFIG = DecodeConfig()
RGB = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "BMP": {},
    "GIF": {},
}


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def written(folder: Path, data: bytes, name: str = "file") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def grey_png(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG of any depth (W3C, PNG specification, sections 5 and 11); Pillow writes 8."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    spread = np.unpackbits(values[..., None], axis=-1)[..., 8 - bits :]
    rows = np.packbits(spread.reshape(len(values), -1), axis=-1)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


class TestImage:
    @pytest.mark.parametrize("format_", FORMATS)
    @pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
    def test_pixels_are_those_of_pillow(self, tmp_path: Path, format_: str, mode: str) -> None:
        if format_ == "JPEG" and mode == "P":
            pytest.skip("JPEG has no palettes")
        data = encoded(Image.fromarray(RGB).convert(mode), format_, **FORMATS[format_])
        path = written(tmp_path, data)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        pixels = decode_image(path, CONFIG)
        np.testing.assert_array_equal(pixels, expected)
        assert pixels.flags["C_CONTIGUOUS"]
        assert probe(path, CONFIG) == (37, 53)

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
    def test_exif_is_applied(self, tmp_path: Path, format_: str, orientation: int) -> None:
        options = FORMATS[format_] | {"exif": exif(orientation)}
        data = encoded(Image.fromarray(RGB), format_, **options)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        pixels = decode_image(written(tmp_path, data), CONFIG)
        np.testing.assert_array_equal(pixels, np.asarray(upright))
        assert probe(tmp_path / "file", CONFIG) == pixels.shape[:2]

    def test_all_agree_on_an_orientation_behind_the_pixels(self, tmp_path: Path) -> None:
        """A PNG may say it at its end, which is read with the pixels only."""
        data = encoded(Image.fromarray(RGB), "PNG", exif=exif(6))
        start = data.index(b"eXIf") - 4
        end = start + 12 + int.from_bytes(data[start : start + 4])
        last = data.index(b"IEND") - 4
        moved = data[:start] + data[end:last] + data[start:end] + data[last:]
        path = written(tmp_path, moved)
        mask = written(tmp_path, encoded(Image.fromarray(RGB[..., 0]), "PNG"), "mask")
        size = probe(path, CONFIG)
        assert decode_image(path, CONFIG).shape[:2] == size
        assert decode_pair(path, mask, CONFIG)[0].shape[:2] == size

    @settings(deadline=None, max_examples=60)
    @given(st.tuples(st.integers(1, 140), st.integers(1, 140)), st.sampled_from([1, 6]))
    def test_jpeg_is_reduced_as_far_as_allowed(
        self, tmp_path_factory: pytest.TempPathFactory, least: tuple[int, int], orientation: int
    ) -> None:
        stored = Image.new("RGB", (131, 97))
        data = encoded(stored, "JPEG", exif=exif(orientation))
        path = written(tmp_path_factory.getbasetemp(), data)
        full = (97, 131) if orientation == 1 else (131, 97)
        sizes = [tuple(-(-side // factor) for side in full) for factor in (8, 4, 2)]
        fitting = [size for size in sizes if size[0] >= least[0] and size[1] >= least[1]]
        pixels = decode_image(path, CONFIG, least)
        assert pixels.shape[:2] == (fitting[0] if fitting else full)

    def test_content_not_name_tells_the_format(self, tmp_path: Path) -> None:
        path = written(tmp_path, encoded(Image.fromarray(RGB), "PNG"), "photo.jpg")
        np.testing.assert_array_equal(decode_image(path, CONFIG), RGB)

    @pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF"])
    def test_alpha_shows_the_background(self, tmp_path: Path, format_: str) -> None:
        image = Image.new("RGBA", (3, 1), (200, 100, 0, 255))
        image.putpixel((1, 0), (200, 100, 0, 0))
        image.putpixel((2, 0), (200, 100, 0, 51))
        options = {"lossless": True, "exact": True} if format_ == "WEBP" else {}
        path = written(tmp_path, encoded(image, format_, **options))
        pixels = decode_image(path, DecodeConfig(background=(0, 50, 250)))
        # Composition "over": 51 / 255 = 0.2 of the pixel, 0.8 of the background.
        assert pixels[0].tolist() == [[200, 100, 0], [0, 50, 250], [40, 60, 200]]

    def test_transparent_palette_entry_shows_the_background(self, tmp_path: Path) -> None:
        image = Image.fromarray(np.array([[0, 1]], np.uint8))
        image.putpalette([10, 20, 30, 40, 50, 60])
        path = written(tmp_path, encoded(image, "PNG", transparency=1))
        assert decode_image(path, CONFIG)[0].tolist() == [[10, 20, 30], [255, 255, 255]]

    @pytest.mark.parametrize("format_", ["GIF", "WEBP", "TIFF", "PNG"])
    def test_first_frame_of_an_animation(self, tmp_path: Path, format_: str) -> None:
        frames = [Image.new("RGB", (8, 8), color) for color in ("#ff0000", "#00ff00")]
        options = {"lossless": True} if format_ == "WEBP" else {}
        data = encoded(frames[0], format_, save_all=True, append_images=frames[1:], **options)
        pixels = decode_image(written(tmp_path, data), CONFIG)
        assert (pixels == (255, 0, 0)).all()

    def test_cmyk_is_not_inverted(self, tmp_path: Path) -> None:
        image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow ink: red
        pixels = decode_image(written(tmp_path, encoded(image, "JPEG", quality=95)), CONFIG)
        assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 3  # what JPEG loses

    def test_padding_before_the_end_of_a_jpeg_is_harmless(self, tmp_path: Path) -> None:
        data = encoded(Image.fromarray(RGB), "JPEG")
        plain = decode_image(written(tmp_path, data), CONFIG)
        padded = decode_image(written(tmp_path, data[:-2] + bytes(20) + data[-2:]), CONFIG)
        np.testing.assert_array_equal(padded, plain)

    def test_broken_exif_leaves_the_image_as_it_is(self, tmp_path: Path) -> None:
        data = encoded(Image.fromarray(RGB), "PNG", exif=b"Exif\0\0no tags")
        np.testing.assert_array_equal(decode_image(written(tmp_path, data), CONFIG), RGB)

    def test_threads_do_not_disturb_each_other(self, tmp_path: Path) -> None:
        paths = [
            written(tmp_path, encoded(Image.fromarray(RGB), format_, **options), format_)
            for format_, options in FORMATS.items()
        ] * 8
        alone = [decode_image(path, CONFIG).tobytes() for path in paths]
        with ThreadPoolExecutor(4) as pool:
            together = pool.map(lambda path: decode_image(path, CONFIG).tobytes(), paths)
        assert list(together) == alone


class TestSixteenBits:
    VALUES = np.array([[0, 1000, 1510, 2020, 3040, 3550, 65535]], np.uint16)
    # round(255 * (value - 1000) / (3550 - 1000)), which is (value - 1000) / 10
    LEVELS = (0, 0, 51, 102, 204, 255, 255)
    CONFIG = DecodeConfig(range_16bit=(1000, 3550))

    @pytest.mark.parametrize("extension", [".png", ".tiff"])
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_declared_range(self, tmp_path: Path, extension: str, channels: int) -> None:
        values = np.dstack([self.VALUES] * 3 + [np.full_like(self.VALUES, 65535)])
        values = values[..., 0] if channels == 1 else values[..., :channels]
        path = tmp_path / f"deep{extension}"
        cv2.imwrite(str(path), values)
        pixels = decode_image(path, self.CONFIG)
        assert pixels.shape == (1, 7, 3)
        assert [tuple(pixels[0, :, channel].tolist()) for channel in range(3)] == [self.LEVELS] * 3

    def test_channel_order(self, tmp_path: Path) -> None:
        cv2.imwrite(str(tmp_path / "a.png"), np.array([[[3040, 2020, 1510]]], np.uint16))  # BGR
        assert decode_image(tmp_path / "a.png", self.CONFIG)[0, 0].tolist() == [51, 102, 204]

    @pytest.mark.parametrize("channels", [1, 3])
    def test_refused_without_a_range(self, tmp_path: Path, channels: int) -> None:
        values = np.dstack([self.VALUES + 1] * channels)[:, :6]
        cv2.imwrite(str(tmp_path / "a.png"), values)
        with pytest.raises(SampleError, match=r"a\.png .*range_16bit.* from 1 to 3551"):
            decode_image(tmp_path / "a.png", CONFIG)

    @pytest.mark.parametrize("orientation", [1, 6])
    def test_turned_tiff(self, tmp_path: Path, orientation: int) -> None:
        image = Image.fromarray(self.VALUES)
        path = written(tmp_path, encoded(image, "TIFF", tiffinfo={274: orientation}))
        pixels = decode_image(path, self.CONFIG)
        assert pixels.shape[:2] == ((1, 7) if orientation == 1 else (7, 1))
        assert tuple(pixels[..., 0].ravel().tolist()) == self.LEVELS

    def test_floating_point_is_refused(self, tmp_path: Path) -> None:
        path = written(tmp_path, encoded(Image.new("F", (4, 4)), "TIFF"))
        with pytest.raises(SampleError, match="32 bits"):
            decode_image(path, CONFIG)


class TestFailures:
    @pytest.mark.parametrize("read", [probe, decode_image, decode_mask])
    @pytest.mark.parametrize(
        ("content", "reason"),
        [(b"", "an empty file"), (b"path,label\n", "begins with b'path,label"), (None, "No such")],
    )
    def test_no_image(self, tmp_path: Path, read: Any, content: bytes | None, reason: str) -> None:
        path = tmp_path / "bad.png"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(SampleError, match=rf"bad\.png .*but got.*{reason}"):
            read(path, CONFIG)

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(SampleError, match="directory"):
            decode_image(tmp_path, CONFIG)

    @settings(deadline=None, max_examples=80)
    @given(st.sampled_from(list(FORMATS)), st.floats(0, 0.98))
    def test_truncated_files_are_refused_quietly(
        self, tmp_path_factory: pytest.TempPathFactory, format_: str, share: float
    ) -> None:
        data = encoded(Image.fromarray(RGB), format_, **FORMATS[format_])
        path = written(tmp_path_factory.getbasetemp(), data[: int(len(data) * share)])
        with pytest.raises(SampleError, match="file"):
            decode_image(path, CONFIG)

    @settings(deadline=None, max_examples=150)
    @given(st.sampled_from(list(FORMATS)), st.data())
    def test_damaged_files_never_crash(
        self, tmp_path_factory: pytest.TempPathFactory, format_: str, draw: st.DataObject
    ) -> None:
        data = bytearray(encoded(Image.fromarray(RGB), format_, **FORMATS[format_]))
        for _ in range(3):
            data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
        path = written(tmp_path_factory.getbasetemp(), bytes(data))
        for read in (decode_image, decode_mask):
            try:
                assert read(path, DecodeConfig(max_pixels=100_000)).dtype == np.uint8
            except SampleError as error:
                assert str(path) in str(error)  # noqa: PT017 (both outcomes are right)

    def test_damage_is_not_told_on_stderr(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        data = bytearray(encoded(Image.fromarray(RGB), "PNG"))
        data[len(data) // 2] ^= 0x55
        with pytest.raises(SampleError):
            decode_image(written(tmp_path, bytes(data)), CONFIG)
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize("what", ["compression", "filter", "end"])
    def test_deep_colour_with_an_odd_header_or_end(
        self, what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Pillow takes them, whole checksums and all; OpenCV would print what it thinks."""
        data = bytearray(cv2.imencode(".png", RGB.astype(np.uint16) * 257)[1].tobytes())
        if what == "end":
            del data[-2:]
        else:
            data[{"compression": 26, "filter": 27}[what]] = 4
            data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        with pytest.raises(SampleError):
            decode_image(written(tmp_path, bytes(data)), DecodeConfig(range_16bit=(0, 65535)))
        assert capfd.readouterr().err == ""

    def test_pixel_limit(self, tmp_path: Path) -> None:
        path = written(tmp_path, encoded(Image.fromarray(RGB), "PNG"))
        assert probe(path, DecodeConfig(max_pixels=37 * 53)) == (37, 53)
        for read in (probe, decode_image, decode_mask):
            with pytest.raises(SampleError, match=r"1,960 pixels.*37x53.*max_pixels"):
                read(path, DecodeConfig(max_pixels=37 * 53 - 1))

    def test_pixel_limit_needs_the_header_alone(self, tmp_path: Path) -> None:
        data = bytearray(grey_png(np.zeros((1, 1), np.uint8), 8))
        data[16:24] = struct.pack(">II", 100_000, 90_000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        with pytest.raises(SampleError, match="90000x100000"):
            decode_image(written(tmp_path, bytes(data)), CONFIG)

    def test_limit_above_that_of_pillow(self, tmp_path: Path) -> None:
        # 190 million pixels: Pillow's own check would raise; the file itself is tiny.
        image = Image.new("1", (19_000, 10_000))
        path = written(tmp_path, encoded(image, "TIFF", compression="group4"))
        assert probe(path, CONFIG) == (10_000, 19_000)


class TestMask:
    @settings(deadline=None, max_examples=60)
    @given(
        st.sampled_from([1, 2, 4, 8]).flatmap(
            lambda bits: st.tuples(
                st.just(bits),
                arrays.arrays(np.uint8, (3, 5), elements=st.integers(0, 2**bits - 1)),
            )
        )
    )
    def test_grey_ids_are_kept(
        self, tmp_path_factory: pytest.TempPathFactory, drawn: tuple[int, np.ndarray]
    ) -> None:
        bits, ids = drawn
        path = written(tmp_path_factory.getbasetemp(), grey_png(ids, bits))
        np.testing.assert_array_equal(decode_mask(path, CONFIG), ids)

    @pytest.mark.parametrize("format_", ["PNG", "GIF", "BMP", "TIFF"])
    def test_palette_indices_are_kept(self, tmp_path: Path, format_: str) -> None:
        ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
        image = Image.fromarray(ids)
        image.putpalette(np.random.default_rng(1).integers(0, 256, 768, dtype=np.uint8).tobytes())
        path = written(tmp_path, encoded(image, format_))
        np.testing.assert_array_equal(decode_mask(path, CONFIG), ids)

    @pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
    def test_other_modes(self, tmp_path: Path, mode: str) -> None:
        ids = np.array([[0, 1, 2, 255]], np.uint8)
        image = Image.fromarray(ids.astype(np.uint16) if mode == "I;16" else ids)
        path = written(tmp_path, encoded(image if mode == "I;16" else image.convert(mode), "PNG"))
        np.testing.assert_array_equal(decode_mask(path, CONFIG), ids)

    def test_lossless_webp(self, tmp_path: Path) -> None:
        image = Image.new("RGB", (4, 4), (7, 7, 7))
        path = written(tmp_path, encoded(image, "WEBP", lossless=True))
        assert (decode_mask(path, CONFIG) == 7).all()

    @pytest.mark.parametrize(
        ("image", "format_", "options", "reason"),
        [
            (Image.new("L", (8, 8)), "JPEG", {}, "losslessly.*JPEG"),
            (Image.new("RGB", (8, 8)), "WEBP", {}, "losslessly.*WEBP"),
            (Image.new("RGB", (8, 8)), "TIFF", {"compression": "jpeg"}, "losslessly.*TIFF"),
            (Image.new("RGB", (8, 8), (1, 1, 2)), "PNG", {}, "colours.*convert"),
            (Image.new("RGBA", (8, 8), (1, 1, 1, 9)), "PNG", {}, "transparent pixels"),
            (Image.fromarray(np.full((8, 8), 256, np.uint16)), "PNG", {}, "0 to 255, but got 256"),
            (Image.new("F", (8, 8)), "TIFF", {}, "mode 'F' of 32 bits"),
            (Image.new("CMYK", (8, 8)), "TIFF", {}, "mode 'CMYK'"),
        ],
    )
    def test_refused(
        self,
        tmp_path: Path,
        image: Image.Image,
        format_: str,
        options: dict[str, Any],
        reason: str,
    ) -> None:
        path = written(tmp_path, encoded(image, format_, **options), "ids.x")
        with pytest.raises(SampleError, match=rf"ids\.x must .*{reason}"):
            decode_mask(path, CONFIG)

    def test_sixteen_bit_colour_is_refused(self, tmp_path: Path) -> None:
        cv2.imwrite(str(tmp_path / "a.png"), np.zeros((2, 2, 3), np.uint16))
        with pytest.raises(SampleError, match="16 bits"):
            decode_mask(tmp_path / "a.png", CONFIG)


class TestPair:
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_both_are_turned_by_their_own_exif(self, tmp_path: Path, orientation: int) -> None:
        options = {"exif": exif(orientation)}
        image = written(tmp_path, encoded(Image.fromarray(RGB), "PNG", **options), "image")
        ids = Image.fromarray(RGB[..., 0])
        mask = written(tmp_path, encoded(ids, "PNG", **options), "mask")
        pixels, values = decode_pair(image, mask, CONFIG)
        np.testing.assert_array_equal(pixels[..., 0], values)
        upright = written(tmp_path, encoded(Image.fromarray(values), "PNG"), "upright")
        np.testing.assert_array_equal(decode_pair(image, upright, CONFIG)[1], values)

    def test_mask_stays_whole_when_the_image_is_reduced(self, tmp_path: Path) -> None:
        image = written(tmp_path, encoded(Image.fromarray(RGB), "JPEG"), "image")
        mask = written(tmp_path, encoded(Image.fromarray(RGB[..., 0]), "PNG"), "mask")
        pixels, ids = decode_pair(image, mask, CONFIG, (10, 10))
        assert pixels.shape == (10, 14, 3)  # a quarter, rounded up
        assert ids.shape == (37, 53)

    def test_sizes_must_agree(self, tmp_path: Path) -> None:
        image = written(tmp_path, encoded(Image.fromarray(RGB), "JPEG", exif=exif(6)), "image")
        mask = written(tmp_path, encoded(Image.fromarray(RGB[..., 0]), "PNG"), "mask")
        with pytest.raises(SampleError, match=r"mask .*image, 53x37 .*but got 37x53.*EXIF"):
            decode_pair(image, mask, CONFIG)

    def test_the_broken_file_is_named(self, tmp_path: Path) -> None:
        image = written(tmp_path, encoded(Image.fromarray(RGB), "PNG"), "image")
        data = encoded(Image.fromarray(RGB[..., 0]), "PNG")
        mask = written(tmp_path, data[: len(data) // 2], "mask")
        with pytest.raises(SampleError, match="mask must be a readable image"):
            decode_pair(image, mask, CONFIG)
