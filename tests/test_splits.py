import json

import pytest

from datasets.splits import Sample, read_root, read_split, write_root, write_split
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
        (["b,test,1,cut,b/0.png,"], "an anomalous image without a mask"),
        (["b,test,0,good,b/0.png,m.png"], "or a good image with one in line 2"),
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


def test_a_missing_split_names_the_script_that_writes_it(tmp_path):
    with pytest.raises(InputError, match=r"run python datasets/visa\.py --data-root DIR first"):
        read_split(tmp_path / "visa.csv")


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
