"""Image formats that lrbench reads, and names of other file types, detected by content."""

import re

from PIL import features

# Pillow's names. EPS is excluded because it starts Ghostscript, and IPTC because it can contain EPS. Pillow reads AVIF from
# version 11.3, unless it was built without.
_READS_AVIF = "avif" in features.get_supported()
READ_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", *(["AVIF"] if _READS_AVIF else []))
_READ_NAMES = f"JPEG, PNG, WebP, GIF, BMP, TIFF{', PPM and AVIF' if _READS_AVIF else ' and PPM'}"

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"%!PS", "an EPS file"),
    (b"\xc5\xd0\xd3\xc6", "an EPS file"),
    (b"%PDF", "a PDF file"),
    (b"8BPS", "a Photoshop image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"\0\0\1\0", "an ICO icon"),
    (b"gimp xcf", "a GIMP image"),
    (b"qoif", "a QOI image"),
    (b"DDS ", "a DDS image"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (b"\xd7\xcd\xc6\x9a", "a WMF drawing"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer"),
)
# Brands of the ISO base media file format, after `ftyp`.
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "a HEIC image"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF" if _READS_AVIF else "an AVIF image"),
}
_WEB_PAGE = re.compile(rb"<(!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_SVG = re.compile(rb"<svg[\s>]")


def detect_kind(content: bytes) -> str | None:
    """Return a file's type by its first bytes: one of `READ_FORMATS`, another type with its article, or None if unknown.

    >>> detect_kind(b"%!PS-Adobe-3.0 EPSF-3.0")
    'an EPS file'
    """
    for start, kind in _SIGNATURES:
        if content.startswith(start):
            return kind
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content[4:8] == b"ftyp":
        return _BRANDS.get(content[8:12], "a video")
    head = content[:1024]
    if _SVG.search(head):
        return "an SVG drawing"
    return "a web page" if _WEB_PAGE.search(head) else None


def explain_unreadable(content: bytes) -> str:
    """Return why Pillow does not recognise these bytes as one of `READ_FORMATS`, as a clause."""
    kind = detect_kind(content)
    if kind is None:
        return f"it is not an image in a format that lrbench reads ({_READ_NAMES})"
    if kind in READ_FORMATS:
        article = "an" if kind == "AVIF" else "a"
        return f"it starts like {article} {kind} image, but its header is damaged"
    if kind == "a Git LFS pointer":
        return "it is a Git LFS pointer, not the image; run `git lfs pull` in the repository it came from"
    if kind.endswith(("image", "icon", "drawing", "EPS file", "PDF file")):
        return f"it is {kind}, which lrbench does not read; convert it (lrbench reads {_READ_NAMES})"
    return f"it is {kind}"
