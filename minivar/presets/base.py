"""The error that everything about presets raises."""


class PresetError(ValueError):
    """An unknown preset, or an override that does not fit."""
