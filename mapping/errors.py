"""What mapping can refuse."""


class MappingError(ValueError):
    """A model, or something said about it, that cannot be mapped."""


class CheckpointError(ValueError):
    """A file that is not a usable checkpoint or chip."""


def check_chip(chip: object) -> None:
    """Raises MappingError for what is no mapped network."""
    if not hasattr(chip, "copy_index"):
        raise MappingError(f"chip must be a mapped network (see mho.map), got {type(chip).__name__}")
