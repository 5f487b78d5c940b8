"""Name the method of a run, and say what it lacks, from its settings (settings.json).

Settings of earlier versions have neither `method` nor `maps`: they belong to WinCLIP with maps.
"""

from collections.abc import Mapping

WINCLIP = "winclip"  # the default of the setting `method`
METHOD_NAMES = {
    WINCLIP: "WinCLIP",
    "anomalyclip": "AnomalyCLIP",
    "inctrl": "InCTRL",
    "saa_plus": "SAA+",  # only as published
}
PATCH_TOKENS = "patch tokens"  # the variant of WinCLIP+ without maps


def method_of(settings: Mapping) -> str:
    """Return the setting `method`."""
    return settings.get("method", WINCLIP)


def method_name(settings: Mapping) -> str:
    """Return the method's name for titles.

    >>> method_name({}), method_name({"method": "inctrl"})
    ('WinCLIP', 'InCTRL')
    """
    return METHOD_NAMES[method_of(settings)]


def has_maps(settings: Mapping) -> bool:
    """Return whether the run has anomaly maps, and so pixel metrics, heatmaps and defects."""
    return settings.get("maps", True)


def variant_of(settings: Mapping) -> str:
    """Return the variant of the method in runs with references; "" for the method's own.

    Without maps, the image scores of WinCLIP+ are not the paper's.

    >>> variant_of({"maps": False}), variant_of({"method": "inctrl", "maps": False})
    ('patch tokens', '')
    """
    without_windows = method_of(settings) == WINCLIP and not has_maps(settings)
    return PATCH_TOKENS if without_windows else ""
