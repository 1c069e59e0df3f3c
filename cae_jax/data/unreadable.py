"""What a file that is no image of ours is, by its first bytes: for an error that says why."""

from __future__ import annotations

_READ = "PNG, JPEG, TIFF, BMP, WebP, AVIF and PGM are read"
_SAVE = "save it as PNG or TIFF"
_STARTS = (  # the longest of a kind first
    (b"GIF8", f"is a GIF; {_SAVE}"),
    (b"\xff\x0a", f"is a JPEG XL image; {_SAVE}"),
    (b"\0\0\0\x0cJXL ", f"is a JPEG XL image; {_SAVE}"),
    (b"\0\0\0\x0cjP  ", f"is a JPEG 2000 image; {_SAVE}"),
    (b"\xff\x4f\xff\x51", f"is a JPEG 2000 image; {_SAVE}"),
    (b"\x76\x2f\x31\x01", f"is an OpenEXR image; {_SAVE}"),
    (b"#?RADIANCE", f"is a Radiance HDR image; {_SAVE}"),
    (b"8BPS", f"is a Photoshop document; {_SAVE}"),
    (b"SIMPLE  =", f"is a FITS file; {_SAVE}"),
    (b"II\xbc\x01", f"is a JPEG XR image; {_SAVE}"),
    (b"FUJIFILMCCD-RAW", f"is a camera's raw file (RAF); {_SAVE}"),
    (b"IIRO", f"is a camera's raw file (ORF); {_SAVE}"),
    (b"IIRS", f"is a camera's raw file (ORF); {_SAVE}"),
    (b"IIU\0", f"is a camera's raw file (RW2); {_SAVE}"),
    (b"FOVb", f"is a camera's raw file (X3F); {_SAVE}"),
    (b"gimp xcf", f"is an image of GIMP (XCF); {_SAVE}"),
    (b"\x01\xda", f"is an SGI image; {_SAVE}"),
    (b"\x8aMNG", f"is an animation (MNG); {_SAVE}"),
    (b"P7\n", f"is a PAM image; {_SAVE}"),
    (b"PF", f"is a PFM image; {_SAVE}"),
    (b"Pf", f"is a PFM image; {_SAVE}"),
    (b"\0\0\x01\0", f"is a Windows icon; {_SAVE}"),
    (b"DDS ", f"is a DirectDraw texture; {_SAVE}"),
    (b"qoif", f"is a QOI image; {_SAVE}"),
    (b"%PDF", "is a PDF document, no image"),
    (b"%!PS", "is a PostScript document, no image"),
    (b"PK\x03\x04", "is a ZIP archive, no image"),
    (b"\x1f\x8b", "is a gzip archive, no image"),
    (b"7z\xbc\xaf", "is a 7z archive, no image"),
    (b"Rar!", "is a RAR archive, no image"),
    (b"\x93NUMPY", "is an array of NumPy, no image; numpy.load reads it, and score() takes arrays"),
    (b"\x89HDF", "is an HDF5 file, no image"),
    (b"\xd0\xcf\x11\xe0", "is a Microsoft Office file or a Thumbs.db, no image"),
    (b"\0\x05\x16\x07", "is what macOS keeps beside a file (AppleDouble), no image"),
    (b"MZ", "is a program for Windows, no image"),
    (b"\x7fELF", "is a program, no image"),
    (b"RIFF", "is a video or a sound, no image"),
    (b"\x1aE\xdf\xa3", "is a video, no image"),
    (
        b"version https://git-lfs",
        "is a pointer of Git LFS and not the image itself: run `git lfs pull`",
    ),
)
_BRANDS = {  # of files in ISO's base media format
    b"hei": f"is a HEIC photograph, as iPhones write them; {_SAVE}",
    b"hev": f"is a HEIC photograph, as iPhones write them; {_SAVE}",
    b"mif": f"is a HEIF photograph; {_SAVE}",
    b"msf": f"is a HEIF photograph; {_SAVE}",
    b"crx": f"is a camera's raw file (CR3); {_SAVE}",
}


def what(head: bytes) -> str:
    """Returns what follows a file's name in an error, by its first bytes (512 are enough)."""
    for start, cause in _STARTS:
        if head.startswith(start):
            return cause
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:11], "is a video (MP4), no image")
    if head[128:132] == b"DICM":
        return f"is a DICOM file; {_SAVE}"
    if head[344:347] in (b"n+1", b"ni1"):
        return f"is a NIfTI file; {_SAVE}"
    if not head.strip(b"\0"):
        return "begins with nothing but zero bytes: it was copied or written incompletely"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "is a web page (HTML), no image; a download may have failed or asked for a login"
    if text.startswith((b"<?xml", b"<svg")):
        return "is an SVG drawing, no image" if b"<svg" in text else "is an XML file, no image"
    if text.startswith((b"{", b"[")) and _is_text(head):
        return "is a JSON file, no image"
    if _is_text(head):
        return "is a text file, no image"
    return f"is no image of a kind that is read, or its first bytes are damaged; {_READ}"


def _is_text(head: bytes) -> bool:
    """Whether bytes are words: nothing that does not print, by UTF-8 or UTF-16."""
    coding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    try:
        text = head.decode(coding)
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # a letter may be cut where the first bytes end
            return False
        text = head[: error.start].decode(coding)
    return all(letter.isprintable() or letter.isspace() for letter in text)
