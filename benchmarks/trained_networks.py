"""Trained networks that packages ship, on chips: faces that MTCNN keeps, and voices that an LSTM tells apart.

    pip install --no-deps facenet-pytorch Resemblyzer torchvision        # the networks (and librosa, webrtcvad-wheels)
    pip download --no-deps insightface scikit-image pocketsphinx         # pictures and speech; unpack into one folder
    python benchmarks/trained_networks.py --data FOLDER [--parts faces,voices] [--out runs/trained_networks]

Pictures and utterances are found by their names in the folder and in installed packages. Chips are calibrated on other
pictures and speakers than those they are tried on. Writes a table of each part (CSV and Parquet) and `run.json`.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from figures_of_merit import Found, equal_error_rate, faces_found, interval, pairs, suppress
from torch import nn

import mho
from mho.records import record, write_json
from mho.tables import write_table

Array = np.ndarray[Any, Any]
PRESETS = ("reram", "pcm", "nand")
LOWER = {"faces": 0.1, "voices": 0.02}  # of the read voltage of the preset: where reads differ
VOTES = (1, 5, 20)
PACKAGES = {
    "t1.jpg": "insightface",
    "astronaut.png": "scikit-image",
    "camera.png": "scikit-image",
    "lfw_subset.npy": "scikit-image",
    "grace_hopper.jpg": "matplotlib",
}
TEST_PICTURES = ("t1.jpg", "astronaut.png", "lfw_subset.npy")
CALIBRATION_PICTURES = ("grace_hopper.jpg", "camera.png")
SIDE, SMALLEST_FACE = 400, 24  # pixels: the longer side of a picture, and MTCNN's `min_face_size`
PATCH, CROPS = 40, 128  # side of the pieces that P-Net is calibrated with, and their number for each network
FACES, ZOOM, GAP, ACROSS = 12, 2, 16, 4  # of the sheet of portraits of Labeled Faces in the Wild
STAGES = ("pnet", "rnet", "onet")
READER = "sense_and_sensibility_01_austen_64kb"
SPEAKERS = {  # recordings of pocketsphinx's tests that have 1.6 s of speech, of four speakers
    "reader": tuple(f"{READER}-{part}.wav" for part in ("0870", "0890", "0920", "0930")),
    "cards": ("cards/002.wav", "cards/005.wav"),
    "forever": ("input_2_16k.wav", "input_4_16k.wav"),
    "developer": ("goforward.raw", "numbers.raw", "something.raw", "dhd.2934z.raw"),
}
CALIBRATION_SPEECH = ("chan3.wav",)  # a fifth speaker
FRAMES = 160  # 1.6 s, as the encoder was trained
DAC_BITS = 8  # of the presets
WINDOWS = 4  # of the speech that the encoder is calibrated with
VARIANTS: dict[str, tuple[str, ...]] = {"first LSTM layer digital": ("lstm.l0.gates",), "all layers on tiles": ()}


def find(name: str, folder: Path) -> Path:
    """A file by the end of its path, in the folder or in an installed package that ships it."""
    package = PACKAGES.get(Path(name).name, "pocketsphinx")
    roots = [folder]
    spec = find_spec({"scikit-image": "skimage"}.get(package, package))
    if spec is not None and spec.submodule_search_locations:
        roots += [Path(place) for place in spec.submodule_search_locations]
    for root in roots:
        for path in sorted(root.rglob(Path(name).name)):
            if path.as_posix().endswith(f"/{name}"):
                return path
    raise FileNotFoundError(f"{name} is neither in --data {folder} nor installed: it comes with {package}")


def hardware_points(lower: float) -> Iterator[tuple[str, float, mho.Hardware]]:
    """Each preset at its own read voltage and at a lower one: its name, the voltage, the hardware."""
    for factor in (1.0, lower):
        for preset in PRESETS:
            v = hardware_voltage(preset) * factor
            yield preset, v, mho.Hardware.preset(preset).replace({"sensing.v_read": v})


def hardware_voltage(preset: str) -> float:
    """The read voltage of a preset, in volts."""
    return mho.Hardware.preset(preset).sensing.v_read


def chips_of(model: nn.Module, hardware: mho.Hardware, calibrate: torch.Tensor, count: int, **more: Any) -> list[Any]:
    """Chips of one design: programmed from different seeds, calibrated once."""
    first = mho.map(model, hardware, calibrate=calibrate, seed=0, **more)
    return [first, *(first.copy(i) for i in range(1, count))]


def on_tiles_of(chip: mho.Chip) -> float:
    """The share of parameters that is on tiles."""
    cover = chip.report().cover
    return cover.on_tiles / cover.parameters


class Mean(nn.Module):
    """A network whose outputs are the mean of some reads of a chip."""

    def __init__(self, chip: nn.Module, reads: int) -> None:
        super().__init__()
        self.chip, self.reads = chip, reads

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = [self.chip(x) for _ in range(self.reads)]
        return tuple(torch.stack(parts).mean(dim=0) for parts in zip(*outputs, strict=True))


def picture(name: str, folder: Path) -> Array:
    """(height, width, 3) of 0 to 255; portraits of LFW are laid out on a grey sheet."""
    from PIL import Image

    path = find(name, folder)
    if path.suffix != ".npy":
        image = Image.open(path).convert("RGB")
        image.thumbnail((SIDE, SIDE))
        return np.array(image)
    faces = np.load(path)[:FACES]  # 0 to 1, 25 pixels square
    side = ZOOM * faces.shape[1]
    sheet = np.full((-(-FACES // ACROSS) * (side + GAP) + GAP, ACROSS * (side + GAP) + GAP), 128, dtype=np.uint8)
    for i, face in enumerate(faces):
        large = Image.fromarray((255 * face).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
        top, left = (GAP + place * (side + GAP) for place in divmod(i, ACROSS))
        sheet[top : top + side, left : left + side] = np.array(large)
    return np.stack([sheet] * 3, axis=-1)


def cascade() -> Any:
    """MTCNN with facenet-pytorch's weights. Its suppression of boxes is ours, where torchvision's is not compiled."""
    try:
        import_module("torchvision")
    except RuntimeError:  # a torchvision of another torch: declared, never called
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    detect = import_module("facenet_pytorch.models.utils.detect_face")

    def batched(boxes: torch.Tensor, scores: torch.Tensor, pictures: torch.Tensor, threshold: float) -> torch.Tensor:
        apart = boxes + (pictures * (boxes.max() + 1 if len(boxes) else 0)).to(boxes)[:, None]
        return torch.from_numpy(suppress(apart.double().numpy(), scores.double().numpy(), threshold))

    ends = detect.pad

    def cut(boxes: torch.Tensor, width: int, height: int) -> tuple[Array, ...]:
        """Noise makes boxes beside the picture: one row or column of pixels then, where facenet-pytorch fails."""
        top, bottom, left, right = ends(boxes, width, height)
        top, left = np.minimum(top, height), np.minimum(left, width)
        return top, np.maximum(bottom, top), left, np.maximum(right, left)

    detect.batched_nms, detect.pad = batched, cut
    return import_module("facenet_pytorch").MTCNN(keep_all=True, min_face_size=SMALLEST_FACE).eval()


def detected(mtcnn: Any, image: Array) -> tuple[Array, Array]:
    """Boxes (n, 4) and landmarks (n, 5, 2) that a cascade finds."""
    boxes, _, points = mtcnn.detect(image, landmarks=True)
    if boxes is None:
        return np.zeros((0, 4)), np.zeros((0, 5, 2))
    return np.asarray(boxes, dtype=float), np.asarray(points, dtype=float)


def seen(mtcnn: Any, images: list[Array]) -> dict[str, torch.Tensor]:
    """What the networks of the cascade get of pictures: pieces of P-Net's pyramid, crops for R- and O-Net."""
    inputs: dict[str, list[torch.Tensor]] = {name: [] for name in STAGES}
    hooks = [
        getattr(mtcnn, name).register_forward_pre_hook(lambda _, given, name=name: inputs[name].append(given[0]))
        for name in STAGES
    ]
    for image in images:
        detected(mtcnn, image)
    for hook in hooks:
        hook.remove()
    large = [x for x in inputs["pnet"] if min(x.shape[2:]) >= PATCH]
    pieces = [x.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5).flatten(0, 2) for x in large]
    inputs["pnet"] = pieces
    generator = torch.Generator().manual_seed(0)
    joined = {name: torch.cat(parts) for name, parts in inputs.items()}
    return {name: x[torch.randperm(len(x), generator=generator)[:CROPS]].contiguous() for name, x in joined.items()}


def faces_rows(folder: Path, count: int) -> Iterator[dict[str, Any]]:
    """A row per preset, voltage and votes: faces of the digital cascade kept, false boxes, error of landmarks."""
    mtcnn = cascade()
    networks = {name: getattr(mtcnn, name) for name in STAGES}
    calibrate = seen(mtcnn, [picture(name, folder) for name in CALIBRATION_PICTURES])
    images = [picture(name, folder) for name in TEST_PICTURES]
    reference = [detected(mtcnn, image) for image in images]
    points = [
        (preset, v, {name: chips_of(networks[name], hardware, calibrate[name], count) for name in STAGES})
        for preset, v, hardware in hardware_points(LOWER["faces"])
    ]
    for votes in VOTES:
        for preset, v, chips in points:
            found: list[list[Found]] = []
            for i in range(count):
                for name in STAGES:
                    setattr(mtcnn, name, Mean(chips[name][i], votes))
                boxes = [detected(mtcnn, image) for image in images]
                found.append([faces_found(*one, *other) for one, other in _turned(reference, boxes)])
            kept = np.stack([np.concatenate([one.kept for one in chip]) for chip in found])
            false = np.array([[one.false_boxes for one in chip] for chip in found], dtype=float)
            error = np.stack([np.concatenate([one.landmark_error for one in chip]) for chip in found])
            row = {"preset": preset, "v_read": v, "votes": votes, "chips": count, "pictures": len(images)}
            row |= {"faces": kept.shape[1], **_columns("kept", interval(kept))}
            row |= _columns("false_boxes", interval(false)) | _columns("landmark_px", interval(error))
            yield row | {f"{name}_on_tiles": on_tiles_of(chips[name][0]) for name in STAGES}


def _turned(reference: list[tuple[Array, Array]], found: list[tuple[Array, Array]]) -> Iterator[Any]:
    """The order that `faces_found` takes: both sets of boxes, then both sets of landmarks."""
    for (boxes, points), (others, their_points) in zip(reference, found, strict=True):
        yield (boxes, others), (points, their_points)


def _columns(name: str, values: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def spectrogram(name: str, folder: Path) -> torch.Tensor:
    """(windows, FRAMES, 40) of an utterance without its silences; a short one is padded with silence."""
    import soundfile
    from resemblyzer import audio

    path = find(name, folder)
    raw = {"channels": 1, "samplerate": 16000, "format": "RAW", "subtype": "PCM_16"} if path.suffix == ".raw" else {}
    wave, rate = soundfile.read(path, dtype="float32", **raw)
    frames = audio.wav_to_mel_spectrogram(audio.preprocess_wav(wave, rate))
    windows = max(1, len(frames) // FRAMES)
    frames = np.pad(frames[: windows * FRAMES], ((0, max(0, FRAMES - len(frames))), (0, 0)))
    return torch.from_numpy(frames.reshape(windows, FRAMES, -1))


def voices_rows(folder: Path, count: int) -> Iterator[dict[str, Any]]:
    """A row per preset, voltage, variant and votes: cosine to the digital embedding, equal error rate, margin.

    The embedding of K votes is the mean of those of K reads, scaled to norm 1 again, as Resemblyzer does with windows.
    """
    encoder = import_module("resemblyzer").VoiceEncoder("cpu", verbose=False).eval()
    calibrate = torch.cat([spectrogram(name, folder) for name in CALIBRATION_SPEECH])[:WINDOWS]
    x = torch.cat([spectrogram(name, folder)[:1] for names in SPEAKERS.values() for name in names])
    speakers = np.repeat(list(SPEAKERS), [len(names) for names in SPEAKERS.values()])
    digital = encoder(x).numpy()
    yield _voices_row({"preset": "digital", "variant": "as it is"}, digital[None], digital, speakers)
    step = calibrate.abs().max() / (2 ** (DAC_BITS - 1) - 1)
    coarse = encoder((x / step).round() * step).numpy()
    zeros = f"inputs in {DAC_BITS} bits, {float(((x / step).round() == 0).float().mean()):.0%} of them zero"
    yield _voices_row({"preset": "digital", "variant": zeros}, coarse[None], digital, speakers)
    points = [
        (preset, v, variant, chips_of(encoder, hardware, calibrate, count, exclude=list(exclude)))
        for variant, exclude in VARIANTS.items()
        for preset, v, hardware in hardware_points(LOWER["voices"])
        if exclude or v == hardware_voltage(preset)  # with all layers on tiles the converters fail at any voltage
    ]
    reads: list[list[list[Array]]] = [[[] for _ in chips] for *_, chips in points]
    for votes in VOTES:
        for (preset, v, variant, chips), made in zip(points, reads, strict=True):
            for chip, outputs in zip(chips, made, strict=True):
                outputs += [chip(x).numpy() for _ in range(votes - len(outputs))]
            mean = np.stack([np.mean(outputs, axis=0) for outputs in made])
            mean /= np.linalg.norm(mean, axis=2, keepdims=True)
            row = {"preset": preset, "v_read": v, "variant": variant, "votes": votes, "chips": count}
            yield _voices_row(row | {"on_tiles": on_tiles_of(chips[0])}, mean, digital, speakers)


def _voices_row(row: dict[str, Any], embeddings: Array, digital: Array, speakers: Array) -> dict[str, Any]:
    """Figures of embeddings (chips, utterances, d); those of pairs are means and ranges over chips."""
    scores = [pairs(chip, speakers) for chip in embeddings]
    margins = np.array([same.mean() - different.mean() for same, different in scores])
    rates = np.array([equal_error_rate(*both) for both in scores])
    cosine = interval((embeddings * digital).sum(axis=2))
    row = row | {"utterances": len(speakers)} | _columns("cosine", cosine)
    row |= _columns("equal_error_rate", (rates.mean(), rates.min(), rates.max()))
    return row | _columns("margin", (margins.mean(), margins.min(), margins.max()))


PARTS: dict[str, Callable[[Path, int], Iterator[dict[str, Any]]]] = {"faces": faces_rows, "voices": voices_rows}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(), help="where the packages were unpacked")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--chips", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/trained_networks"))
    options = parser.parse_args(arguments)
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts must be of {', '.join(PARTS)}, not {', '.join(sorted(unknown))}")
    if options.chips < 1:
        parser.error(f"--chips must be at least 1, got {options.chips}")
    warnings.filterwarnings("ignore", message=".*outside the data.*")
    options.out.mkdir(parents=True, exist_ok=True)
    for part in parts:
        began = time.process_time()
        rows: list[dict[str, Any]] = []
        with torch.no_grad():
            for row in PARTS[part](options.data, options.chips):
                rows.append(row)
                print(*(f"{name}={value}" for name, value in row.items()), file=sys.stderr, flush=True)
                write_table(pd.DataFrame(rows), options.out / part, csv_format="%.5g")
        packages = ("mho", "torch", "numpy", "facenet-pytorch", "torchvision", "Resemblyzer", "librosa", "pillow")
        found = record(packages, f"benchmarks/trained_networks.py --data FOLDER --parts {part} --chips {options.chips}")
        found |= {"seed": 0, "votes": list(VOTES), "cpu_seconds": round(time.process_time() - began)}
        write_json(found, options.out / f"{part}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
