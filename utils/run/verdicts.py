"""Write and print the scores of custom images, with verdicts if there is a threshold."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.custom.find import CustomImages
from datasets.splits import UNKNOWN
from models.methods import ABILITIES, MethodName
from utils.experiment.custom import CustomSettings
from utils.files import write_text
from utils.log import log
from utils.results.folder import read_finished
from utils.results.scores import Scores, load_scores, write_score_table
from utils.results.thresholds import Threshold, explain_threshold, reference_threshold

MAX_LISTED = 20  # highest scores listed on the console


def report_scores(images: CustomImages, settings: CustomSettings, folder: Path) -> None:
    """Write the scores and verdicts of a finished run; print the highest scores."""
    class_name, rate = settings.class_name, settings.false_alarms
    scores = load_scores(folder / "scores" / f"{class_name}.npz")
    finished = read_finished(folder)[class_name]
    threshold = reference_threshold(finished, rate)
    defects = {sample.image: sample.defect for sample in images.tests}
    write_score_table(folder / "scores" / f"{class_name}.csv", scores, defects, threshold)
    records = score_records(scores, threshold)
    write_text(folder / "scores.json", json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    name = scores.run_names()[-1]
    listed = f"; the {MAX_LISTED} highest:" if len(records) > MAX_LISTED else ":"
    log.info(f"{name} scores of {len(records)} test image{'s' * (len(records) > 1)}{listed}")
    for record in sorted(records, key=lambda record: -record[name])[:MAX_LISTED]:
        mark = "  above the threshold" if record.get("above_threshold") else ""
        log.info(f"  {record[name]:.3f}  {record['image']}{mark}")
    if threshold is None:
        log.info(f"\n{explain_scores(len(images.references), settings.method)}")
        return
    above = sum(record["above_threshold"] for record in records)
    log.info(f"\nabove the threshold: {above} of {len(records)} images")
    if mistakes := count_mistakes(records):
        log.info(mistakes)
    log.info(f"{name}: {explain_threshold(threshold.value, len(images.references), rate)}")
    panel_threshold = finished.get("panel_threshold", threshold.value)  # older folders have none
    if settings.heatmaps != "none" and panel_threshold != threshold.value:
        log.info(
            f"the heatmaps still state the threshold {panel_threshold:.4f}; to draw them again, "
            f"delete {folder / 'done'} and start again"
        )
    highest = max(zip(finished["leave_one_out"], images.references, strict=True))[1].image
    log.info(f"reference image with the highest score: {highest}; leave it out if it is damaged")


def score_records(scores: Scores, threshold: Threshold | None) -> list[dict]:
    """Return the entries of scores.json, one per image.

    Keys: image; anomalous, if labelled; the image score of each run under the run's name; with a
    threshold also threshold and above_threshold, which is the verdict of the last run.
    """
    records = []
    for index, image in enumerate(scores.image.tolist()):
        record = {"image": image}
        if scores.label[index] != UNKNOWN:
            record["anomalous"] = bool(scores.label[index])
        for run_index, name in enumerate(scores.run_names()):
            record[name] = float(scores.image_scores[run_index, index])
        if threshold:
            record["threshold"] = threshold.value
            record["above_threshold"] = bool(threshold.exceeded_by(scores.image_scores[-1, index]))
        records.append(record)
    return records


def count_mistakes(records: Sequence[Mapping]) -> str:
    """Say how many labelled images are on the wrong side of the threshold; "" without labels.

    >>> count_mistakes([{"anomalous": True, "above_threshold": False}, {"above_threshold": True}])
    'missed 1 of 1 anomalous images'
    """
    above = {
        label: [record["above_threshold"] for record in records if record.get("anomalous") is label]
        for label in (True, False)
    }
    missed = f"missed {above[True].count(False)} of {len(above[True])} anomalous images"
    alarms = f"{sum(above[False])} of {len(above[False])} good images above the threshold"
    return "; ".join(text for text, label in ((missed, True), (alarms, False)) if above[label])


def explain_scores(references: int, method: MethodName = "winclip") -> str:
    """Return what scores without a threshold mean, and what they do not mean."""
    text = (
        "The scores rank the images. They are not calibrated: 0.5 does not separate good from "
        "damaged, and scores of two categories cannot be compared."
    )
    if not ABILITIES[method].few_shot:
        return text
    option = "" if references else " (--references)"
    return f"{text} Two or more reference images{option} also give a threshold."
