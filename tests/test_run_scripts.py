"""The runners as scripts: from other folders, killed, stopped, and with a user's mistakes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import run_winclip
from tests import scripts
from tests.benches import contents
from tests.conftest import PROJECT
from tests.layouts import make_mvtec
from utils.errors import InputError
from utils.experiment.settings import Settings
from utils.results.folder import lock_folder
from utils.run.benchmark import main, run


def options_of(settings: Settings) -> list[str]:
    """Return the command line that gives these settings."""
    words = []
    for name in ("data_root", "split", "model", "pretrained", "result_dir", "num_workers"):
        words += [f"--{name.replace('_', '-')}", str(getattr(settings, name))]
    words += ["--shots", *map(str, settings.shots), "--seeds", *map(str, settings.seeds)]
    return [*words, "--batch-size", "2"]


def test_a_killed_run_resumes_to_the_same_files(mvtec_result, mvtec_settings, tmp_path):
    words = options_of(replace(mvtec_settings, result_dir=str(tmp_path / "r")))
    killed = scripts.start("run_winclip.py", *words, cwd=tmp_path)
    first = tmp_path / "r/done/bottle.json"
    deadline = time.monotonic() + 60
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.finish()
    assert first.exists()
    assert not (tmp_path / "r/done/metal_nut.json").exists()
    (tmp_path / "r/scores/metal_nut.npz").write_bytes(b"half a file of the killed category")
    resumed = scripts.start("run_winclip.py", *words, cwd=tmp_path).finish()
    assert resumed.returncode == 0, resumed.stderr
    assert "bottle: already finished, skipped" in resumed.stdout
    assert "seconds per stage" not in resumed.stdout
    files = contents(tmp_path / "r")
    undisturbed = contents(mvtec_result)
    assert {name: files[name] for name in undisturbed} == undisturbed


def test_a_quiet_script_in_another_folder_prints_nothing_and_logs_all(visa_settings, tmp_path):
    words = options_of(replace(visa_settings, shots=(0, 1), result_dir="out"))
    words += ["--heatmaps", "none", "--quiet"]
    done = scripts.start("run_visa.py", *words, cwd=tmp_path).finish()
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert "capsules" in (tmp_path / "out/summary.md").read_text()
    log = (tmp_path / "out/run.log").read_text()
    assert "seconds per stage" in log and "| image_auroc |" in log


def test_the_mpdd_script_reads_the_mvtec_layout(mvtec_settings, tmp_path):
    root = make_mvtec(tmp_path / "raw", ["connector"])
    words = ["--data-root", root, "--allow-incomplete", "--splits-folder", tmp_path]
    assert scripts.start("datasets/mpdd.py", *words).finish().returncode == 0
    split = str(tmp_path / "mpdd.csv")
    settings = replace(mvtec_settings, dataset="mpdd", data_root=str(root), split=split)
    words = options_of(replace(settings, shots=(1,), result_dir=str(tmp_path / "out")))
    done = scripts.start("run_mpdd.py", *words, "--heatmaps", "none").finish()
    assert done.returncode == 0, done.stderr
    assert "connector" in (tmp_path / "out/metrics.csv").read_text()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--split", "gone/mvtec.csv"], 1, "there is no split gone/mvtec.csv"),
        (["--data-root", "gone"], 1, "--data-root: there is no folder gone"),
        (
            ["--categories", "bottel"],
            1,
            'mvtec.csv (did you mean "bottle"?); its categories are',
        ),
        (
            ["--categories", "cable"],
            1,
            "mvtec.csv: it is an official category that the prepared data lack; its categories are",
        ),
        (["--pretrained", "gone.pt"], 1, "--pretrained gone.pt is not a file"),
        (["--shots", "9"], 1, "--shots asks for 9 reference images, but bottle has 4"),
        (["--device", "cuda:7"], 1, "--device cuda:7: "),
        (["--precision", "fp16", "--device", "cpu"], 1, "--precision fp16 needs"),
        (["--references", "gone.csv"], 1, "--references: there is no file gone.csv"),
        (
            ["--extra-normal-states", "x"],
            1,
            '--extra-normal-states "x": expected "category: state"',
        ),
        (["--extra-normal-states", "botle: shiny {}"], 1, 'no category "botle"'),
        (["--categories", "bottle,x"], 1, "; separate names by spaces; its categories"),
        (["--result-dir", "{file}"], 1, "file is a file, not a folder; choose another"),
        (["--result-dir", "{file}/r"], 1, "--result-dir: cannot write to"),
        (["--bogus"], 2, "Unrecognized options: --bogus"),
        (["--batch-size", "many"], 2, "--batch-size"),
    ],
)
def test_a_users_mistake_is_one_sentence(
    mvtec_settings, tmp_path, monkeypatch, capsys, words, status, message
):
    (tmp_path / "file").write_text("")
    words = [word.replace("{file}", str(tmp_path / "file")) for word in words]
    settings = replace(mvtec_settings, result_dir=str(tmp_path / "out"))
    monkeypatch.setattr(sys, "argv", ["run_winclip.py", *options_of(settings), *words])
    with pytest.raises(SystemExit) as end:
        main(vars(run_winclip), "mvtec")
    assert end.value.code == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "out" / "metrics.csv").exists()


def test_a_mistake_ends_the_script_with_status_1_and_no_traceback(mvtec_settings, tmp_path):
    words = [*options_of(mvtec_settings), "--split", "gone/visa.csv"]
    done = scripts.start("run_winclip.py", *words, cwd=tmp_path).finish()
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: there is no split gone/visa.csv; run python datasets/visa.py")


@pytest.fixture
def finished_bottle(mvtec_result, mvtec_settings, tmp_path) -> Settings:
    """Return settings whose result folder holds the finished category "bottle" alone."""
    folder = shutil.copytree(mvtec_result, tmp_path / "r")
    (folder / "done/metal_nut.json").unlink()
    return replace(mvtec_settings, result_dir=str(folder))


@pytest.mark.parametrize(
    ("victim", "message", "workers"),
    [
        ("metal_nut/test/good/001.png", "cannot be read as an image", 0),
        ("metal_nut/test/good/001.png", "cannot be read as an image", 2),
        ("metal_nut/ground_truth/crack/001_mask.png", "96 x 97 pixels, its image 96 x 96", 0),
        ("metal_nut/test/hole/000.png", "is in the split but does not exist", 0),
    ],
)
def test_a_bad_file_ends_the_run_and_finished_categories_stay(
    mvtec_settings, tmp_path, monkeypatch, victim, message, workers
):
    root = make_mvtec(tmp_path / "raw")
    changes = {"shots": (0,), "heatmaps": "none", "num_workers": workers}
    changes |= {"data_root": str(root), "result_dir": str(tmp_path / "r")}
    settings = replace(mvtec_settings, **changes)
    whole = (root / victim).read_bytes()
    if "mask" in victim:
        Image.fromarray(np.ones((97, 96), np.uint8)).save(root / victim)
    elif "hole" in victim:
        (root / victim).unlink()
    else:
        (root / victim).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError) as caught:
        run(settings)
    assert message in str(caught.value)
    assert victim in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "r/done/bottle.json").exists()
    assert "bottle" in (tmp_path / "r/summary.md").read_text()
    (root / victim).write_bytes(whole)
    run(settings)
    assert "metal_nut" in (tmp_path / "r/summary.md").read_text()


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_damaged_record_of_a_finished_category_is_refused(finished_bottle, text):
    (finished_bottle.result_folder / "done/bottle.json").write_text(text)
    with pytest.raises(InputError, match=r"bottle\.json is damaged, or was not written"):
        run(finished_bottle)


def test_finished_categories_without_their_settings_are_not_added_to(finished_bottle):
    (finished_bottle.result_folder / "settings.json").unlink()
    with pytest.raises(InputError, match=r"finished categories but no settings\.json"):
        run(replace(finished_bottle, protocol="public", categories=("metal_nut",)))


def test_a_folder_in_use_by_another_run_is_refused(finished_bottle):
    with (
        lock_folder(finished_bottle.result_folder),
        pytest.raises(InputError, match="in use by another run"),
    ):
        run(finished_bottle)
    run(replace(finished_bottle, categories=("bottle",)))  # free again


def test_sigterm_ends_with_one_line_and_its_own_status():
    code = "import time; from utils.cli import run_cli as e; print('on', flush=True)"
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
    _, stderr = started.communicate(timeout=20)
    assert started.returncode == 128 + signal.SIGTERM
    assert stderr == "interrupted; any finished work is kept\n"
