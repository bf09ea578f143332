"""What the files of checkpoints hold: tensors and plain data, never a pickled program.

A folder, or an index of shards, is read as one file. Names that an index gives stay within its folder.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ..errors import CheckpointError

PICKLED = (".pt", ".pth", ".ckpt", ".bin")  # of torch.save
INDEX = ".index.json"
WEIGHT_FILES = (
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "diffusion_pytorch_model.safetensors",
    f"diffusion_pytorch_model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
)
MOST_JSON = 2**26  # bytes of an index or a configuration


def read_content(path: Path) -> Any:
    """The content of a checkpoint: tensors, dicts of them, and plain data.

    Args:
        path: a `.pt`, `.pth`, `.ckpt`, `.bin` or `.safetensors` file, the `.index.json` of shards, or a folder with one
            of `WEIGHT_FILES`.

    Raises:
        CheckpointError: no such file, another kind of file, a damaged one, or one that holds pickled objects.
    """
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path}: no such file")
    if path.name.endswith(INDEX):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except Exception as error:  # a type that this torch has not, a size that it cannot hold
            raise CheckpointError(f"checkpoint {path}: not a readable safetensors file ({one_line(error)})") from error
    if path.suffix not in PICKLED:
        raise CheckpointError(
            f"checkpoint {path}: expected a .pt, .pth or .safetensors file (or .ckpt, .bin, the {INDEX} of shards, "
            "or a folder with weights)"
        )
    return _read_pickled(path)


def _read_pickled(path: Path) -> Any:
    """What torch.save wrote. Nothing of it runs: torch's unpickler with `weights_only` knows tensors and plain data."""
    check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on foreign files, before the error
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or foreign file runs into anything while it is unpickled
        refused = re.search(r"GLOBAL ([\w.]+)\s", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if refused:
            raise CheckpointError(
                f"checkpoint {path}: holds pickled Python objects ({refused[1]}; a whole module?), which may run any "
                "code when read; save model.state_dict() instead, with torch.save or safetensors"
            ) from error
        reason = "no state dict that torch.save wrote" if isinstance(error, pickle.UnpicklingError) else one_line(error)
        raise CheckpointError(f"checkpoint {path}: damaged or not a PyTorch file ({reason})") from error


def check_archive(path: Path) -> None:
    """Raises CheckpointError for a zip archive that holds more than its size, or a program of TorchScript."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"checkpoint {path}: damaged or not a PyTorch file ({one_line(error)})") from error
    names = [entry.filename for entry in entries]
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or len(set(names)) < len(names):
        raise CheckpointError(
            f"checkpoint {path}: damaged or not a PyTorch file (its entries are compressed or there twice)"
        )
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            f"checkpoint {path}: holds a TorchScript program; save model.state_dict() instead, or torch.export it to a "
            ".pt2 file"
        )


def _in_folder(folder: Path) -> Path:
    """The file of weights in a folder."""
    for name in WEIGHT_FILES:
        if (folder / name).exists():
            return file_within(folder, name)
    raise CheckpointError(f"checkpoint {folder}: no such file; it is a folder with none of {', '.join(WEIGHT_FILES)}")


def file_within(folder: Path, name: str) -> Path:
    """A file of this name in a folder itself.

    A link may lead within the folder, or from a snapshot of the Hugging Face cache to its blobs.

    Raises:
        CheckpointError: there is none, or the name or a link leads elsewhere.
    """
    where = f"checkpoint {folder}"
    if not name or name in (".", "..") or set(name) & set("/\\:\0") or not name.isprintable():
        raise CheckpointError(f"{where}: {name!r:.120} is no name of a file in this folder")
    path = folder / name
    try:
        real, home = path.resolve(strict=True), folder.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # missing, or links in a circle
        raise CheckpointError(f"{where}: {name!r} is missing") from error
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else None
    if home not in real.parents and real.parent != blobs:
        raise CheckpointError(f"{where}: {name!r} is a link that leads out of the folder")
    if not real.is_file():
        raise CheckpointError(f"{where}: {name!r} is no file")
    return path


def _read_shards(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of all shards that an index names: each is in the shard that it says, and in no other."""
    index = read_json(path)
    placed = index.get("weight_map")
    if not (isinstance(placed, dict) and placed and all(isinstance(value, str) for value in placed.values())):
        raise CheckpointError(f"checkpoint {path}: expected a weight_map that gives the file of each tensor")
    shards = dict.fromkeys(placed.values())
    odd = [name for name in shards if Path(name).suffix not in (".safetensors", *PICKLED)]
    if odd:
        raise CheckpointError(f"checkpoint {path}: {odd[0]!r:.120} is no .safetensors or .bin file")
    files = {name: file_within(path.parent, name) for name in shards}
    found: dict[str, torch.Tensor] = {}
    for name, file in files.items():
        tensors = read_content(file)
        said = {tensor for tensor, shard in placed.items() if shard == name}
        if not isinstance(tensors, dict) or tensors.keys() != said:
            held = set(tensors) if isinstance(tensors, dict) else set()
            lacks, more = sorted(said - held), sorted(map(str, held - said))
            parts = [f"lacks {some(lacks)}"] if lacks else []
            parts += [f"holds {some(more)}, which the index has elsewhere or not"] if more else []
            raise CheckpointError(f"checkpoint {path}: the shard {name} {' and '.join(parts)}")
        found |= tensors
    return found


def read_json(path: Path) -> dict[str, Any]:
    """An object of JSON.

    Raises:
        CheckpointError: it is none, or larger than any index is.
    """
    try:
        if path.stat().st_size > MOST_JSON:
            raise CheckpointError(f"checkpoint {path}: larger than {MOST_JSON} bytes")
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"checkpoint {path}: not readable JSON ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"checkpoint {path}: expected an object of JSON, got {type(content).__name__}")
    return content


def some(names: list[str], most: int = 10) -> str:
    """Names, in a line that does not grow with their number."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name if len(name) <= 200 else f"{name[:197]}..." for name in names[:most]) + more


def one_line(error: BaseException, most: int = 200) -> str:
    """An error, with its type, in one line of at most so many characters."""
    text = ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split()))))
    return text if len(text) <= most else f"{text[: most - 3]}..."
