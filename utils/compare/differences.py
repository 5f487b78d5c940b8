"""Describe how the compared runs differ: settings, weights, data and versions."""

from collections.abc import Sequence

from utils.compare.sources import Source
from utils.files import sha256_of
from utils.results.folder import abbreviate, describe_change
from utils.results.methods import has_maps, method_of

NOT_RECORDED = "not recorded"
MAX_ENTRIES = 12  # of a mapping or list that is written out
KINDS = {  # entries of the fingerprint that are not settings
    **dict.fromkeys(("model", "weights", "normalisation", "quick_gelu"), "weights"),
    **dict.fromkeys(("dataset", "split_sha256", "recipe", "depth", "limit"), "data"),
    **dict.fromkeys(("images", "labels", "masks", "references"), "data"),
}


def describe_differences(sources: Sequence[Source]) -> list[list[str]]:
    """Return the facts in which the recorded runs differ: kind, name, and the value in each."""
    facts = [run_facts(source) for source in sources]
    names = dict.fromkeys(key for recorded in facts for key in recorded)
    rows = []
    for kind in ("settings", "weights", "data", "versions"):
        for key in (key for key in names if key[0] == kind):
            values = [recorded.get(key, NOT_RECORDED) for recorded in facts]
            of_runs = [value for value, recorded in zip(values, facts, strict=True) if recorded]
            if any(value != of_runs[0] for value in of_runs):
                rows.append([*key, *describe_values(values)])
    return rows


def run_facts(source: Source) -> dict[tuple[str, str], object]:
    """Return what is recorded of a run, by (kind, name); empty for a CSV file."""
    record = source.record
    if not record:
        return {}
    settings = record["settings"]
    facts = {
        ("settings", "method"): method_of(settings),
        ("settings", "maps"): has_maps(settings),
        ("settings", "protocol"): settings.get("protocol", NOT_RECORDED),
    }
    for name, value in record["fingerprint"].items():
        facts[KINDS.get(name, "settings"), name] = value
    weights = record.get("weights", {}).get("description", NOT_RECORDED)
    shots = source.path / "shots.csv"
    return facts | {
        ("weights", "description"): weights,
        ("data", "shots.csv"): abbreviate(sha256_of(shots)) if shots.exists() else NOT_RECORDED,
        **{("versions", name): str(value) for name, value in record["versions"].items()},
        ("versions", "git revision"): record.get("git_revision", NOT_RECORDED),
    }


def describe_values(values: Sequence[object]) -> list[str]:
    """Return the value of a fact in each run as text.

    A mapping or list of more than MAX_ENTRIES is shown as its size and its changes from the first
    such value.

    >>> describe_values([[2, 3], {"a.png": "1"}, "draw"])
    ['2 3', 'a.png 1', 'draw']
    >>> describe_values([list(range(15)), list(range(1, 14))])
    ['15 entries', '13 entries: removed 0, 14']
    """
    texts, first = [], None
    for value in values:
        if isinstance(value, list):
            entries = dict.fromkeys(map(abbreviate, value))
        else:
            entries = value if isinstance(value, dict) else {}
        if len(entries) > MAX_ENTRIES:
            first, count = first or entries, f"{len(entries)} entries"
            texts.append(count if entries == first else describe_change(count, first, entries))
        elif isinstance(value, dict):
            pairs = [f"{key} {abbreviate(entry)}" for key, entry in value.items()]
            texts.append(", ".join(pairs) or "none")
        else:
            texts.append(abbreviate(value))
    return texts
