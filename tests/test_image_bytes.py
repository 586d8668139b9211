import io

import numpy as np
import pytest
from PIL import Image

from mmretrieval import image_bytes
from mmretrieval.image_bytes import ImageError, decode_image, verify_image


def test_transparency_is_composited_on_white():
    half = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    half.putpixel((0, 0), (10, 20, 30, 255))
    stream = io.BytesIO()
    half.save(stream, "PNG")
    image = decode_image(stream.getvalue())
    assert image.mode == "RGB"
    assert np.asarray(image)[0].tolist() == [[10, 20, 30], [255, 255, 255]]
    palette = io.BytesIO()
    Image.new("P", (2, 2)).save(palette, "PNG", transparency=0)
    assert decode_image(palette.getvalue()).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "RGB"])
def test_every_colour_mode_becomes_rgb(mode):
    stream = io.BytesIO()
    Image.new(mode, (2, 2)).save(stream, "PNG" if mode == "1" else "JPEG")
    assert decode_image(stream.getvalue()).mode == "RGB"


def test_the_first_frame_counts_and_only_where_the_format_is_allowed():
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(stream.getvalue(), ("GIF",)).getpixel((1, 1)) == (255, 0, 0)
    with pytest.raises(ImageError, match="no JPEG, PNG, WEBP image"):
        decode_image(stream.getvalue())


def test_what_is_no_picture_is_refused(monkeypatch):
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(stream, "PNG")
    whole = stream.getvalue()
    verify_image(whole)
    for damaged in (b"", b"<html></html>", whole[: len(whole) // 2], whole[:60] + b"xx" + whole[62:]):
        with pytest.raises(ImageError, match="image"):
            verify_image(damaged)
    monkeypatch.setattr(image_bytes, "MAX_IMAGE_PIXELS", 64 * 63)
    with pytest.raises(ImageError, match="64 x 64 has more than"):
        decode_image(whole)
