"""What mapping can refuse."""


class MappingError(ValueError):
    """A model, or something said about it, that cannot be mapped."""


class CheckpointError(ValueError):
    """A file that is not a usable checkpoint or chip."""


def check_chip(chip: object) -> None:
    """Raises MappingError for what is no mapped network."""
    if not hasattr(chip, "copy_index"):
        hint = ": for this give its .chip" if hasattr(chip, "chip") else ""
        raise MappingError(f"chip must be a mapped network (see mho.map), got {type(chip).__name__}{hint}")
