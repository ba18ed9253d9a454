"""One image file turned into RGB of one size, with what had to be done to it."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps

from regatta.core.errors import DecodeError

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Suffixes read as images; other files beside them are listed in the manifest and left out."""
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Readers that may be used: some of the others start programs."""
MOST_PIXELS = 64 * 2**20
_ORIENTATION = 0x0112
_FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
    EOFError,
    zlib.error,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""All that the readers raise over a damaged file."""

GREY = "grey, the same in all three channels"
PALETTE = "with a palette"
TRANSPARENT = "with transparency, laid on white"
INK = "in inks (CMYK), turned into RGB"
DEEP = "with 16 bits a channel, brought to 8"
TURNED = "turned as their EXIF data say"
ANIMATED = "of several pictures, of which the first is taken"
RESIZED = "of another size, resized"


@contextmanager
def quiet_pictures() -> Iterator[None]:
    """Around the decoding of images, in the thread that hands them out: the readers remark on
    damage in side data, a line for every image, and on sizes that are refused here anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def decode_image(content: bytes, size: int) -> tuple[np.ndarray, list[str]]:
    """(uint8 [3, size, size], remarks) of an encoded image; the aspect is not kept.

    Raises:
        DecodeError: it cannot be read whole, or is larger than `MOST_PIXELS`.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise DecodeError(
                    f"{opened.width} x {opened.height} pixels are too many: at most "
                    f"{MOST_PIXELS:,} are decoded"
                )
            # The reader keeps the upper byte of 16-bit colours and then calls them 8-bit.
            is_deep = any(";16" in str(tile[3]) for tile in getattr(opened, "tile", ()))
            opened.load()
            remarks = [ANIMATED] if getattr(opened, "n_frames", 1) > 1 else []
            if opened.getexif().get(_ORIENTATION, 1) in range(2, 9):
                remarks.append(TURNED)
            picture, kind = _to_rgb(ImageOps.exif_transpose(opened))
    except _FAULTS as error:
        raise DecodeError(_reason(error)) from error
    remarks += kind
    if is_deep and DEEP not in remarks:
        remarks.append(DEEP)
    if picture.size != (size, size):
        remarks.append(RESIZED)
        # Pillow widens the triangle when it makes smaller, so fine detail does not alias.
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(picture).transpose(2, 0, 1), remarks


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"too many pixels: at most {MOST_PIXELS:,} are decoded"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"no image of a known kind ({', '.join(FORMATS)})"
    return f"cannot be decoded: {error or type(error).__name__}"


def _to_rgb(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    """RGB with 8 bits, and the remarks on what it was."""
    mode = picture.mode
    if mode == "RGB" and "transparency" not in picture.info:
        return picture, []
    if mode.startswith(("I", "F")):
        return _from_deep(picture), [GREY, DEEP]
    remarks = {"1": [GREY], "L": [GREY], "LA": [GREY], "P": [PALETTE], "CMYK": [INK]}.get(mode, [])
    if mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        opaque = layered.getchannel("A").getextrema() == (255, 255)
        picture = Image.alpha_composite(ground, layered)
        remarks = remarks if opaque else [*remarks, TRANSPARENT]
    return picture.convert("RGB"), remarks


def _from_deep(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits: 0..65535 -> 0..255. Pillow's own conversion would cut off at 255."""
    levels = np.asarray(picture)
    if levels.dtype.kind == "f" or levels.min() < 0 or levels.max() > 65535:
        raise ValueError(f"its levels ({picture.mode}) are not of 8 or 16 bits")
    grey = np.rint(levels / 257).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
