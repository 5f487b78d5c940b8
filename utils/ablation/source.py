"""Placeholder."""


class StoredCategory:
    """Placeholder."""
