"""Pictures from bytes that nobody vouches for."""

from __future__ import annotations

import io
from collections.abc import Collection

from PIL import Image

from mmretrieval.errors import UserError

MAX_IMAGE_PIXELS = 64 * 2**20
"""Larger pictures are refused before they are decoded: 64 Mpx are 192 MiB of RGB."""
IMAGE_FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
"""Formats that data sets have, and the extension of each in a shard."""


class ImageError(UserError):
    """Bytes that are no picture which may be used."""


def open_image(data: bytes, formats: Collection[str] = tuple(IMAGE_FORMATS)) -> Image.Image:
    """Read a picture's header, without decoding it.

    Args:
        data: The bytes of a file.
        formats: Formats that may be read, by Pillow's names.

    Raises:
        ImageError: If the bytes are of no such picture, or of one with more than :data:`MAX_IMAGE_PIXELS`.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=list(formats))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"image has more than {MAX_IMAGE_PIXELS} pixels") from None
    except Exception as error:  # PIL raises errors of many kinds on damaged images
        raise ImageError(f"no {', '.join(formats)} image ({type(error).__name__}: {error})") from None
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise ImageError(f"image of {image.width} x {image.height} has more than {MAX_IMAGE_PIXELS} pixels")
    return image


def decode_image(data: bytes, formats: Collection[str] = tuple(IMAGE_FORMATS)) -> Image.Image:
    """Decode the first frame of a picture to RGB; transparency is composited on white.

    Args:
        data: The bytes of a file.
        formats: Formats that may be read, by Pillow's names.

    Raises:
        ImageError: As :func:`open_image`, and if the picture is damaged.
    """
    image = open_image(data, formats)
    try:
        image.load()
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        return image.convert("RGB")
    except Exception as error:
        raise ImageError(f"image is damaged ({type(error).__name__}: {error})") from None


def verify_image(data: bytes) -> None:
    """Decode a picture of a data set to the end, and compare its checksums where its format has them.

    Raises:
        ImageError: As :func:`decode_image`.
    """
    try:
        open_image(data).verify()
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"image is damaged ({type(error).__name__}: {error})") from None
    decode_image(data)
