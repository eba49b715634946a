"""Kinds of image files: those that are decoded, and those that are known, with what to do about them."""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

READ: Final = {  # Pillow's name of each kind, and how its files end; others start programs or rarely work
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
FORMATS: Final = tuple(READ)
ALIASES: Final = {"MPO": "JPEG", "DIB": "BMP"}  # a JPEG with a second image behind it; a BMP without its file header
SUFFIXES: Final = tuple(suffix for suffixes in READ.values() for suffix in suffixes)


class Other(NamedTuple):
    """A kind of image that is not decoded: its name, how its files end and begin, and what can be done."""

    name: str
    suffixes: tuple[str, ...]
    starts: tuple[bytes, ...]
    advice: str


_DEVELOPED = "export it as JPEG with the program that develops it"
_CONVERTED = "convert it to PNG first, as with: magick {0} image.png"
OTHERS: Final = (
    Other("HEIC", (), (), "pip install 'graft-vision[heic]', or 'graft-runtime[heic]' for a client"),
    Other(
        "a raw photograph",
        (
            *(".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".sr2", ".raf", ".orf", ".rw2", ".pef", ".srw", ".3fr"),
            *(".crw", ".srf", ".rwl", ".iiq", ".x3f", ".erf", ".mrw", ".dcr", ".kdc", ".fff", ".mef", ".gpr"),
        ),
        (b"FUJIFILMCCD-RAW", b"\0\0\0\x18ftypcrx ", b"IIRO", b"IIU\0"),
        _DEVELOPED,
    ),
    Other(
        "JPEG 2000",
        (".jp2", ".j2k", ".jpx", ".jpf", ".j2c"),
        (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
        _CONVERTED.format("image.jp2"),
    ),
    Other(
        "JPEG XL",
        (".jxl",),
        (b"\xff\x0a", b"\0\0\0\x0cJXL "),
        "convert it to PNG first, as with: djxl image.jxl image.png",
    ),
    Other("a Photoshop file", (".psd", ".psb"), (b"8BPS",), "export it as PNG"),
    Other(
        "a drawing",
        (".svg", ".svgz", ".eps"),
        (b"<svg", b"%!PS"),
        "render it as PNG, as with: rsvg-convert -w 512 image.svg -o image.png",
    ),
    Other(
        "DICOM",
        (".dcm", ".dicom"),
        (),
        "choose a window of its values and save it as PNG of 8 or 16 bits, as pydicom and Pillow do in a few lines",
    ),
    Other(
        "a NumPy array",
        (".npy", ".npz"),
        (b"\x93NUMPY",),
        "save each image as PNG, or give arrays in Python: graft.fit((numpy.load('images.npy'), labels))",
    ),
    Other(
        "a medical volume",
        (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd"),
        (),
        "save its slices as PNG, as nibabel or SimpleITK and Pillow do in a few lines",
    ),
    Other(
        "a microscope's file",
        (".svs", ".ndpi", ".mrxs", ".scn", ".vsi", ".czi", ".lif", ".nd2"),
        (),
        "save tiles or planes of it as PNG, as OpenSlide or Bio-Formats do",
    ),
    Other("OpenEXR", (".exr",), (b"\x76\x2f\x31\x01",), _CONVERTED.format("image.exr")),
    Other(
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
        _CONVERTED.format("image.tga"),
    ),
)
_HEIC, *_ENDING = OTHERS
_AVIF: Final = frozenset((b"avif", b"avis"))
_HEIF: Final = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"))

IMAGES: Final = (*SUFFIXES, *(suffix for other in OTHERS for suffix in other.suffixes))  # endings of any kind of image


def opened_as(data: bytes) -> tuple[str, ...]:
    """The formats that Pillow may take this file for."""
    return (*FORMATS[:-1], "DIB", *FORMATS[-1:] * (is_heif(data) and _has_heif()))


def of_name(name: str) -> str:
    """Why a file with this ending is not even opened, and what to do; empty where it may be decoded."""
    lower = name.lower()
    return next((_told(other) for other in _ENDING if other.suffixes and lower.endswith(other.suffixes)), "")


def of_content(data: bytes) -> str:
    """What a file is that Pillow cannot identify, and what to do; empty where that is not known either."""
    if is_heif(data):
        return _told(_HEIC)
    if data[128:132] == b"DICM":
        return of_name(".dcm")
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"<?xml") and b"<svg" in data[:4096]:
        return of_name(".svg")
    return next((_told(other) for other in _ENDING if start.startswith(other.starts)), "")


def is_heif(data: bytes) -> bool:
    """Whether a file calls itself HEIF, and not AVIF, which lies in the same boxes."""
    if data[4:8] != b"ftyp":
        return False
    size = min(int.from_bytes(data[:4]), 256)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, size, 4))}
    return not brands & _AVIF and bool(brands & _HEIF)


@cache
def _has_heif() -> bool:
    """Whether there is a decoder of HEIC. Pillow is told of it at the first file that needs it, for it takes time."""
    try:
        import pi_heif
    except ImportError:
        return False
    pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    return True


def _told(other: Other) -> str:
    return f"{other.name} is not read{' here' * (other is _HEIC)}: {other.advice}"
