"""The runners as scripts: from other folders, killed, stopped, and given what is wrong."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import run_winclip
from tests.benches import contents, small_mvtec, small_visa
from tests.conftest import PROJECT
from tests.layouts import make_mvtec
from utils.errors import InputError
from utils.results.folder import lock_folder
from utils.run.benchmark import main, run
from utils.run.settings import Settings


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Settings:
    """Settings of a small MVTec AD."""
    return small_mvtec(tmp_path_factory.mktemp("bench") / "mit Leerzeichen")


@pytest.fixture(scope="module")
def wide(tmp_path_factory, bench) -> Settings:
    """Settings of a small VisA."""
    return small_visa(tmp_path_factory.mktemp("visa"), bench)


def options_of(settings: Settings) -> list[str]:
    """The command line that gives these settings."""
    words = []
    for name in ("data_root", "split", "model", "pretrained", "result_dir", "num_workers"):
        words += [f"--{name.replace('_', '-')}", str(getattr(settings, name))]
    words += ["--shots", *map(str, settings.shots), "--seeds", *map(str, settings.seeds)]
    return [*words, "--batch-size", "2"]


def start(settings: Settings, *more: str, cwd: Path) -> subprocess.Popen:
    script = {"mvtec": "run_winclip.py"}.get(settings.dataset, f"run_{settings.dataset}.py")
    command = [sys.executable, str(PROJECT / script), *options_of(settings), *more]
    return subprocess.Popen(
        *(command,), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_run_killed_in_a_category_goes_on_to_the_same_files(bench, tmp_path):
    run(bench)
    settings = replace(bench, result_dir=str(tmp_path / "r"))
    process = start(settings, cwd=tmp_path)
    first = tmp_path / "r/done/bottle.json"
    deadline = time.monotonic() + 60
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert first.exists()
    assert not (tmp_path / "r/done/metal_nut.json").exists()
    (tmp_path / "r/scores/metal_nut.npz").write_bytes(b"half a file of the killed category")
    again = start(settings, cwd=tmp_path)
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert "bottle: done before, skipped" in out
    left = contents(tmp_path / "r")
    undisturbed = contents(bench.result_folder)
    assert {name: left[name] for name in undisturbed} == undisturbed


def test_the_visa_script_runs_from_another_folder(wide, tmp_path):
    process = start(replace(wide, result_dir="out"), "--heatmaps", "none", cwd=tmp_path)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "capsules" in (tmp_path / "out/summary.md").read_text()
    assert "seconds per stage" in out


def test_a_quiet_script_says_nothing_and_logs_everything(bench, tmp_path):
    settings = replace(bench, result_dir=str(tmp_path / "r"), heatmaps="none")
    process = start(settings, "--quiet", cwd=tmp_path)
    assert (*process.communicate(), process.returncode) == ("", "", 0)
    told = (tmp_path / "r/run.log").read_text()
    assert "seconds per stage" in told and "| image_auroc |" in told


def test_the_mpdd_script_reads_the_same_layout(bench, tmp_path):
    root = make_mvtec(tmp_path / "raw", ["connector"])
    words = [str(PROJECT / "datasets/mpdd.py"), "--data-root", str(root), "--allow-incomplete"]
    subprocess.run([sys.executable, *words, "--splits-folder", str(tmp_path)], check=True)
    settings = replace(
        bench,
        dataset="mpdd",
        data_root=str(root),
        split=str(tmp_path / "mpdd.csv"),
        result_dir=str(tmp_path / "out"),
    )
    process = start(settings, cwd=tmp_path)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert "connector" in (tmp_path / "out/metrics.csv").read_text()


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["--split", "gone/mvtec.csv"], 1, "there is no split gone/mvtec.csv"),
        (["--data-root", "gone"], 1, "DATA_ROOT: there is no folder gone"),
        (
            ["--categories", "bottel"],
            1,
            'no category "bottel" in the split (did you mean "bottle"?); it has bottle, metal_nut',
        ),
        (["--pretrained", "gone.pt"], 1, 'PRETRAINED = "gone.pt" is no file'),
        (["--shots", "9"], 1, "SHOTS asks for 9 reference images, but bottle has 4"),
        (["--device", "cuda:7"], 1, 'DEVICE = "cuda:7"'),
        (["--precision", "fp16", "--device", "cpu"], 1, 'PRECISION = "fp16"'),
        (["--references", "gone.csv"], 1, "REFERENCES: gone.csv cannot be read"),
        (["--extra-normal-states", "x"], 1, "EXTRA_..._STATES"),
        (["--extra-normal-states", "botle: shiny {}"], 1, 'no category "botle"'),
        (["--result-dir", "{file}"], 1, "RESULT_DIR: cannot write into"),
        (["--bogus"], 2, "Unrecognized options: --bogus"),
        (["--batch-size", "many"], 2, "--batch-size"),
    ],
)
def test_a_users_mistake_is_one_sentence(bench, tmp_path, monkeypatch, capsys, words, status, told):
    (tmp_path / "file").write_text("")
    words = [str(tmp_path / "file") if word == "{file}" else word for word in words]
    settings = replace(bench, result_dir=str(tmp_path / "out"))
    monkeypatch.setattr(sys, "argv", ["run_winclip.py", *options_of(settings), *words])
    with pytest.raises(SystemExit) as end:
        main(vars(run_winclip), "mvtec")
    assert end.value.code == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert told in line
    assert not (tmp_path / "out" / "metrics.csv").exists()


def test_a_mistake_ends_the_script_with_status_1_and_no_traceback(bench, tmp_path):
    process = start(bench, "--split", "gone/visa.csv", cwd=tmp_path)
    out, err = process.communicate()
    assert (process.returncode, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("error: there is no split gone/visa.csv; run python datasets/visa.py")


def spoiled(bench: Settings, folder: Path) -> tuple[Settings, Path]:
    """A copy of the small benchmark that may be damaged."""
    root = make_mvtec(folder / "raw")
    return replace(bench, data_root=str(root), result_dir=str(folder / "r")), root


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("victim", "told"),
    [
        ("metal_nut/test/good/001.png", "cannot be read as an image"),
        ("metal_nut/ground_truth/crack/001_mask.png", "96 x 97 pixels, its image 96 x 96"),
        ("metal_nut/test/hole/000.png", "is in the split but does not exist"),
    ],
)
def test_a_bad_file_ends_the_run_in_one_sentence_and_keeps_what_is_done(
    bench, tmp_path, victim, told, workers
):
    settings, root = spoiled(bench, tmp_path)
    whole = (root / victim).read_bytes()
    if "mask" in victim:
        Image.fromarray(np.ones((97, 96), np.uint8)).save(root / victim)
    elif "hole" in victim:
        (root / victim).unlink()
    else:
        (root / victim).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError) as caught:
        run(replace(settings, num_workers=workers))
    assert told in str(caught.value)
    assert victim in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "r/done/bottle.json").exists()
    assert "bottle" in (tmp_path / "r/summary.md").read_text()
    (root / victim).write_bytes(whole)
    run(replace(settings, num_workers=workers))
    assert "metal_nut" in (tmp_path / "r/summary.md").read_text()


def test_a_damaged_record_of_a_finished_category_is_one_sentence(bench, tmp_path):
    settings = replace(bench, result_dir=str(tmp_path), heatmaps="none")
    run(settings)
    for text, told in (("{", "cannot be read .* delete it"), ("{}", "is not what a run writes")):
        (tmp_path / "done/bottle.json").write_text(text)
        with pytest.raises(InputError, match=rf"bottle\.json {told}"):
            run(settings)


def test_finished_categories_without_their_settings_are_not_mixed_in(bench, tmp_path):
    settings = replace(bench, result_dir=str(tmp_path), heatmaps="none", categories=("bottle",))
    run(settings)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(InputError, match=r"finished categories but no settings\.json"):
        run(replace(settings, protocol="public", categories=("metal_nut",)))


def test_a_folder_in_use_by_another_run_ends_in_a_sentence(bench, tmp_path):
    with lock_folder(tmp_path), pytest.raises(InputError, match="in use by another run"):
        run(replace(bench, result_dir=str(tmp_path)))
    run(replace(bench, result_dir=str(tmp_path), shots=(0,)))  # free again


def test_sigterm_ends_with_one_line_and_its_own_status(tmp_path):
    code = "import time; from utils.errors import run_cli as e; print('on', flush=True)"
    code += "; e(lambda: [print('in', flush=True), time.sleep(60)])"
    started = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert [started.stdout.readline(), started.stdout.readline()] == ["on\n", "in\n"]
    started.terminate()
    _, told = started.communicate(timeout=20)
    assert started.returncode == 128 + signal.SIGTERM
    assert told == "interrupted; what was finished is kept\n"
