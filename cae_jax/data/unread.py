"""Files that hold pictures which are not read, by their suffixes: what they are, and what to do.

A folder of a telephone's HEIC photographs alone is not empty, and saying so would send people
looking for a wrong path.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable

_SAVE = "save them as PNG or TIFF"
_HEIF = f"{_SAVE}, as `magick mogrify -format png *{{}}` does"
_FRAMES = "take their frames out, as `ffmpeg -i VIDEO frame_%05d.png` does"
_KINDS = (  # suffixes, what their files are called, and what to do with them
    (".heic .heif .hif", "HEIC photographs, as telephones write them", _HEIF),
    (
        ".cr2 .cr3 .crw .nef .nrw .arw .sr2 .dng .raf .orf .rw2 .pef .srw .raw .3fr .iiq .x3f",
        "raw photographs of a camera",
        "develop them to TIFF or PNG, as darktable-cli or RawTherapee do",
    ),
    (
        ".gif .jxl .jp2 .j2k .jpx .jpf .jxr .psd .xcf .exr .hdr .pfm .pam .ico .tga .dds .qoi "
        ".svg .pcx .sgi",
        "pictures of another format",
        _SAVE,
    ),
    (".mp4 .mov .avi .mkv .m4v .wmv .webm .mpg .mpeg .mts", "videos", _FRAMES),
    (".pdf", "documents", "take their pictures out, as `pdfimages -png` does"),
    (".zip .tar .tgz .gz .xz .7z .rar .bz2", "archives", "unpack them"),
    (".dcm .dicom .nii", "pictures of medical devices", _SAVE),
    (".npy .npz .mat .h5", "arrays", "cae_jax.runs.arrays.run takes arrays"),
)
_OF = {suffix: (what, how) for known, what, how in _KINDS for suffix in known.split()}
SUFFIXES = frozenset(_OF)
_WORDS = ("HEIC", "raw", "pictures")  # of kinds that could be photographs of a product
PICTURES = frozenset(suffix for suffix, (what, _) in _OF.items() if what.split()[0] in _WORDS)


def counted(suffixes: Iterable[str]) -> str:
    """Returns what is said of files with these suffixes, in lower case, one suffix a file; "" where
    none is of a picture that is not read."""
    counts = collections.Counter(suffix for suffix in suffixes if suffix in SUFFIXES)
    said = []
    for suffix, n in sorted(counts.items(), key=lambda each: (-each[1], each[0])):
        what, how = _OF[suffix]
        files, verb = ("file", "is") if n == 1 else ("files", "are")
        said.append(
            f"found {n} {suffix} {files} ({what}), which {verb} not read: {how.format(suffix)}"
        )
    return "; ".join(said)
