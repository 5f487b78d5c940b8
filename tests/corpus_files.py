"""Odd and bad splits, lists of references, score files and archives for test_corpus.py."""

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from tests.corpus import Case, broken, damaged, of_bytes
from tests.corpus_weights import Trap

HEADER = "class_name,split,label,defect,image,mask"
TRAIN, GOOD = "b,train,0,good,b/train/good/0.png,", "b,test,0,good,b/test/good/0.png,"
BAD = "b,test,1,cut,b/test/cut/0.png,b/ground_truth/cut/0.png"
SHOTS = "category,shots,seed,image\nbottle,1,0,bottle/train/good/000.png\n"


def table(*rows: str) -> bytes:
    """Encode the lines of a table."""
    return "\n".join([*rows, ""]).encode()


def splits() -> list[Case]:
    """List splits changed by hand, by a spreadsheet or by a disk fault."""
    whole = table(HEADER, TRAIN, GOOD, BAD)
    right = {
        "as written": whole,
        "with CRLF": whole.replace(b"\n", b"\r\n"),
        "from a spreadsheet": b"\xef\xbb\xbf" + whole,
        "another order": table("label,split,class_name,defect,mask,image", "0,test,b,good,,b.png"),
        "without a mask": table(HEADER, "b,test,1,cut,b/0.png,"),
        "a further column": table(HEADER + ",note", GOOD + ",x"),
        "names in quotes": table(HEADER, 'b,test,0,good,"b/a, ""b"" 图像 é 🙂.png",'),
    }
    columns = HEADER.split(",")
    wrong = {f"without {name}": whole.replace(name.encode(), b"other", 1) for name in columns}
    wrong |= {f"{name} twice": table(f"{HEADER},{name}", f"{GOOD},x") for name in columns}
    paths = ("/etc/passwd", "../0.png", "b/../../0.png", "b\\0.png", "C:\\0.png", "..")
    paths += ("./0.png", "b//0.png", "b/./0.png", "//b/0.png", "b/0.png/", ".", "")
    paths += ('"b/\n0.png"', '"b/\r0.png"', "b/\x1b[2J0.png", "b/\x000.png", "b/\u20280.png")
    wrong |= {f"image {p!a}": table(HEADER, f"b,test,0,good,{p},") for p in paths}
    wrong |= {f"mask {p!a}": table(HEADER, f"b,test,1,cut,b/0.png,{p}") for p in paths if p}
    names = ("", ".", "..", "a/b", "a\\b", "/", '"a\nb"', "\x07")
    wrong |= {f"class {n!a}": table(HEADER, f"{n},test,0,good,b/0.png,") for n in names}
    wrong |= {f"defect {n!a}": table(HEADER, f"b,test,1,{n},b/0.png,m.png") for n in names[1:]}
    wrong |= {
        f"label {n!a}": table(HEADER, f"b,test,{n},good,b/0.png,") for n in ("", "2", "-1", "²")
    }
    wrong |= {
        f"split {n!a}": table(HEADER, f"b,{n},0,good,b/0.png,") for n in ("", "val", '"a\nb"')
    }
    wrong |= {
        "duplicate rows": table(HEADER, GOOD, GOOD),
        "the same image as train and test": table(HEADER, GOOD, GOOD.replace("test,", "train,", 1)),
        "nothing": b"",
        "a line": b"\n",
        "no rows": table(HEADER),
        "cut in a row": whole[:-30],
        "cut in the header": whole[:20],
        "zeros": bytes(4096),
        "UTF-16": whole.decode().encode("utf-16"),
        "Latin-1": table(HEADER, GOOD).replace(b"good/0", "good/é".encode("latin-1")),
        "semicolons": whole.replace(b",", b";"),
        "an open quote": table(HEADER, 'b,test,0,good,"b/0.png,'),
        "a field of a megabyte": table(HEADER, f"b,test,0,good,{'x' * 2**20},"),
        "JSON": b'{"train": {}, "test": {}}',
        "an image": b"\x89PNG\r\n\x1a\n\x00\x00",
    }
    cases = [of_bytes(f"split {label}", "mvtec.csv", data, "read") for label, data in right.items()]
    cases += [of_bytes(f"split {label}", "mvtec.csv", d, "refused") for label, d in wrong.items()]
    copies = enumerate(damaged(whole, 1, 20))
    cases += [of_bytes(f"split flipped {n}", "mvtec.csv", copy, "either") for n, copy in copies]
    return cases + not_files("split", "mvtec.csv")


def not_files(what: str, name: str) -> list[Case]:
    """List what can be found instead of a file."""
    makers = {
        "folder": Path.mkdir,
        "loop": lambda path: path.symlink_to(path),
        "not there": lambda path: None,
    }
    return [Case(f"{what} {label}", name, make, "refused") for label, make in makers.items()]


def reference_lists() -> list[Case]:
    """List files of references; `read_references` checks their form, not their contents."""
    whole = SHOTS.encode()
    columns = ("category", "shots", "seed", "image")
    wrong = {f"without {name}": whole.replace(name.encode(), b"other", 1) for name in columns}
    wrong |= {
        "nothing": b"",
        "zeros": bytes(100),
        "Latin-1": b"\xe9",
        "UTF-16": SHOTS.encode("utf-16"),
    }
    wrong |= {"ragged": whole + b"a,b,c,d,e,f,g\n", "an open quote": whole + b'"a'}
    cases = [of_bytes("list as written", "shots.csv", whole, "read")]
    cases += [of_bytes(f"list {n}", "shots.csv", data, "refused") for n, data in wrong.items()]
    for name in ("shots.csv.gz", "shots.zip", "shots.csv.xz", "shots.bz2", "shots.tar"):
        cases.append(of_bytes(f"list {name}", name, b"PK\x03\x04 no archive", "refused"))
    copies = enumerate(damaged(whole, 2, 20))
    cases += [of_bytes(f"list flipped {n}", "shots.csv", copy, "either") for n, copy in copies]
    return cases + not_files("list", "shots.csv")


def arrays(**changes) -> dict[str, np.ndarray]:
    """Make the arrays of a small score file."""
    sound = dict(
        image=np.array(["a.png", "b.png"]),
        label=np.array([0, 1]),
        shots=np.array([0]),
        seed=np.array([-1]),
        image_scores=np.array([[0.1, 0.9]], np.float32),
        maps=np.linspace(0, 1, 8, dtype=np.float32).reshape(1, 2, 2, 2),
        tiles=np.array([[1, 1], [1, 1]]),
        tile_side=np.array([240, 240]),
        size=np.array([[240, 240], [240, 240]]),
    )
    return sound | changes


def npz(**changes) -> bytes:
    """Encode a score file."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays(**changes))
    return stream.getvalue()


def claiming(shape: str) -> bytes:
    """Encode an NPZ file whose maps claim a shape that their data do not have."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(npz())) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "maps.npy":
                header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(
                    117
                )
                data = data[:8] + (118).to_bytes(2, "little") + header.encode() + b"\n" + data[-32:]
            new.writestr(name, data)
    return stream.getvalue()


def score_files() -> list[Case]:
    """List score files that are damaged or not written by a run."""
    trap = np.array([Trap(), Trap()], dtype=object)
    wrong = {f"{name} pickled": npz(**{name: trap}) for name in arrays()}
    for method in (b"\x63", b"\x0c", b"\x0e"):  # compressions: unknown, bzip2, LZMA
        at = npz().index(b"PK\x01\x02") + 10
        wrong[f"method {method}"] = npz()[:at] + method + npz()[at + 1 :]
    for shape in ("(1000000000000,)", "(-1,)", "(2,", "(" * 900, "x", "(1, 2, 2, 2.5)"):
        wrong[f"shape {shape[:20]}"] = claiming(shape)
    encrypted = npz()
    at = encrypted.index(b"PK\x01\x02") + 8
    wrong["encrypted"] = encrypted[:at] + b"\x01" + encrypted[at + 1 :]
    wrong |= {"pickle": pickle.dumps(Trap()), "text": b"text", "nothing": b""}
    cases = [of_bytes("scores as written", "bottle.npz", npz(), "read")]
    cases += [of_bytes(f"scores {n}", "bottle.npz", data, "refused") for n, data in wrong.items()]
    return cases + broken("bottle.npz", npz(), flips=40) + not_files("scores", "bottle.npz")


def tar(mode: str, *members: tuple) -> bytes:
    """Encode a tar of (name, type, link) members; files have one byte."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=tarfile.PAX_FORMAT) as archive:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            member.size = 1 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"x"))
    return stream.getvalue()


def zipped(*names: str, link: bool = False) -> bytes:
    """Encode a ZIP of files, or of symbolic links."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if link else 0o100644) << 16
            archive.writestr(info, "../../secret" if link else "x" * 100)
    return stream.getvalue()


def archives() -> list[Case]:
    """List archives that are damaged or would write outside the folder `in/data`."""
    names = ("../out", "a/../../out", "/tmp/canary-out", "//out", "..", "a/..", "C:\\out", "\\out")
    names += ("a\\..\\..\\out", "../\n/out", "./../out", "C:out")
    file = tarfile.REGTYPE
    wrong = {f"tar {n!a}": ("a.tar", tar("w", (n, file, ""))) for n in names}
    wrong |= {f"zip {n!a}": ("a.zip", zipped("ok", n)) for n in names}
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        for link in ("/etc", "../..", "ok", "."):
            members = [("ok", file, ""), ("link", kind, link), ("link/out", file, "")]
            wrong[f"tar link {kind} {link}"] = ("a.tar", tar("w", *members))
    for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
        wrong[f"tar device {kind}"] = ("a.tar", tar("w", ("device", kind, "")))
    wrong["a file as a folder"] = ("a.tar", tar("w", ("a", file, ""), ("a/b", file, "")))
    wrong["a long name"] = ("a.tar", tar("w", ("x" * 300, file, "")))
    whole = [(f"{number}.png", file, "") for number in range(40)]
    cases = [
        of_bytes("zip of links", "a.zip", zipped("a", link=True), "read"),
        of_bytes("tar", "a.tar", tar("w", *whole), "read"),
    ]
    cases += [of_bytes(label, name, data, "refused") for label, (name, data) in wrong.items()]
    for suffix in ("gz", "xz", "bz2"):
        cases += broken(f"a.tar.{suffix}", tar(f"w:{suffix}", *whole), 8, (0.1, 0.3, 0.5))
    cases += broken(
        "b.tar", tar("w", *whole), 8, cuts=()
    )  # cut between members, it is a shorter one
    cases += broken("b.zip", zipped(*(f"{n}.png" for n in range(40))), 20)
    for name in ("c.tar", "c.zip", "c.tar.xz"):
        for label, data in {"nothing": b"", "page": b"<html>404", "zeros": bytes(99)}.items():
            cases.append(of_bytes(f"{name} {label}", name, data, "refused"))
    return cases
