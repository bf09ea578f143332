"""What mapping can refuse."""


class MappingError(ValueError):
    """A model, or something said about it, that cannot be mapped."""


class CheckpointError(ValueError):
    """A file that is not a usable checkpoint or chip."""
