import pandas as pd
import pytest

from datasets.references import (
    COLUMNS,
    NO_SEED,
    draw_references,
    listed_references,
    read_references,
    reference_rows,
)
from datasets.splits import Sample, first_of_each_defect
from utils.errors import InputError


def train_rows(count: int, category: str = "bottle") -> list[Sample]:
    names = [f"{category}/train/good/{number:03}.png" for number in range(count)]
    return [Sample(category, "train", 0, "good", name, "") for name in names]


def test_there_is_one_zero_shot_run_and_one_for_each_shots_and_seed():
    runs = draw_references(train_rows(9), (0, 1, 2, 4), (0, 1, 2, 3, 4))
    assert len(runs) == 1 + 3 * 5
    assert runs[0].images == ()
    assert [(run.shots, run.seed) for run in runs[:3]] == [(0, NO_SEED), (1, 0), (1, 1)]


def test_draws_are_nested_and_without_replacement():
    runs = {
        (run.shots, run.seed): run.images
        for run in draw_references(train_rows(9), (1, 2, 4), (0, 1))
    }
    for seed in (0, 1):
        assert runs[4, seed][:2] == runs[2, seed]
        assert runs[2, seed][:1] == runs[1, seed]
        assert len(set(runs[4, seed])) == 4
    assert runs[4, 0] != runs[4, 1]


def test_draws_depend_on_neither_the_order_of_rows_nor_other_categories():
    rows = train_rows(9)
    assert draw_references(rows, (0, 2), (3,)) == draw_references(rows[::-1], (2, 0), (3,))
    only_one = draw_references(rows, (2,), (3,))
    among_others = draw_references(rows, (1, 2, 4), (0, 1, 2, 3))
    assert only_one[0] in among_others


def test_a_seed_draws_the_same_images_for_ever():
    # NumPy's generator promises its stream within a version; a change would move every table.
    assert draw_references(train_rows(9), (2,), (0,))[0].images == (
        "bottle/train/good/004.png",
        "bottle/train/good/005.png",
    )


def test_more_shots_than_images_are_refused():
    with pytest.raises(InputError, match="asks for 4 reference images, but bottle has 3"):
        draw_references(train_rows(3), (0, 4), (0,))


def test_a_written_list_gives_the_same_runs(tmp_path):
    rows = train_rows(9)
    runs = draw_references(rows, (0, 1, 2), (0, 1))
    table = pd.DataFrame(reference_rows("bottle", runs), columns=COLUMNS)
    table.to_csv(tmp_path / "shots.csv", index=False)
    read = read_references(tmp_path / "shots.csv")
    assert listed_references(read, rows, (0, 1, 2), (0, 1)) == runs


def test_a_list_that_does_not_fit_is_refused(tmp_path):
    rows = train_rows(9)
    table = pd.DataFrame([("bottle", 1, 0, "elsewhere.png")], columns=COLUMNS)
    with pytest.raises(InputError, match=r"needs 1 distinct train images of bottle"):
        listed_references(table, rows, (1,), (0,))
    with pytest.raises(InputError, match=r"for 2 shots and seed 0, and has 0"):
        listed_references(table, rows, (2,), (0,))
    (tmp_path / "bad.csv").write_text("category,image\nbottle,a.png\n")
    with pytest.raises(InputError, match="has no column shots, seed"):
        read_references(tmp_path / "bad.csv")
    with pytest.raises(InputError, match="cannot be read as a CSV"):
        read_references(tmp_path / "gone.csv")


def test_the_first_of_each_defect_keep_their_order():
    defects = ["good", "cut", "good", "cut", "hole", "good"]
    samples = [Sample("c", "test", 0, defect, str(i), "") for i, defect in enumerate(defects)]
    assert first_of_each_defect(samples, 1) == [0, 1, 4]
    assert first_of_each_defect(samples, 2) == [0, 1, 2, 3, 4]
    assert first_of_each_defect(samples, 0) == []
