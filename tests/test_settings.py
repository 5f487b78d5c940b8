"""Settings: the constants of a runner, what the command line overrides, what is refused."""

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import run_custom
import run_demo
import run_winclip
from datasets.splits import RESERVED_SUFFIXES
from utils.cli import offers
from utils.errors import InputError
from utils.experiment.custom import CustomSettings
from utils.experiment.settings import DemoSettings, Settings, parse_settings
from utils.files import PROJECT


@pytest.fixture
def arguments(monkeypatch):
    def give(*words: str) -> Settings:
        monkeypatch.setattr(sys, "argv", ["run_winclip.py", *words])
        return parse_settings(vars(run_winclip), "mvtec")

    return give


def test_a_runners_constants_become_settings(arguments):
    settings = arguments()
    assert settings.dataset == "mvtec"
    assert settings.shots == run_winclip.SHOTS == (0, 1, 2, 4)
    assert settings.seeds == run_winclip.SEEDS
    assert settings.result_folder == PROJECT / "result" / "mvtec"


def test_random_weights_have_their_own_result_folder():
    assert Settings("visa", pretrained="random").result_folder.name == "visa-random"


def test_every_constant_can_be_overridden(arguments):
    settings = arguments(
        *("--split", "s.csv", "--data-root", "raw"),
        *("--shots", "0", "1", "--categories", "bottle", "grid", "--eval-size", "400", "source"),
        *("--heatmaps", "3", "--protocol", "public", "--temperature", "0.01", "--limit", "2"),
        *("--extra-anomalous-states", "grid: {} with bent wire", "--patch-tokens", "penultimate"),
    )
    assert settings.shots == (0, 1)
    assert settings.categories == ("bottle", "grid")
    assert (settings.eval_size, settings.heatmaps, settings.limit) == ((400, "source"), 3, 2)
    assert settings.resolve().temperature == 0.01
    assert settings.resolve().patch_tokens == "penultimate"
    assert settings.resolve().templates == "public"
    assert settings.extra_states("grid") == ([], ["{} with bent wire"])
    assert settings.extra_states("bottle") == ([], [])


def test_help_explains_every_setting(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        arguments("--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    for name in (name for name in vars(run_winclip) if name.isupper()):
        assert f"--{name.lower().replace('_', '-')}" in text
    assert "WinCLIP+ on MVTec AD" in text
    assert "None" not in text and "(default: )" not in text
    words = " ".join(text.replace("│", " ").split())
    assert "Temperature of the softmax over states. (default: the protocol's)" in words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bogus", "3"], "Unrecognized options: --bogus"),
        (["--shotz", "3"], "(did you mean --shots?)"),
        (["--batch-size", "x"], "--batch-size x: expected a whole number;"),
        (
            ["--shotz=3", "--bogus"],
            "Unrecognized options: --shotz (did you mean --shots?), --bogus;",
        ),
        (["--image", "/path"], "Unrecognized options: --image;"),
        (["--dataset", "visa"], "Unrecognized options: --dataset;"),
        (["--kept-crops", "five"], "Unrecognized options: --kept-crops;"),
        (["--no-shots"], "Unrecognized options: --no-shots (did you mean --shots?);"),
        (["--shots", "2", "--device", "cpu", "2"], "--device cpu 2: expected one value; put text"),
        (["--split=my", "split.csv"], "--split=my split.csv: expected one value; put text with"),
        (["--device", "cpu", "x" * 99], f"--device cpu {'x' * 99}: expected one value; put text"),
        (["5", "--shots", "5"], '"5" belongs to no option;'),
        (["x" * 99], f'"{"x" * 99}" belongs to no option;'),
        (["--maps", "True"], "--maps True: expected --maps or --no-maps, without a value;"),
        (["--batch-size", "1", "2"], "--batch-size 1 2: expected a whole number;"),
        (["--limit=x"], "--limit=x: expected a whole number;"),
        (["--temperature", "hot"], "--temperature hot: expected a number;"),
        (["--no-maps=3"], "--no-maps=3: expected --maps or --no-maps, without a value;"),
        (["--class-words", "maybe"], "--class-words maybe: expected True or False;"),
        (["--protocol", "mine"], '--protocol mine: expected "paper" or "public";'),
        (["--heatmaps", "x"], '--heatmaps x: expected a whole number or "all" or "none";'),
        (["--shots", "zero"], "--shots zero: expected a whole number, or several separated by"),
        (
            ["--eval-size", "big"],
            '--eval-size big: expected a whole number or "source", or several',
        ),
        (["--precision", "x"], 'expected one of "fp32", "tf32", "bf16", "fp16", "int8";'),
        (["--features"], "--features: expected one of auto, keep, off, FOLDER;"),
        (["--data-root"], "--data-root: expected auto or FOLDER;"),
    ],
)
def test_a_wrong_option_is_one_sentence_and_status_2(arguments, words, message):
    with pytest.raises(InputError) as caught:
        arguments(*words)
    assert caught.value.status == 2
    (line,) = str(caught.value).splitlines()
    assert message in line
    assert "--help lists all options" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--class-name metal nut", "--class-name metal nut: expected one value; put text with"),
        ("--references a b", "--references a b: expected one value; put text with spaces in"),
        ("--class-name", "--class-name: expected text;"),
        ("--shots 1", "Unrecognized options: --shots;"),
        (
            "--image /path --shots=1 2",
            "Unrecognized options: --image (did you mean --images?), --s",
        ),
    ],
)
def test_custom_images_have_no_options_of_a_benchmark(monkeypatch, words, message):
    monkeypatch.setattr(sys, "argv", ["run_custom.py", *words.split()])
    with pytest.raises(InputError) as caught:
        parse_settings(vars(run_custom), "custom", CustomSettings)
    assert str(caught.value).startswith(message)
    assert offers("images") and not offers("shots")


@pytest.mark.parametrize(
    "given",
    [
        {"shots": ()},
        {"shots": (0, 0)},
        {"shots": (-1,)},
        {"seeds": ()},
        {"batch_size": 0},
        {"num_workers": -1},
        {"limit": 0},
        {"eval_size": 0},
        {"eval_size": ()},
        {"eval_size": 99999},
        {"eval_size": (240, "source", 240)},
        {"heatmaps": -1},
        {"tile": -1},
        {"temperature": 0.0},
        {"temperature": float("nan")},
    ],
)
def test_values_out_of_range_are_refused(given):
    (name,) = given
    with pytest.raises(InputError, match=name.upper()):
        Settings("mvtec", **given)


def test_extra_states_need_a_category_and_a_placeholder():
    settings = Settings("mvtec", extra_normal_states=("bottle shiny {}",))
    with pytest.raises(InputError, match='"category: state" with one'):
        settings.extra_states("bottle")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--shots 0 -1", "--shots 0 -1: expected distinct whole numbers >= 0"),
        ("--eval-size=0", "--eval-size=0: expected distinct whole numbers from 1 to"),
        ("--no-maps --coco", "--coco has no effect with --no-maps; remove it"),
        ("--no-maps --heatmaps 3", "--heatmaps 3 has no effect with --no-maps; remove it"),
        (
            "--shots 0 --seeds 0 --references s.csv",
            "--references s.csv has no effect with --shots 0; remove it",
        ),
        ("--heatmaps 0 --heatmap-size 99", "--heatmap-size 99 has no effect with --heatmaps 0;"),
        ("--features-precision fp32", "--features-precision fp32 has no effect without --features"),
        ("--tile 300 --protocol public", "--tile 300: squashed images have no tiles; add --resize"),
        (
            "--method inctrl --checkpoint random --shots 2 --coco --temperature 1 --scales 2",
            "--temperature 1, --scales 2 and --coco have no effect with --method inctrl; remove",
        ),
    ],
)
def test_messages_name_options_as_they_were_given(arguments, words, message):
    with pytest.raises(InputError) as caught:
        replace(arguments(*words.split()), split="s.csv", data_root="raw").resolve()
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "words",
    [
        *("--tile 300 --batch-size 2", "--features-precision fp16", "--shots 0 --references draw"),
        *("--heatmaps 0 --heatmap-size 256", "--no-maps"),
    ],
)
def test_defaults_and_constants_that_serve_other_runs_are_accepted(monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["r.py", *words.split()])
    constants = {"__file__": "r.py", "__doc__": "", "HEATMAPS": 1, "SPLIT": "s", "DATA_ROOT": "d"}
    parse_settings(constants, "mvtec").resolve()


def test_the_demo_runs_without_maps_but_refuses_a_number_of_heatmaps(monkeypatch):
    def give(words: str, **constants) -> Settings:
        monkeypatch.setattr(sys, "argv", ["run_demo.py", *words.split()])
        values = vars(run_demo) | {"DATA_ROOT": "d"} | constants
        return parse_settings(values, "demo", DemoSettings).resolve()

    assert give("").heatmaps == run_demo.HEATMAPS
    assert give("", MAPS=False).heatmaps == "none"
    with pytest.raises(InputError, match="HEATMAPS = 3 has no effect with MAPS = False"):
        give("", MAPS=False, HEATMAPS=3)
    with pytest.raises(InputError, match="--heatmaps 3 has no effect with --no-maps"):
        give("--no-maps --heatmaps 3")


def test_settings_made_in_code_are_not_judged_by_the_command_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tool.py", "--heatmap-size", "99", "--shots", "-1"])
    assert resolved(heatmaps="none", heatmap_size=99).heatmap_size == 99
    with pytest.raises(InputError, match=r"^SHOTS = "):
        resolved(shots=(-1,))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shots", 4),
        ("shots", (0, "1")),
        ("categories", "bottle"),
        ("protocol", "Paper"),
        ("precision", None),
        ("eval_size", "big"),
        ("eval_size", 240.0),
        ("batch_size", True),
        ("temperature", "0.07"),
        ("data_root", None),
        ("limit", "5"),
    ],
)
def test_a_constant_of_the_wrong_type_is_refused(name, value):
    constants = {"__file__": "r.py", "__doc__": "", name.upper(): value}
    with pytest.raises(InputError, match=f"^{name.upper()} = .*: expected"):
        parse_settings(constants, "mvtec")


def test_a_list_is_taken_as_a_tuple(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["r.py"])
    constants = {"__file__": "r.py", "__doc__": "", "SHOTS": [0, 2], "DATA_ROOT": "d"}
    assert parse_settings(constants, "mvtec").shots == (0, 2)


@pytest.mark.parametrize("size", [240, "source"])
def test_a_single_evaluation_size_needs_no_tuple(monkeypatch, size):
    monkeypatch.setattr(sys, "argv", ["r.py"])
    constants = {"__file__": "r.py", "__doc__": "", "EVAL_SIZE": size, "DATA_ROOT": "d"}
    assert parse_settings(constants, "mvtec").eval_size == (size,)


def test_a_misspelled_constant_is_named():
    with pytest.raises(
        InputError, match=r"unknown setting BATCHSIZE \(did you mean BATCH_SIZE\?\)"
    ):
        parse_settings({"__file__": "r.py", "__doc__": "", "BATCHSIZE": 3}, "mvtec")


def resolved(**changes) -> Settings:
    return Settings("mvtec", split="s.csv", data_root="raw", result_dir="r", **changes).resolve()


def test_the_presets_differ_as_documented():
    paper, public = resolved(), resolved(protocol="public")
    assert (paper.templates, public.templates) == ("paper", "public")
    assert (paper.class_words, public.class_words) == (True, False)
    assert (paper.normalise_prompts, public.normalise_prompts) == (True, False)
    assert (paper.patch_tokens, public.patch_tokens) == ("post_ln", "pre_ln")
    assert (paper.resize, public.resize) == ("tile", "squash")
    assert paper.temperature == public.temperature == 0.07
    assert paper.multi_crop == public.multi_crop == "none"
    assert paper.multi_crop_average == public.multi_crop_average == "embeddings"


def test_paths_are_expanded_once(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = Settings("mvtec", **dict.fromkeys(("split", "data_root", "result_dir"), "~/x"))
    settings = settings.resolve()
    assert settings == settings.resolve()
    assert {settings.split, settings.data_root, settings.result_dir} == {str(tmp_path / "x")}


def test_an_override_equal_to_the_preset_changes_no_fingerprint():
    same = resolved(temperature=0.07, batch_size=3, device="cpu", num_workers=0)
    assert same.fingerprint() == resolved().fingerprint()
    assert resolved(precision="bf16").fingerprint() != same.fingerprint()
    assert resolved(protocol="public").fingerprint() != same.fingerprint()


def test_the_fingerprint_is_that_of_folders_from_before_there_were_several_sizes():
    fingerprint = resolved().fingerprint()
    assert fingerprint["eval_size"] == 240
    assert "extra_metrics" not in fingerprint
    assert resolved(eval_size=(240, 400)).fingerprint()["eval_size"] == (240, 400)
    assert resolved(extra_metrics=True).fingerprint()["extra_metrics"] is True


def test_the_fingerprint_of_winclip_with_maps_is_that_of_earlier_versions():
    assert not {"method", "maps", "checkpoint"} & resolved().fingerprint().keys()
    assert resolved(maps=False).fingerprint()["maps"] is False


@pytest.mark.parametrize(
    ("method", "shots", "model", "pretrained", "resize", "maps"),
    [
        ("winclip", (0,), "ViT-B-16-plus-240", "laion400m_e31", "tile", True),
        ("anomalyclip", (0,), "ViT-L-14-336", "openai", "squash", True),
        ("inctrl", (2,), "ViT-B-16-plus-240", "checkpoint", "centre_crop", False),
    ],
)
def test_a_method_has_its_own_backbone_and_resizing(method, shots, model, pretrained, resize, maps):
    checkpoint = {} if method == "winclip" else {"checkpoint": "file.pth"}
    settings = resolved(method=method, shots=shots, **checkpoint)
    assert (settings.model, settings.pretrained) == (model, pretrained)
    assert (settings.resize, settings.maps) == (resize, maps)
    assert settings == settings.resolve()
    folder = replace(settings, result_dir="auto").result_folder.name
    assert folder == {"winclip": "mvtec"}.get(method, f"mvtec-{method}")
    if checkpoint:
        random = replace(settings, result_dir="auto", checkpoint="random")
        assert random.result_folder.name == f"mvtec-{method}-random"
        assert folder.endswith(RESERVED_SUFFIXES)


def test_a_run_without_maps_has_its_own_folder_and_reads_the_features_of_one_with_maps():
    settings = replace(resolved(maps=False), result_dir="auto")
    assert settings.result_folder.name == "mvtec-no-maps"
    assert replace(settings, pretrained="random").result_folder.name == "mvtec-no-maps-random"
    (folder,) = settings.default_features()
    assert folder.parent.name == "mvtec"


def test_inctrl_with_a_random_checkpoint_has_a_random_backbone():
    settings = resolved(**INCTRL)
    assert settings.pretrained == "random" and settings == settings.resolve()


ANOMALYCLIP = {"method": "anomalyclip", "checkpoint": "random", "shots": (0,)}
INCTRL = {"method": "inctrl", "checkpoint": "random", "shots": (2,)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps": False, "heatmaps": 5}, "HEATMAPS = 5 has no effect with MAPS = False; remove"),
        ({"maps": False, "scales": (2,)}, "SCALES = .* no effect with MAPS = False"),
        ({"maps": False, "eval_size": (400,)}, "EVAL_SIZE = .* no effect with MAPS = False"),
        ({"maps": False, "extra_metrics": True}, "EXTRA_METRICS = .* no effect"),
        ({"maps": False, "heatmap_size": 99}, "HEATMAP_SIZE = .* no effect"),
        ({"maps": False, "coco": True}, "COCO = .* no effect with MAPS = False"),
        ({"maps": False, "features": "keep"}, "it has no features to keep"),
        ({"resize": "centre_crop"}, "maps must cover the whole image; add --no-maps"),
        ({"maps": False, "resize": "centre_crop", "tile": 300}, "cropped images have no tiles"),
        ({"pretrained": "checkpoint"}, "is for InCTRL alone"),
        ({"checkpoint": "x.pth"}, "CHECKPOINT = .* no effect without --method anomalyclip or"),
        ({"method": "inctrl", "shots": (2,)}, '"inctrl" needs a checkpoint: add --checkpoint'),
        ({"multi_crop_average": "scores"}, "no effect without crops; add --multi-crop"),
        (ANOMALYCLIP | {"shots": (0, 1)}, "AnomalyCLIP is zero-shot only; give --shots 0"),
        (ANOMALYCLIP | {"maps": False}, 'MAPS = False has no effect with METHOD = "anomalyclip"'),
        (ANOMALYCLIP | {"references": "s.csv"}, "REFERENCES = .* no effect"),
        (ANOMALYCLIP | {"temperature": 0.01}, "TEMPERATURE = .* no effect"),
        (INCTRL | {"shots": (0, 2)}, "InCTRL needs reference images; .* such as --shots 2$"),
        (INCTRL | {"protocol": "public"}, 'PROTOCOL = .* no effect with METHOD = "inctrl"'),
        (INCTRL | {"pretrained": "openai"}, 'PRETRAINED = .* no effect with METHOD = "inctrl"'),
        (INCTRL | {"features": "keep"}, "FEATURES = .* no effect"),
        (INCTRL | {"coco": True}, 'COCO = True has no effect with METHOD = "inctrl"; remove it$'),
        (
            {"maps": False, "coco": True, "extra_metrics": True, "checkpoint": "x.pth"},
            "^CHECKPOINT = .* has no effect without .*; COCO = True and EXTRA_METRICS = True have "
            "no effect with MAPS = False; remove them$",
        ),
    ],
)
def test_options_without_effect_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        resolved(**changes)


def test_importing_a_runner_runs_nothing():
    names = runpy.run_path(str(Path(run_winclip.__file__)))
    assert names["PROTOCOL"] == "paper"
