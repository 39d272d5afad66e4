"""Naming a file's type by its first bytes, for error messages about a file of the wrong type."""

# How many first bytes `file_type` needs.
HEAD_BYTES = 64

_TYPES = (
    (b"GGUF", "a GGUF file"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"%PDF-", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (
        b"version https://git-lfs.github.com/",
        "a Git LFS pointer, not the file itself: download the file with git lfs pull",
    ),
    (b"ggml", "a GGML file, the predecessor of GGUF"),
    (b"lmgg", "a GGML file, the predecessor of GGUF"),
)
# ISO base media files say which in their fifth to twelfth byte.
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "a HEIF image"),
    **dict.fromkeys((b"avif", b"avis"), "an AVIF image"),
}
_MARKUP = ((b"<!doctype html", "an HTML page"), (b"<html", "an HTML page"), (b"<svg", "an SVG image"))


def file_type(head: bytes) -> str | None:
    """What a file is, with its article, such as ``a JPEG image``; None if unknown.

    Args:
        head: its first ``HEAD_BYTES`` bytes, or all of them.
    """
    if not head:
        return "empty"
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "a video or audio file")
    if head[:4] == b"RIFF":
        return "a WebP image" if head[8:12] == b"WEBP" else "a RIFF file"
    if head[8:9] == b"{" and len(head) > 8 and int.from_bytes(head[:8], "little") < 2**27:
        return "a safetensors file"
    markup = head.lstrip().lower()
    named = (name for start, name in (*_TYPES, *_MARKUP) if head.startswith(start) or markup.startswith(start))
    return next(named, None)
