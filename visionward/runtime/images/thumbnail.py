"""Small pictures of images, for reports."""

import base64
from io import BytesIO

from PIL import Image

from visionward.errors import ImageError
from visionward.runtime.images.images import ImageSource, decode_image


def thumbnail(source: ImageSource, pixels: int, quality: int) -> str | None:
    """The first picture of an image as JPEG in base64; None if it cannot be decoded.

    Args:
        source: the image.
        pixels: maximum of width and height.
        quality: JPEG quality.
    """
    try:
        image = decode_image(source)
    except ImageError:
        return None
    image.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
