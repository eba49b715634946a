"""Image formats: those that are decoded, and those that are recognised, with advice to the user."""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

SUFFIXES_OF_FORMAT: Final = {  # Pillow's name of each kind, and how its files end; others start programs or rarely work
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".jps"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "ICO": (".ico",),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif"),
}
FORMATS: Final = tuple(SUFFIXES_OF_FORMAT)
ALIASES: Final = {"MPO": "JPEG", "DIB": "BMP"}  # a JPEG with a second image behind it; a BMP without its file header
SUFFIXES: Final = tuple(suffix for suffixes in SUFFIXES_OF_FORMAT.values() for suffix in suffixes)


class UnsupportedFormat(NamedTuple):
    """An image format that is not decoded: its name, suffixes, first bytes, and advice."""

    name: str
    suffixes: tuple[str, ...]
    starts: tuple[bytes, ...]
    advice: str


_EXPORT_AS_JPEG = "export it as JPEG with the program that develops it"
_CONVERT_TO_PNG = "convert it to PNG first, as with: magick {0} image.png"
UNSUPPORTED: Final = (
    UnsupportedFormat("HEIC", (), (), "pip install 'graft-vision[heic]', or 'graft-runtime[heic]' for a client"),
    UnsupportedFormat(
        "a raw photograph",
        (
            *(".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".sr2", ".raf", ".orf", ".rw2", ".pef", ".srw", ".3fr"),
            *(".crw", ".srf", ".rwl", ".iiq", ".x3f", ".erf", ".mrw", ".dcr", ".kdc", ".fff", ".mef", ".gpr"),
        ),
        (b"FUJIFILMCCD-RAW", b"\0\0\0\x18ftypcrx ", b"IIRO", b"IIU\0"),
        _EXPORT_AS_JPEG,
    ),
    UnsupportedFormat(
        "JPEG 2000",
        (".jp2", ".j2k", ".jpx", ".jpf", ".j2c"),
        (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
        _CONVERT_TO_PNG.format("image.jp2"),
    ),
    UnsupportedFormat(
        "JPEG XL",
        (".jxl",),
        (b"\xff\x0a", b"\0\0\0\x0cJXL "),
        "convert it to PNG first, as with: djxl image.jxl image.png",
    ),
    UnsupportedFormat("a Photoshop file", (".psd", ".psb"), (b"8BPS",), "export it as PNG"),
    UnsupportedFormat(
        "a drawing",
        (".svg", ".svgz", ".eps"),
        (b"<svg", b"%!PS"),
        "render it as PNG, as with: rsvg-convert -w 512 image.svg -o image.png",
    ),
    UnsupportedFormat(
        "DICOM",
        (".dcm", ".dicom"),
        (),
        "choose a window of its values and save it as PNG of 8 or 16 bits, as pydicom and Pillow do in a few lines",
    ),
    UnsupportedFormat(
        "a NumPy array",
        (".npy", ".npz"),
        (b"\x93NUMPY",),
        "save each image as PNG, or give arrays in Python: graft.fit((numpy.load('images.npy'), labels))",
    ),
    UnsupportedFormat(
        "a medical volume",
        (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd"),
        (),
        "save its slices as PNG, as nibabel or SimpleITK and Pillow do in a few lines",
    ),
    UnsupportedFormat(
        "a microscope's file",
        (".svs", ".ndpi", ".mrxs", ".scn", ".vsi", ".czi", ".lif", ".nd2"),
        (),
        "save tiles or planes of it as PNG, as OpenSlide or Bio-Formats do",
    ),
    UnsupportedFormat("OpenEXR", (".exr",), (b"\x76\x2f\x31\x01",), _CONVERT_TO_PNG.format("image.exr")),
    UnsupportedFormat(
        "this kind of image",
        (
            ".tga",
            ".pcx",
            ".dds",
            ".xcf",
            ".sgi",
            ".qoi",
            ".hdr",
            ".pfm",
            ".jxr",
            ".wdp",
            ".hdp",
            ".fits",
            ".cur",
            ".icns",
        ),
        (b"gimp xcf", b"qoif", b"#?RADIANCE", b"SIMPLE  =", b"II\xbc\x01", b"icns"),
        _CONVERT_TO_PNG.format("image.tga"),
    ),
)
_HEIC, *_UNSUPPORTED_HERE = UNSUPPORTED
_AVIF: Final = frozenset((b"avif", b"avis"))
_HEIF: Final = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"))

IMAGE_SUFFIXES: Final = (
    *SUFFIXES,
    *(suffix for other in UNSUPPORTED for suffix in other.suffixes),
)  # endings of any kind of image


def list_pillow_formats(data: bytes) -> tuple[str, ...]:
    """Return the formats that Pillow may try for this file."""
    return (*FORMATS[:-1], "DIB", *FORMATS[-1:] * (is_heif(data) and _has_heif()))


def advise_by_name(name: str) -> str:
    """Return advice for a file name with the suffix of an unsupported format, otherwise an empty text."""
    lower = name.lower()
    return next(
        (_format_advice(other) for other in _UNSUPPORTED_HERE if other.suffixes and lower.endswith(other.suffixes)), ""
    )


def advise_by_content(data: bytes) -> str:
    """Return advice for file content that Pillow cannot identify; an empty text for unknown content."""
    if is_heif(data):
        return _format_advice(_HEIC)
    if data[128:132] == b"DICM":
        return advise_by_name(".dcm")
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"<?xml") and b"<svg" in data[:4096]:
        return advise_by_name(".svg")
    return next((_format_advice(other) for other in _UNSUPPORTED_HERE if start.startswith(other.starts)), "")


def is_heif(data: bytes) -> bool:
    """Whether a file is HEIF by its brands, and not AVIF, which uses the same container."""
    if data[4:8] != b"ftyp":
        return False
    size = min(int.from_bytes(data[:4]), 256)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, size, 4))}
    return not brands & _AVIF and bool(brands & _HEIF)


@cache
def _has_heif() -> bool:
    """Whether a HEIC decoder is installed. It is registered at the first file that needs it, for it takes time."""
    try:
        import pi_heif
    except ImportError:
        return False
    pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    return True


def _format_advice(other: UnsupportedFormat) -> str:
    return f"{other.name} is not read{' here' * (other is _HEIC)}: {other.advice}"
