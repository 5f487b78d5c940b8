"""Damaged datasets and hostile files, given to the real scripts without a network."""

import os
import socket
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from datasets import mvtec, visa
from datasets.prepare import BenchmarkSpec, Options, prepare
from tests import corpus, corpus_weights, scripts
from tests.clips import write_config
from tests.layouts import make_mvtec, make_visa
from tests.limits import time_limit
from utils.errors import InputError
from utils.experiment.settings import Settings
from utils.results.scores import load_scores

IMAGE = "bottle/test/good/000.png"


def in_place_of(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return a function that puts something else where an image was."""

    def damage(root: Path) -> None:
        (root / IMAGE).unlink()
        make(root / IMAGE)

    return damage


def renamed(new: bytes, *olds: str) -> Callable[[Path], None]:
    """Return a function that changes the names of files or folders."""

    def damage(root: Path) -> None:
        for old in olds:
            path = os.fsencode(root / old)
            os.rename(path, os.path.dirname(path) + b"/" + new)  # noqa: PTH104, PTH120 (bytes)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
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
def test_a_damaged_folder_is_refused(folder, damage, message):
    root = make_mvtec(folder / "raw", ["bottle"], each=1)
    damage(root)
    check_refused(mvtec.MVTEC, root, message)


@pytest.mark.parametrize(
    ("row", "message"),
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
def test_a_damaged_split_of_visa_is_refused(folder, row, message):
    root = make_visa(folder / "raw", ["capsules"])
    for parent in (root, folder):
        corpus.RGB.save(parent / "x.png")
    with (root / "split_csv/1cls.csv").open("a") as table:
        table.write(row.format(root=root) + "\n")
    check_refused(visa.visa("1cls"), root, message)


def check_refused(dataset: BenchmarkSpec, root: Path, message: str) -> None:
    """Check that preparing names the one fault in one line and writes no split."""
    options = Options(root, splits_folder=root.parent / "splits", allow_incomplete=True)
    with time_limit(), pytest.raises(InputError) as caught:
        prepare(dataset, options)
    first, line = str(caught.value).splitlines()
    assert first == "the split cannot be written before you fix 1 problem:"
    assert message in line
    assert not options.splits_folder.exists()


@pytest.mark.parametrize("name", [b"\xff", b"a\nb"])
def test_a_data_root_whose_name_cannot_be_written_is_refused(folder, name):
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
    with pytest.raises(InputError, match=r"--data-root: .* rename it"):
        prepare(mvtec.MVTEC, Options(make_mvtec(odd), splits_folder=folder / "splits"))
    with pytest.raises(InputError, match=r"DATA_ROOT: .* use another value"):
        Settings("mvtec", data_root=str(odd))


def refuse(*arguments: object, **options: object) -> None:
    Path(os.environ["NETWORK_USED"]).write_text(repr(arguments))
    raise OSError("the network is blocked")


def block_network() -> None:
    """Refuse and record every connection of this process but those within the machine."""

    def only_local(connect: Callable) -> Callable:
        return lambda this, to: (connect if this.family == socket.AF_UNIX else refuse)(this, to)

    socket.getaddrinfo = refuse
    for name in ("connect", "connect_ex"):
        setattr(socket.socket, name, only_local(getattr(socket.socket, name)))


def fetch() -> None:
    block_network()
    urllib.request.urlopen("http://192.0.2.1")


def runner_options(folder: Path, *words: object) -> tuple[object, ...]:
    """Return options of run_winclip.py for the dataset and the split of `folder`."""
    config = write_config(folder, "small-corpus", 240, 16, layers=2, width=32)
    paths = ("--data-root", "raw", "--split", "splits/mvtec.csv", "--result-dir", "out")
    model = ("--model", config, "--pretrained", "random", "--shots", "0", "1", "--seeds", "0")
    return (*paths, *model, "--heatmaps", "1", *words)


PREPARE_OPTIONS = ("--data-root", "raw", "--splits-folder", "splits", "--allow-incomplete")


def test_the_scripts_score_every_kind_of_image_without_a_network(folder):
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
    offline = {
        "environment": {"NETWORK_USED": str(folder / "network-used")},
        "prepare": block_network,
    }
    prepared = scripts.start("datasets/mvtec.py", *PREPARE_OPTIONS, cwd=folder, **offline).finish()
    assert prepared.returncode == 0, prepared.stderr
    words = runner_options(folder, "--quiet")
    done = scripts.start("run_winclip.py", *words, cwd=folder, **offline).finish()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    scored = {Path(name).name for name in load_scores(folder / "out/scores/bottle.npz").image}
    assert scored >= set(kinds.values())
    assert not (folder / "network-used").exists()
    tried = scripts.start("run_winclip.py", cwd=folder, **offline | {"prepare": fetch}).finish()
    assert "the network is blocked" in tried.stderr
    assert (folder / "network-used").exists()


def check_one_error(done: subprocess.CompletedProcess, message: str) -> None:
    """Check that a script has ended on a user's mistake."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in done.stderr[done.stderr.index(line) :]


def test_the_scripts_refuse_foreign_files_and_run_no_code_of_theirs(folder):
    def run(script: str, *words: object) -> subprocess.CompletedProcess:
        return scripts.start(script, *words, cwd=folder).finish()

    root = make_mvtec(folder / "raw", ["bottle", "grid"], each=1)
    assert run("datasets/mvtec.py", *PREPARE_OPTIONS).returncode == 0
    bad = root / "grid/test/good/001.png"
    bad.write_bytes(corpus.foreign()["program.eps"])
    message = "grid/test/good/001.png cannot be read"
    check_one_error(run("datasets/mvtec.py", *PREPARE_OPTIONS), message)
    check_one_error(run("run_winclip.py", *runner_options(folder)), message)
    assert (folder / "out/done/bottle.json").exists()  # the sound category beside it
    hostile = {case.name: case for case in corpus_weights.weight_files()}["system zip.pt"]
    hostile.write(folder / hostile.name)
    words = runner_options(folder, "--pretrained", hostile.name)
    check_one_error(run("run_winclip.py", *words), hostile.name)
    assert not (folder / "canary").exists()
