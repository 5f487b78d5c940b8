from models.prompts import PUBLIC_TEMPLATES, TEMPLATES, prompt_ensemble, spaced_words


def test_the_paper_has_154_normal_and_88_anomalous_distinct_prompts():
    normal, anomalous = prompt_ensemble("bottle")
    assert len(set(normal)) == len(normal) == 7 * 22
    assert len(set(anomalous)) == len(anomalous) == 4 * 22
    assert not set(normal) & set(anomalous)


def test_the_public_list_has_21_entries_and_repeats_one():
    assert len(PUBLIC_TEMPLATES) == 21
    assert PUBLIC_TEMPLATES.count("a jpeg corrupted photo of the {}.") == 2
    missing = set(TEMPLATES) - set(PUBLIC_TEMPLATES)
    assert missing == {"a cropped photo of a {}.", "a jpeg corrupted photo of a {}."}


def test_states_go_inside_templates():
    normal, anomalous = prompt_ensemble("metal nut")
    assert "a photo of a flawless metal nut." in normal
    assert "a dark photo of the metal nut without damage." in normal
    assert "a cropped photo of a damaged metal nut." in anomalous
    assert "a photo of the metal nut with defect for visual inspection." in anomalous


def test_underscores_become_spaces():
    assert spaced_words("metal_nut") == "metal nut"
    assert spaced_words("bottle") == "bottle"


def test_extra_states_are_added_to_their_side():
    normal, anomalous = prompt_ensemble("pcb1", extra_anomalous=["{} with bad soldering"])
    assert len(normal) == 7 * 22
    assert len(anomalous) == 5 * 22
    assert "a photo of the pcb1 with bad soldering." in anomalous
