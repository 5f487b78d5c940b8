"""Spoiled datasets and hostile files given to the real scripts, cut off from the network."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from datasets import mvtec, visa
from datasets.prepare import BenchmarkSpec, Options, prepare
from tests import corpus, corpus_weights
from tests.clips import write_config
from tests.conftest import PROJECT
from tests.layouts import make_mvtec, make_visa
from tests.limits import time_limit
from utils.errors import InputError
from utils.results.scores import load_scores
from utils.run.settings import Settings

IMAGE = "bottle/test/good/000.png"


def in_place_of(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Puts something else where an image was."""

    def spoil(root: Path) -> None:
        (root / IMAGE).unlink()
        make(root / IMAGE)

    return spoil


def renamed(new: bytes, *olds: str) -> Callable[[Path], None]:
    """Gives files or folders another last part of their names."""

    def spoil(root: Path) -> None:
        for old in olds:
            place = os.fsencode(root / old)
            os.rename(place, os.path.dirname(place) + b"/" + new)  # noqa: PTH104, PTH120 (bytes)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (in_place_of(os.mkfifo), "good/000.png"),
        (in_place_of(Path.mkdir), "good/000.png"),
        (in_place_of(lambda path: path.symlink_to(path)), "good/000.png"),
        (in_place_of(lambda path: path.symlink_to("/dev/zero")), "good/000.png"),
        (in_place_of(lambda path: path.symlink_to("nothing")), "good/000.png"),
        (renamed(b"a\\b.png", IMAGE), "a\\b.png"),
        (renamed(b"a\nb.png", IMAGE), r"a\nb.png"),
        (renamed(b"\xff.png", IMAGE), r"\udcff.png"),
        (renamed(b"\xff", "bottle/test/hole", "bottle/ground_truth/hole"), r"\udcff/000.png"),
        (renamed(b"a\nb", "bottle/test/hole", "bottle/ground_truth/hole"), r"a\nb/000.png"),
    ],
)
def test_a_spoiled_folder_is_not_prepared(folder, spoil, told):
    root = make_mvtec(folder / "raw", ["bottle"], each=1)
    spoil(root)
    refused_by_prepare(mvtec.MVTEC, root, told)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("capsules,test,normal,{root}/x.png,", "/x.png"),
        ("capsules,test,normal,../x.png,", "../x.png"),
        ("capsules,test,anomaly,x.png,{root}/x.png", "x.png: its row"),
        ("capsules,test,normal,./x.png,", "x.png: its row"),
        ("capsules,test,odd,x.png,", 'its label is "odd"'),
        ("capsules,val,normal,x.png,", 'the split "val"'),
        ("../capsules,test,normal,x.png,", "x.png: its row"),
        (",test,normal,x.png,", "x.png: its row"),
        ("capsules,test,normal,x.png,\ncapsules,test,normal,x.png,", "a duplicate image"),
    ],
)
def test_a_spoiled_split_of_visa_is_not_prepared(folder, row, told):
    root = make_visa(folder / "raw", ["capsules"])
    for place in (root, folder):
        corpus.RGB.save(place / "x.png")
    with (root / "split_csv/1cls.csv").open("a") as table:
        table.write(row.format(root=root) + "\n")
    refused_by_prepare(visa.visa("1cls"), root, told)


def refused_by_prepare(dataset: BenchmarkSpec, root: Path, told: str) -> None:
    """One line for the one fault, and no split."""
    options = Options(root, splits_folder=root.parent / "splits", allow_incomplete=True)
    with time_limit(), pytest.raises(InputError) as caught:
        prepare(dataset, options)
    first, line = str(caught.value).splitlines()
    assert first == "fix these files before the split can be written (1 in total):"
    assert told in line
    assert not options.splits_folder.exists()


@pytest.mark.parametrize("name", [b"\xff", b"a\nb"])
def test_a_data_root_whose_name_cannot_be_written_is_refused(folder, name):
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
    with pytest.raises(InputError, match=r"--data-root: .* rename it"):
        prepare(mvtec.MVTEC, Options(make_mvtec(odd), splits_folder=folder / "splits"))
    with pytest.raises(InputError, match=r"DATA_ROOT = .* rename it"):
        Settings("mvtec", data_root=str(odd))


NO_NETWORK = """
import os, socket

def refuse(*words, **options):
    open(os.environ["NETWORK_USED"], "a").write(repr(words))
    raise OSError("the network is blocked")

def local(call):
    return lambda one, place: (call if one.family == socket.AF_UNIX else refuse)(one, place)

socket.getaddrinfo = refuse
socket.socket.connect = local(socket.socket.connect)
socket.socket.connect_ex = local(socket.socket.connect_ex)
"""


def start(*words: object, folder: Path) -> subprocess.CompletedProcess:
    """Run a Python command in `folder`, cut off from the network; `network-used` tells of tries."""
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site/sitecustomize.py").write_text(NO_NETWORK)
    more = {"PYTHONPATH": str(folder / "site"), "NETWORK_USED": str(folder / "network-used")}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env=os.environ | more,
        capture_output=True,
        text=True,
        timeout=300,
    )


def runner(folder: Path, *words: object) -> subprocess.CompletedProcess:
    """The real script on the dataset and the split of `folder`."""
    config = write_config(folder, "small-corpus", 240, 16, layers=2, width=32)
    given = ("--data-root", "raw", "--split", "splits/mvtec.csv", "--result-dir", "out")
    model = ("--model", config, "--pretrained", "random", "--shots", "0", "1", "--seeds", "0")
    return start(PROJECT / "run_winclip.py", *given, *model, *words, folder=folder)


def preparation(folder: Path) -> subprocess.CompletedProcess:
    """The real script on the folder `raw`."""
    words = ("--data-root", "raw", "--splits-folder", "splits", "--allow-incomplete")
    return start(PROJECT / "datasets/mvtec.py", *words, folder=folder)


def test_the_scripts_score_every_kind_of_image_without_the_network(folder):
    good = make_mvtec(folder / "raw", ["bottle"], each=1) / "bottle/test/good"
    odd = {case.label: case for case in corpus.readable_images()}
    kinds = {
        **{"TIFF 16-bit": "deep.tif", "CMYK": "cmyk.jpg", "JPEG orientation 6": "turned.jpg"},
        **{"lossless.webp": "b.webp", "BMP P": "p.bmp", "WebP alpha": "a.webp", "1 x 1": "1.png"},
        **{"PNG LA": "图像 é.png", "really a.bmp.jpg": "really a.bmp.jpg"},
    }
    labels = {"TIFF 16-bit": "tif 16-bit"}
    for label, name in kinds.items():
        odd[labels.get(label, label)].write(good / name)
    for done in (preparation(folder), runner(folder)):
        assert done.returncode == 0, done.stderr
    scored = {Path(name).name for name in load_scores(folder / "out/scores/bottle.npz").image}
    assert scored >= set(kinds.values())
    assert not (folder / "network-used").exists()
    tried = start("-c", "import urllib.request as u; u.urlopen('http://192.0.2.1')", folder=folder)
    assert "the network is blocked" in tried.stderr
    assert (folder / "network-used").exists()


def one_sentence(done: subprocess.CompletedProcess, told: str) -> None:
    """A script has ended on a user's mistake."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert told in done.stderr[done.stderr.index(line) :]


def test_the_scripts_end_in_a_sentence_and_run_no_foreign_code(folder):
    root = make_mvtec(folder / "raw", ["bottle", "grid"], each=1)
    assert preparation(folder).returncode == 0
    bad = root / "grid/test/good/001.png"
    bad.write_bytes(corpus.foreign()["program.eps"])
    one_sentence(preparation(folder), "grid/test/good/001.png cannot be read")
    one_sentence(runner(folder), "grid/test/good/001.png cannot be read")
    assert (folder / "out/done/bottle.json").exists()  # the sound category beside it
    hostile = {case.name: case for case in corpus_weights.weight_files()}["system zip.pt"]
    hostile.write(folder / hostile.name)
    one_sentence(runner(folder, "--pretrained", hostile.name), hostile.name)
    assert not (folder / "canary").exists()
