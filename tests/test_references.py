import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datasets.references import (
    COLUMNS,
    NO_SEED,
    draw_references,
    find_copies,
    listed_references,
    read_references,
    reference_rows,
)
from datasets.splits import Sample, first_of_each_defect
from utils.errors import InputError
from utils.experiment.plan import CategoryTask, notes_on_seeds
from utils.files import sha256_of


def train_rows(count: int, category: str = "bottle") -> list[Sample]:
    names = [f"{category}/train/good/{number:03}.png" for number in range(count)]
    return [Sample(category, "train", 0, "good", name, "") for name in names]


def test_there_is_one_zero_shot_setting_and_one_for_each_shots_and_seed():
    settings = draw_references(train_rows(9), (0, 1, 2, 4), (0, 1, 2, 3, 4))
    assert len(settings) == 1 + 3 * 5
    assert settings[0].images == ()
    assert [(s.shots, s.seed) for s in settings[:3]] == [(0, NO_SEED), (1, 0), (1, 1)]


def test_draws_are_nested_and_without_replacement():
    settings = draw_references(train_rows(9), (1, 2, 4), (0, 1))
    images = {(s.shots, s.seed): s.images for s in settings}
    for seed in (0, 1):
        assert images[4, seed][:2] == images[2, seed]
        assert images[2, seed][:1] == images[1, seed]
        assert len(set(images[4, seed])) == 4
    assert images[4, 0] != images[4, 1]


def test_draws_depend_on_neither_the_order_of_rows_nor_other_categories():
    rows = train_rows(9)
    assert draw_references(rows, (0, 2), (3,)) == draw_references(rows[::-1], (2, 0), (3,))
    only_one = draw_references(rows, (2,), (3,))
    among_others = draw_references(rows, (1, 2, 4), (0, 1, 2, 3))
    assert only_one[0] in among_others


def test_a_seed_always_draws_the_same_images():
    # NumPy's generator promises its stream within a version; a change would move every table.
    assert draw_references(train_rows(9), (2,), (0,))[0].images == (
        "bottle/train/good/004.png",
        "bottle/train/good/005.png",
    )


def test_more_shots_than_images_are_refused():
    with pytest.raises(InputError, match="asks for 4 reference images, but bottle has 3"):
        draw_references(train_rows(3), (0, 4), (0,))


def test_seeds_that_cannot_differ_are_noted():
    tasks = [
        CategoryTask(name, draw_references(train_rows(count, name), (0, 1, 3), range(5)), [], [])
        for name, count in (("bottle", 3), ("grid", 9))
    ]
    (note,) = notes_on_seeds(tasks)
    assert note.startswith("SAME REFERENCES FOR ALL SEEDS in 3-shot runs of bottle: ")
    single_seed = draw_references(train_rows(2), (2,), (0,))
    assert notes_on_seeds([CategoryTask("bottle", single_seed, [], [])]) == []


def test_a_written_list_gives_the_same_settings(tmp_path):
    rows = train_rows(9)
    settings = draw_references(rows, (0, 1, 2), (0, 1))
    table = pd.DataFrame(reference_rows("bottle", settings), columns=COLUMNS)
    table.to_csv(tmp_path / "shots.csv", index=False)
    read = read_references(tmp_path / "shots.csv")
    assert listed_references(read, rows, (0, 1, 2), (0, 1)) == settings


def test_a_list_without_the_needed_images_is_refused(tmp_path):
    rows = train_rows(9)
    table = pd.DataFrame([("bottle", 1, 0, "elsewhere.png")], columns=COLUMNS)
    with pytest.raises(InputError, match=r"needs 1 distinct train images of bottle"):
        listed_references(table, rows, (1,), (0,))
    with pytest.raises(InputError, match=r"for 2 shots and seed 0, but it has 0; complete"):
        listed_references(table, rows, (2,), (0,))
    (tmp_path / "bad.csv").write_text("category,image\nbottle,a.png\n")
    with pytest.raises(InputError, match="has no column shots, seed"):
        read_references(tmp_path / "bad.csv")
    with pytest.raises(InputError, match=r'no file .*gone.csv; give "draw"'):
        read_references(tmp_path / "gone.csv")


def test_the_first_of_each_defect_are_in_order():
    defects = ["good", "cut", "good", "cut", "hole", "good"]
    samples = [Sample("c", "test", 0, defect, str(i), "") for i, defect in enumerate(defects)]
    assert first_of_each_defect(samples, 1) == [0, 1, 4]
    assert first_of_each_defect(samples, 2) == [0, 1, 2, 3, 4]
    assert first_of_each_defect(samples, 0) == []


def test_copies_are_found_without_reading_other_files_of_their_size(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (20, 30), np.uint8)).save(tmp_path / f"{number}.bmp")
    hashed = []
    digest = "datasets.references.sha256_of"
    monkeypatch.setattr(digest, lambda path: hashed.append(path.name) or sha256_of(path))
    names = [f"{number}.bmp" for number in range(5)]
    assert find_copies(tmp_path, names[2:], names[:2]) == {} and hashed == []
    (tmp_path / "4.bmp").write_bytes((tmp_path / "1.bmp").read_bytes())
    end = (tmp_path / "0.bmp").read_bytes()
    (tmp_path / "3.bmp").write_bytes(end[:-1] + bytes([end[-1] ^ 1]))  # the middle is equal
    assert find_copies(tmp_path, [*names[2:], "gone"], [*names[:2], "gone"]) == {"4.bmp": "1.bmp"}
    assert sorted(hashed) == ["0.bmp", "1.bmp", "3.bmp", "4.bmp"]
