import json
from dataclasses import replace

import pytest

from datasets.splits import Sample, check_name, read_root, read_split, write_root, write_split
from tests.conftest import PROJECT
from utils.errors import InputError

TRAIN = Sample("b", "train", 0, "good", "b/train/good/0.png", "")
GOOD = Sample("b", "test", 0, "good", "b/test/good/0.png", "")
BAD = Sample("b", "test", 1, "cut", "b/test/cut/0.png", "b/ground_truth/cut/0_mask.png")
HEADER = "class_name,split,label,defect,image,mask"


def test_a_split_is_written_sorted_and_read_back(tmp_path):
    csv_file, meta_file = write_split([TRAIN, BAD, GOOD], tmp_path, "tiny")
    assert read_split(csv_file) == [GOOD, BAD, TRAIN]
    assert csv_file.read_text().splitlines()[:2] == [HEADER, "b,test,0,good,b/test/good/0.png,"]
    before = csv_file.read_bytes(), meta_file.read_bytes()
    write_split([GOOD, TRAIN, BAD], tmp_path, "tiny")
    assert (csv_file.read_bytes(), meta_file.read_bytes()) == before
    assert b"\r" not in before[0] + before[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.csv", "tiny_meta.json"]


def test_meta_json_is_what_the_fields_repositories_read(tmp_path):
    _, meta_file = write_split([TRAIN, BAD, GOOD], tmp_path, "tiny")
    assert json.loads(meta_file.read_text()) == {
        "train": {
            "b": [
                {
                    "img_path": "b/train/good/0.png",
                    "mask_path": "",
                    "cls_name": "b",
                    "specie_name": "good",
                    "anomaly": 0,
                }
            ]
        },
        "test": {
            "b": [
                {
                    "img_path": "b/test/good/0.png",
                    "mask_path": "",
                    "cls_name": "b",
                    "specie_name": "good",
                    "anomaly": 0,
                },
                {
                    "img_path": "b/test/cut/0.png",
                    "mask_path": "b/ground_truth/cut/0_mask.png",
                    "cls_name": "b",
                    "specie_name": "cut",
                    "anomaly": 1,
                },
            ]
        },
    }


def test_names_with_commas_quotes_spaces_and_other_alphabets_survive(tmp_path):
    odd = Sample("b", "test", 0, "good", 'b/test/good/a, "b" 图像.png', "")
    csv_file, meta_file = write_split([odd], tmp_path, "odd")
    assert read_split(csv_file) == [odd]
    assert odd.image in json.loads(meta_file.read_text(encoding="utf-8"))["test"]["b"][0].values()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has no rows"),
        (["b,test,0,good,b/0.png"], "too many or too few fields in line 2"),
        (["b,test,0,good,b/0.png,,x"], "too many or too few fields in line 2"),
        (["b,val,0,good,b/0.png,"], 'the split "val"'),
        (["b,test,2,good,b/0.png,"], 'the label "2"'),
        (["b,test,x,good,b/0.png,"], 'the label "x"'),
        (["b,test,0,good,b/0.png,m.png"], "a good image with a mask in line 2"),
        (["b,test,0,good,,"], "an empty class_name or image"),
        (["b,test,0,good,/etc/0.png,"], "not relative to the data root"),
        (["b,test,0,good,b/../../0.png,"], "not relative to the data root"),
        (["b,test,0,good,b\\0.png,"], "not relative to the data root"),
        (["b,test,1,cut,b/0.png,../m.png"], "not relative to the data root"),
        (["../b,test,0,good,b/0.png,"], "class_name or defect that is a path"),
        (["b,test,1,../cut,b/0.png,m.png"], "class_name or defect that is a path"),
        (["b,test,0,good,b/0.png,"] * 2, "a duplicate image in line 3"),
    ],
)
def test_every_fault_of_a_split_is_one_sentence_with_its_line(tmp_path, rows, message):
    path = tmp_path / "mvtec.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    with pytest.raises(InputError) as caught:
        read_split(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("visa", "visa.py --data-root DIR"),
        ("visa_2cls_fewshot", "visa.py --data-root DIR"),
        ("other", "folder.py --data-root DIR --name other"),
        ("my_parts", "folder.py --data-root DIR --name my_parts"),
    ],
)
def test_a_missing_split_names_the_script_that_writes_it(tmp_path, name, script):
    with pytest.raises(InputError) as caught:
        read_split(tmp_path / f"{name}.csv")
    assert f"run python datasets/{script} first" in str(caught.value)
    assert (PROJECT / "datasets" / script.split()[0]).is_file()


def test_an_anomalous_image_may_lack_a_mask(tmp_path):
    unmasked = replace(BAD, mask="")
    assert read_split(write_split([unmasked], tmp_path, "tiny")[0]) == [unmasked]


@pytest.mark.parametrize("name", ["a", "my_parts", "v1.2", "零件-3", "mvtec_loco"])
def test_a_name_of_letters_and_digits_is_accepted(name):
    check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "a/b", "a\\b", "../a", "a b", ".a", "a.", "-a", "a\n", "x" * 101),
        *("mvtec", "MVTec", "visa_2cls_fewshot", "demo", "custom", "mvtec-random"),
        *("mvtec-anomalyclip", "visa-InCTRL", "parts-no-maps"),
    ],
)
def test_other_names_and_those_of_other_benchmarks_are_refused(name):
    with pytest.raises(InputError, match=r"^NAME = "):
        check_name(name)


def test_files_that_are_not_a_split_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("image,mask\n")
    with pytest.raises(InputError, match="no column class_name, split, label, defect"):
        read_split(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"b\.csv cannot be read"):
        read_split(tmp_path / "b.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_split(tmp_path)


def test_the_data_root_is_recorded_for_the_runner(tmp_path):
    root = tmp_path / "my data é"
    root.mkdir()
    write_root(root, tmp_path, "mvtec")
    assert read_root("mvtec", tmp_path) == root.resolve()
    with pytest.raises(InputError, match=r"python datasets/mpdd\.py --data-root DIR"):
        read_root("mpdd", tmp_path)
    with pytest.raises(InputError, match=r"python datasets/folder\.py --data-root DIR --name labb"):
        read_root("labb", tmp_path)
    for name in ("lab", "gears"):
        write_root(root, tmp_path, name)
    message = r'"labb" is prepared \(did you mean "lab"\?\); the prepared ones are gears, lab; '
    with pytest.raises(InputError, match=message):
        read_root("labb", tmp_path)
