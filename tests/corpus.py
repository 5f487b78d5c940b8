"""Odd and bad images and masks, made from a seed, for test_corpus.py."""

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from tests.layouts import make_image

Outcome = Literal["read", "refused", "either"]  # either: damage may leave a file readable
HEIGHT, WIDTH = 24, 32
PIXELS = make_image(np.random.default_rng(0), HEIGHT, WIDTH, (4, 6, 8))
RGB = Image.fromarray(PIXELS)
GREY = RGB.convert("L")
DEEP = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 85
ORIENTATION = 274  # EXIF's tag
UPRIGHT = {  # inverse of each orientation
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
NAMES = (
    *("with space.png", "größe.png", "图像 一.png", "изображение.png", "صورة.png", "🙂.png"),
    *("a'b\"c.png", "100%.png", "-dash.png", "#1;x&y.png", "e\u0301.png", "x" * 200 + ".png"),
    *("no_suffix", "two.dots.png", "UPPER.PNG", "$(touch canary).png"),
)


@dataclass(frozen=True)
class Case:
    """One file: how to write it, and what its reader must do with it."""

    label: str
    name: str  # of the file; the error message must contain it
    write: Callable[[Path], object]
    outcome: Outcome
    expected: np.ndarray | None = None  # the pixels, if it is read
    tolerance: float = 0.0  # mean difference, for lossy formats


def of_bytes(label: str, name: str, data: bytes, outcome: Outcome, *pixels) -> Case:
    """Make a case of a file with these bytes; `pixels` are the expected pixels and tolerance."""
    return Case(label, name, lambda path: path.write_bytes(data), outcome, *pixels)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    """Encode an image as the bytes of a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def rgb(image: Image.Image) -> np.ndarray:
    """Convert an image to RGB pixels (H, W, 3)."""
    return np.asarray(image.convert("RGB"))


def damaged(data: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Yield copies with flipped bits: half of them anywhere, half in the first 200 bytes."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        copy = bytearray(data)
        within = len(copy) if number % 2 else min(len(copy), 200)
        for position in rng.integers(within, size=rng.integers(1, 8)):
            copy[position] ^= 1 << rng.integers(8)
        yield bytes(copy)


def broken(
    name: str, data: bytes, flips: int = 10, cuts: tuple = (0.1, 0.3, 0.5, 0.7, 0.9)
) -> list[Case]:
    """Truncate a file to some fractions, and flip bits in copies of it."""
    cases = [
        of_bytes(f"{name} cut at {cut}", name, data[: int(len(data) * cut)], "refused")
        for cut in cuts
    ]
    copies = enumerate(damaged(data, zlib.crc32(name.encode()), flips))
    return cases + [of_bytes(f"{name} flipped {n}", name, copy, "either") for n, copy in copies]


def exif(orientation: int) -> Image.Exif:
    """Make EXIF data with an orientation."""
    data = Image.Exif()
    data[ORIENTATION] = orientation
    return data


def files() -> dict[str, bytes]:
    """Encode one valid file of each format."""
    return {
        "a.png": encoded(RGB, "PNG"),
        "a.jpg": encoded(RGB, "JPEG", quality=95),
        "progressive.jpg": encoded(RGB, "JPEG", quality=95, progressive=True),
        "a.bmp": encoded(RGB, "BMP"),
        "a.tif": encoded(RGB, "TIFF"),
        "lzw.tif": encoded(RGB, "TIFF", compression="tiff_lzw"),
        "a.webp": encoded(RGB, "WEBP", quality=95),
        "lossless.webp": encoded(RGB, "WEBP", lossless=True),
    }


def readable_images() -> list[Case]:
    """List modes, depths, orientations, sizes and names that must be read correctly."""
    mode = {name: RGB.convert(name) for name in ("L", "LA", "P", "1", "RGBA", "CMYK", "YCbCr")}
    half = Image.merge("RGBA", (*RGB.split(), Image.new("L", RGB.size, 128)))
    high = np.repeat((DEEP >> 8).astype(np.uint8)[..., None], 3, 2)
    wide = PIXELS.astype(np.uint16) * 256 + 200
    cases = []
    for kind, suffix, names in (
        ("PNG", "png", ("L", "LA", "P", "1", "RGBA")),
        ("BMP", "bmp", ("L", "P", "1", "RGBA")),
        ("TIFF", "tif", ("L", "LA", "P", "1", "RGBA", "CMYK")),
    ):
        cases += [
            of_bytes(f"{kind} {m}", f"{m}.{suffix}", encoded(mode[m], kind), "read", rgb(mode[m]))
            for m in names
        ]
    cases += [
        of_bytes(f"{suffix} 16-bit", f"deep.{suffix}", data, "read", pixels)
        for suffix, data, pixels in (
            ("png", encoded(Image.fromarray(DEEP), "PNG"), high),
            ("tif", encoded(Image.fromarray(DEEP), "TIFF"), high),
            ("rgb.png", cv2.imencode(".png", wide[..., ::-1])[1].tobytes(), PIXELS),
            ("rgb.tif", cv2.imencode(".tif", wide[..., ::-1])[1].tobytes(), PIXELS),
        )
    ]
    for name, data in files().items():
        lossy = name.endswith(".jpg") or name == "a.webp"
        cases.append(of_bytes(name, name, data, "read", PIXELS, 8.0 if lossy else 0.0))
        for suffix in (".png", ".jpg", ".tif", ".bmp"):
            other = f"really {name}{suffix}"
            cases.append(of_bytes(other, other, data, "read", PIXELS, 8.0 if lossy else 0.0))
    for number, undo in UPRIGHT.items():
        for kind in ("PNG", "TIFF", "WEBP", "JPEG"):
            more = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
            data = encoded(RGB, kind, exif=exif(number), **more)
            loss = 8.0 if kind == "JPEG" else 0.0
            label = f"{kind} orientation {number}"
            cases.append(of_bytes(label, "turned.jpg", data, "read", undo(PIXELS), loss))
    cases += [
        of_bytes("alpha", "alpha.png", encoded(half, "PNG"), "read", on_white(half)),
        of_bytes(
            "WebP alpha", "a.webp", encoded(half, "WEBP", lossless=True), "read", on_white(half), 1
        ),
        of_bytes(
            "index", "p.png", encoded(mode["P"], "PNG", transparency=3), "read", rgb(mode["P"])
        ),
        of_bytes("CMYK", "cmyk.jpg", encoded(mode["CMYK"], "JPEG", quality=95), "read", PIXELS, 8),
        of_bytes("grey", "grey.jpg", encoded(GREY, "JPEG", quality=95), "read", rgb(GREY), 8),
        of_bytes("thumbnail", "phone.jpg", two_images("MPO", quality=95), "read", PIXELS, 8),
        of_bytes("bytes after it", "a.png", encoded(RGB, "PNG") + b"more", "read", PIXELS),
        of_bytes("bad orientation", "a.png", encoded(RGB, "PNG", exif=exif(99)), "read", PIXELS),
    ]
    for height, width in ((1, 1), (1, 7), (7, 1), (10, 20000), (20000, 10)):
        pixels = make_image(np.random.default_rng(1), height, width, None)
        data = encoded(Image.fromarray(pixels), "PNG")
        cases.append(of_bytes(f"{width} x {height}", "thin.png", data, "read", pixels))
    png = encoded(RGB, "PNG")
    return cases + [of_bytes(f"named {name[:30]}", name, png, "read", PIXELS) for name in NAMES]


def on_white(image: Image.Image) -> np.ndarray:
    """Composite a transparent image on white."""
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return np.asarray(white.convert("RGB"))


def two_images(kind: str, **options) -> bytes:
    """Encode a file with two different images."""
    other = Image.fromarray(PIXELS[::-1])
    return encoded(RGB, kind, save_all=True, append_images=[other], **options)


def bombs() -> dict[str, bytes]:
    """Encode small files that claim huge dimensions or hold a huge text."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    def png(width: int, height: int, *more: bytes) -> bytes:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
        body = chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + body + chunk(b"IEND", b"")

    jpeg = bytearray(encoded(RGB, "JPEG"))
    size = jpeg.index(b"\xff\xc0") + 5
    jpeg[size : size + 4] = struct.pack(">HH", 65500, 65500)
    bmp = bytearray(encoded(RGB, "BMP"))
    bmp[18:26] = struct.pack("<ii", 2**31 - 1, 2**31 - 1)
    tiff = encoded(RGB, "TIFF")
    for tag, old in ((256, WIDTH), (257, HEIGHT)):  # width and height, as 16- or 32-bit entries
        for kind in (3, 4):
            entry = struct.pack("<HHI", tag, kind, 1)
            new = struct.pack("<HHII", tag, 4, 1, 200_000)
            tiff = tiff.replace(entry + struct.pack("<I", old), new)
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(8 << 20), 9))
    return {
        "60000.png": png(60000, 60000),
        "12000.png": png(12000, 12000),  # below the limit of Pillow itself
        "2147483647.png": png(2**31 - 1, 2**31 - 1),
        "0.png": png(0, 0),
        "text.png": png(8, 8, text),
        "large.jpg": bytes(jpeg),
        "large.bmp": bytes(bmp),
        "large.tif": tiff,
    }


def foreign() -> dict[str, bytes]:
    """Encode files of unsupported formats; some would start a program."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    eps += b"(canary) (w) file closefile\nshowpage\n%%EOF\n"
    html = b"<html><head><title>404 Not Found</title></head></html>"
    others = {f"{kind}.png".lower(): encoded(RGB, kind) for kind in ("PPM", "ICO", "TGA")}
    others |= {f"{kind}.jpg".lower(): encoded(RGB, kind) for kind in ("PCX", "SGI", "DDS", "PDF")}
    return others | {
        "program.png": eps,
        "program.eps": eps,
        "page.jpg": html,
        "svg.png": b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>',
        "empty.png": b"",
        "zeros.bmp": bytes(5000),
        "pointer.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "pickle.png": b"cos\nsystem\n(S'touch canary'\ntR.",
    }


def refused_images() -> list[Case]:
    """List images that must be refused, and damaged ones that may be."""
    cases = [case for name, data in files().items() for case in broken(name, data)]
    known = {**bombs(), **foreign()}
    known |= {
        "several.png": two_images("PNG"),
        "several.webp": two_images("WEBP"),
        "several.tif": two_images("TIFF"),
        "float.tif": encoded(GREY.convert("F"), "TIFF"),
        "nan.tif": encoded(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"),
        "32-bit.tif": encoded(Image.fromarray(np.full((8, 8), 70000, np.int32)), "TIFF"),
        "negative.tif": encoded(Image.fromarray(np.full((8, 8), -1, np.int32)), "TIFF"),
    }
    cases += [of_bytes(name, name, data, "refused") for name, data in known.items()]
    not_files = {
        "folder": Path.mkdir,
        "pipe": os.mkfifo,
        "loop": lambda path: path.symlink_to(path),
        "to nothing": lambda path: path.symlink_to("nothing"),
        "to a device": lambda path: path.symlink_to("/dev/zero"),
        "not there": lambda path: None,
    }
    return cases + [Case(label, "x.png", make, "refused") for label, make in not_files.items()]


def masks() -> list[Case]:
    """List valid and invalid masks of an anomalous image of WIDTH x HEIGHT."""
    shape = np.zeros((HEIGHT, WIDTH), bool)
    shape[3:9, 5:20] = True
    eight = Image.fromarray(shape.astype(np.uint8) * 255)
    ids = Image.fromarray(shape.astype(np.uint8) * 3)
    swapped = Image.fromarray((~shape).astype(np.uint8))  # index 0 is the defect, 1 the ground
    swapped.putpalette([255, 255, 255, 0, 0, 0])
    right = {
        **{f"mask {mode}": encoded(eight.convert(mode), "PNG") for mode in ("1", "L", "LA", "P")},
        **{f"mask {mode}": encoded(eight.convert(mode), "PNG") for mode in ("RGB", "RGBA")},
        **{
            f"mask of ids {mode}": encoded(ids.convert(mode), "PNG") for mode in ("L", "LA", "RGBA")
        },
        **{f"mask {kind}": encoded(eight, kind) for kind in ("BMP", "TIFF")},
        "mask WebP": encoded(eight.convert("RGB"), "WEBP", lossless=True),
        "mask swapped palette": encoded(swapped, "PNG"),
        "mask 16-bit": encoded(Image.fromarray(shape.astype(np.uint16)), "PNG"),
        "mask 16-bit TIFF": encoded(Image.fromarray(shape.astype(np.uint16) * 300), "TIFF"),
    }
    number = np.where(shape, 1.0, 0.0).astype(np.float32)
    unknown = np.where(shape, np.nan, 0.0).astype(np.float32)
    wrong = {
        **{f"empty {m}": encoded(Image.new(m, RGB.size), "PNG") for m in ("1", "L", "P", "RGB")},
        "empty with alpha": encoded(Image.new("RGBA", RGB.size, (0, 0, 0, 255)), "PNG"),
        "one column more": encoded(Image.new("L", (WIDTH + 1, HEIGHT), 255), "PNG"),
        "turned by EXIF": encoded(eight.rotate(90, expand=True), "PNG", exif=exif(6)),
        "turned by hand": encoded(eight.rotate(90, expand=True), "PNG"),
        "half the size": encoded(eight.resize((WIDTH // 2, HEIGHT // 2)), "PNG"),
        "1 x 1": encoded(Image.new("L", (1, 1), 255), "PNG"),
        "floats": encoded(Image.fromarray(number), "TIFF"),
        "NaN": encoded(Image.fromarray(unknown), "TIFF"),
        "lossy": encoded(eight, "JPEG"),
    }
    cases = [of_bytes(label, "m.png", data, "read", shape) for label, data in right.items()]
    cases += [of_bytes(f"mask {n}", "m.png", data, "refused") for n, data in wrong.items()]
    for name, data in {**foreign(), **bombs()}.items():
        cases.append(of_bytes(f"mask {name}", name, data, "refused"))
    return cases + broken("mask.png", right["mask L"], cuts=(0.1, 0.3, 0.5, 0.7))
