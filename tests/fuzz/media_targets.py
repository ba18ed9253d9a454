"""Images and videos: files that native decoders read."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from regatta.core.errors import DecodeError
from regatta.data.decode import probe, read_frames
from regatta.data.image_decode import decode_image, quiet_pictures
from regatta.data.sources.image_folder import image_folder
from regatta.data.video_files import write_video
from tests.fuzz.tables_targets import check_images
from tests.fuzz.target import Case, Target, on_disk

SIDE = 16
IMAGE_WORDS = (
    *(
        b"IHDR",
        b"IDAT",
        b"PLTE",
        b"tRNS",
        b"eXIf",
        b"acTL",
        b"iCCP",
        b"zTXt",
        b"\xff\xd8",
        b"\xff\xc0",
    ),
    *(
        b"\xff\xda",
        b"\xff\xe1\x00\x20Exif\x00\x00",
        b"GIF89a",
        b"\x21\xf9\x04",
        b"II*\x00",
        b"MM\x00*",
    ),
    *(
        b"../",
        b"/..",
        b"RIFF",
        b"WEBPVP8X",
        b"VP8L",
        b"BM",
        b"P6\n9999999 9999999\n255\n",
        b"\x00\x00\xff\xff",
    ),
)
VIDEO_WORDS = (
    *(
        b"RIFF",
        b"AVI ",
        b"LIST",
        b"hdrl",
        b"avih",
        b"strh",
        b"strf",
        b"movi",
        b"idx1",
        b"vids",
        b"XVID",
    ),
    *(
        b"ftyp",
        b"moov",
        b"trak",
        b"stsd",
        b"stts",
        b"ctts",
        b"stsz",
        b"stco",
        b"avc1",
        b"elst",
        b"mdat",
    ),
    *(b"\x1a\x45\xdf\xa3", b"\x00\x00\x01\xb6", b"\x00\x00\x01\x20", b"\x00\x00\x00\x01\x67"),
    *(b"#EXTM3U\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n"),
)


def _pictures() -> dict[str, Image.Image]:
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (9, 11), dtype=np.uint16))
    return {
        "rgb": colour, "grey": colour.convert("L"), "palette": colour.convert("P"),
        "alpha": colour.convert("RGBA"), "cmyk": colour.convert("CMYK"), "one": colour.convert("1"),
        "deep": deep,
    }  # fmt: skip


def _encoded(kind: str, names: tuple[str, ...], **options: object) -> dict[str, bytes]:
    files = {}
    for name, picture in _pictures().items():
        if name in names:
            stream = io.BytesIO()
            picture.save(stream, kind, **options)
            files[f"{name}.{kind.lower()}"] = stream.getvalue()
    return files


def _images(files: Callable[[], dict[str, bytes]], mend: Callable[[bytes], bytes] | None = None):
    """Images in memory; every second one with the sums of its format put right again."""

    def build(folder: Path) -> Case:
        def parse(name: str, content: bytes) -> None:
            if mend is not None and zlib.crc32(content) % 2:
                content = mend(content)
            with quiet_pictures():
                image, remarks = decode_image(content, SIDE)
            assert image.shape == (3, SIDE, SIDE)
            assert image.dtype == np.uint8
            assert all(isinstance(remark, str) for remark in remarks)

        return Case(files(), parse)

    return build


def with_png_sums(content: bytes) -> bytes:
    """The chunks of a PNG file with the sums that belong to them."""
    found, place = bytearray(content[:8]), 8
    while place + 8 <= len(content):
        (size,) = struct.unpack_from(">I", content, place)
        end = min(place + 8 + size, len(content))
        body = content[place + 4 : end]
        found += content[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place = end + 4
    return bytes(found)


def _png() -> dict[str, bytes]:
    files = _encoded("PNG", ("rgb", "grey", "palette", "alpha", "one", "deep"))
    stream = io.BytesIO()
    frames = [_pictures()["rgb"], _pictures()["alpha"].convert("RGB")]
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:])
    return {**files, "animated.png": stream.getvalue()}


def _jpeg() -> dict[str, bytes]:
    files = _encoded("JPEG", ("rgb", "grey", "cmyk"), quality=80)
    stream = io.BytesIO()
    turned = Image.Exif()
    turned[0x0112] = 6
    _pictures()["rgb"].save(stream, "JPEG", exif=turned, progressive=True)
    return {**files, "turned.jpeg": stream.getvalue()}


def _tiff() -> dict[str, bytes]:
    names = ("rgb", "grey", "palette", "alpha", "cmyk", "one", "deep")
    return _encoded("TIFF", names) | {
        f"z-{name}": content
        for name, content in _encoded("TIFF", ("rgb", "deep"), compression="tiff_lzw").items()
    }


def _others() -> dict[str, bytes]:
    names = ("rgb", "grey", "one")
    return {
        **_encoded("GIF", ("rgb", "palette")), **_encoded("WEBP", ("rgb", "alpha")),
        **_encoded("BMP", names), **_encoded("PPM", names),
    }  # fmt: skip


def _zip(folder: Path) -> Case:
    """An archive of class folders: its own bytes, and its images with the archive whole."""
    path = folder / "images.zip"
    good = {
        f"set/{label}/{number}.png": content
        for label in ("cat", "dog")
        for number, content in enumerate(_encoded("PNG", ("rgb", "grey")).values())
    }

    def packed(members: dict[str, bytes]) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return stream.getvalue()

    def parse(name: str, content: bytes) -> None:
        if name == "name":
            member = content.decode("utf-8", "replace").replace("\0", "0")[:15_000] or "x"
            content = packed({**good, member: good["set/cat/0.png"]})
        elif name != "whole.zip":
            content = packed({**good, name: content})
        path.write_bytes(content)
        found = image_folder(path, image_size=SIDE)
        check_images(found)
        for item in (*found.rows, *found.dropped):
            text = item.sample_id if hasattr(item, "sample_id") else item.path
            assert ".." not in text.split("/")
            text.encode("utf-8")

    return Case({"whole.zip": packed(good), "name": b"set/dog/other.png", **good}, parse)


def _video(folder: Path) -> Case:
    rng = np.random.default_rng(0)
    still = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    images = np.stack([np.roll(still, shift, axis=1) for shift in range(8)])
    makes = [
        ("xvid.avi", "mpeg4", {"bf": "2"}, "XVID"), ("plain.avi", "mpeg4", {}, None),
        ("h264.mp4", "libx264", {"crf": "30"}, None), ("h264.mkv", "libx264", {"crf": "30"}, None),
        ("vp9.webm", "libvpx-vp9", {}, None), ("ffv1.mkv", "ffv1", {}, None),
        ("mpeg4.mov", "mpeg4", {}, None),
    ]  # fmt: skip
    for name, codec, options, tag in makes:
        write_video(folder / name, images, fps=10, codec=codec, options=options, tag=tag)

    def parse(name: str, _content: bytes) -> None:
        facts = probe(folder / name)
        assert facts.counted_frames >= 1
        assert facts.width > 0
        assert facts.height > 0
        assert math.isfinite(facts.fps)
        assert facts.fps > 0
        assert math.isfinite(facts.duration_seconds)
        assert facts.missing_seconds is None or math.isfinite(facts.missing_seconds)
        last = facts.counted_frames - 1
        try:
            frames = read_frames(folder / name, [0, last, 0])
        except DecodeError:
            # Conversion to colours may fail where decoding did not.
            return
        assert frames.images.shape == (3, facts.height, facts.width, 3)
        assert (frames.images[0] == frames.images[2]).all()
        assert np.isfinite(frames.timestamps_seconds).all()

    return Case(on_disk(folder, lambda: None).files, parse, folder)


TARGETS = [
    Target(
        "png", _images(_png, with_png_sums), IMAGE_WORDS, quick=600, soak=30_000, names_place=False
    ),
    Target("jpeg", _images(_jpeg), IMAGE_WORDS, quick=600, soak=30_000, names_place=False),
    Target("tiff", _images(_tiff), IMAGE_WORDS, quick=600, soak=30_000, names_place=False),
    Target(
        "other-images", _images(_others), IMAGE_WORDS, quick=600, soak=30_000, names_place=False
    ),
    Target("image-zip", _zip, IMAGE_WORDS, quick=200, soak=10_000),
    Target("video", _video, VIDEO_WORDS, quick=150, soak=6_000, seconds=5.0, mebibytes=600),
]
