"""`mho train`: one of the paper's networks, or one of your own; with noise injected, or through a chip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import typer

from .options import ARG, IMPORTS, import_own

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..crossbar.hardware import Hardware
    from ..models.like import Share
    from ..models.networks import Network
    from ..models.train import Recipe

SHOW_EVERY = 10  # batches
LINE_EVERY_S = 60.0
ATTACKED = 1000  # test images
CALIBRATION = 512  # training inputs


def train(
    network: str = typer.Argument(
        "", help="mnist-cnn, mnist-cnn4, stroke-lstm, densenet22, densenet40, densenet100, resnet32."
    ),
    model: str = typer.Option(
        "", help="Your own network instead: package.module:factory, timm:NAME, transformers:NAME."
    ),
    arg: list[str] = ARG,
    data: str = typer.Option(
        "", help="With --model: .npz of images (or inputs) and labels, or package.module:function that gives both."
    ),
    test_data: str = typer.Option("", help="With --model: the same, to test on; else every tenth sample of --data."),
    hardware: str | None = typer.Option(None, help="A hardware file or preset: train through its chip."),
    sigma_train: float = typer.Option(0.0, help="Standard deviation of the noise in training."),
    noise: str = typer.Option("mult", help="mult or add."),
    like: str | None = typer.Option(None, help="A hardware file or preset: the noise of its chip, layer by layer."),
    start: str = typer.Option("", help="Weights to start from: a name or a file. With --like: sigma-0.0."),
    epochs: int | None = typer.Option(None, min=1, help="Passes over the training set, instead of the protocol's."),
    batch_size: int | None = typer.Option(None, min=2, help="Samples a step, instead of the protocol's."),
    seed: int = typer.Option(0, help="Of weights, order and noise."),
    protocol: str = typer.Option("ours", help="ours, or paper: its optimiser, batches and epochs."),
    adversarial: bool = typer.Option(False, "--adversarial", help="Half of each batch is moved by an attack."),
    augment: str = typer.Option("", help="none, jitter, wobble or crop-flip, instead of the protocol's."),
    learning_rate: float | None = typer.Option(None, help="The highest, instead of the protocol's."),
    average_decay: float | None = typer.Option(None, help="Of the moving average of the weights; 0: none."),
    sizes: str = typer.Option("", help="Smaller images first: '8x16 10x32' is 8 epochs at 16 x 16 pixels, then 10."),
    dropout: float | None = typer.Option(None, help="Of the convolutions of a DenseNet, instead of the protocol's."),
    init: str = typer.Option("torch", help="Of random weights and batch norms: torch, or glorot: as Keras has them."),
    precision: str = typer.Option("float32", help="float32, or bfloat16 where that is safe."),
    threads: int | None = typer.Option(None, min=1, help="Threads of PyTorch."),
    device: str = typer.Option("cpu", help="cpu or cuda."),
    out: Path | None = typer.Option(None, help="Run folder; one that was interrupted resumes. Default: runs/train/..."),
    carry: Path | None = typer.Option(None, help="Write the run so far to this folder, small, and train no further."),
    imports: list[str] = IMPORTS,
) -> None:
    """Train a network and write its weights; an interrupted run continues from its last checkpoint."""
    from .progress import loading

    with loading("PyTorch and the training"):
        from ..models.like import with_noise
        from ..models.networks import NETWORKS
        from ..models.train import keep_freed_memory, steps_of
        from ..models.train import train as run
        from ..models.weights import record_of
        from .train_own import check_outputs, digest_of, folder_of, on_chips, own_network, said_of

    import_own(imports, like, hardware)
    _check_named(network, model, bool(data or test_data or arg), list(NETWORKS))
    _prepare(device, threads)
    settings = None if hardware is None else _hardware(hardware, sigma_train, like)
    chosen = NETWORKS[network] if network else own_network(model, arg, data, test_data, like, sigma_train, adversarial)
    recipe = _recipe(
        network or model, chosen, sigma_train, noise, epochs, batch_size, seed, protocol, adversarial, sizes
    )
    name = "plain" if model else f"{'add-' if noise == 'add' else ''}sigma-{sigma_train}"
    start = _start(start, like, sigma_train, noise) if network else start
    given: dict[str, Any] = {"start": start, "precision": precision, "augment": augment}
    given |= {"learning_rate": learning_rate, "average_decay": average_decay, "model": model and said_of(model, arg)}
    given |= {"dropout": dropout, "init": init, "hardware": settings and f"{settings.name} {digest_of(settings)}"}
    recipe = replace(recipe, **{key: value for key, value in given.items() if value not in (None, "")})
    build = partial(_built, chosen.build, start, recipe)
    _check_start(build, recipe)
    with loading("the training set"):
        inputs, labels, source = chosen.load("train")
    recipe = replace(recipe, data=source)
    if like is not None:
        like_hardware, shares = _noise_like(like, build(), inputs, seed)
        name = f"like-{like_hardware.name}"
        recipe = replace(recipe, like=f"{like_hardware.name}: " + ", ".join(map(str, shares)))
        build = partial(lambda made, shares: with_noise(made(), shares), build, shares)
    if model:
        check_outputs(build, inputs, labels, seed)
    name = ("adv-" if adversarial else "") + (name if settings is None else f"through-{settings.name}")
    out = out or Path("runs/train") / (network or folder_of(model)) / name
    if carry is not None:
        _carry(out, carry)
        return
    keep_freed_memory()
    with loading("the test set"):
        test = chosen.load("test")[:2]
    said = _said(recipe, {"like": like, "data": data, "test-data": test_data, "hardware": hardware, "start": start})
    made = _made(network, said, recipe, protocol, device)
    made |= {"from": record_of(chosen.build.__name__, start)} if start and not model else {}
    steps = steps_of(len(inputs), recipe.batch_size)
    print(f"training: {recipe.epochs} epochs of {steps} steps, into {out}; the first step compiles", flush=True)
    with _progress(recipe.epochs * steps) as tell:
        through = None if settings is None else partial(_through, settings, inputs[:CALIBRATION])
        net = run(build, (inputs, labels), test, recipe, out, tell, device=device, through=through)
    stored = _store(net, _plain(net, build, recipe).to(device), out / name, made, test, half=not model)
    more: dict[str, Any] = {}
    if settings is not None:
        more["on_chips"] = on_chips(stored, settings, inputs[:CALIBRATION], test)
    more |= {"attacked": _attacked(stored, chosen, *test)} if adversarial else {}
    if more:
        _store(net, stored, out / name, made | more, None, half=not model)
    print(f"test accuracy {made['test_accuracy_as_stored']:.2%}; weights in {out / name}.safetensors")


def _built(build: Callable[..., nn.Module], start: str, recipe: Recipe) -> nn.Module:
    """The network before its training."""
    from ..models.densenet import set_dropout
    from ..models.keras import begin

    net = build(start or None, sigma_train=recipe.sigma_train, noise=recipe.noise)
    set_dropout(net, recipe.dropout)
    if recipe.init == "glorot":
        begin(net)
    return net


def _check_start(build: Callable[[], nn.Module], recipe: Recipe) -> None:
    """Raises ValueError where a network cannot begin so."""
    if recipe.init != "torch" and (recipe.model or recipe.start):
        raise ValueError(f"init must be 'torch' with --model and with --start or --like, got {recipe.init!r}")
    if recipe.dropout:
        build()


def _plain(net: nn.Module, build: Callable[[], nn.Module], recipe: Recipe) -> nn.Module:
    """Another network for the weights of a trained one, which are made fit for torch's batch norms."""
    from ..models.keras import end

    other = build()
    if recipe.init == "glorot":
        for each in (net, other):
            end(each)
    return other


def _carry(out: Path, carry: Path) -> None:
    """Write the run so far to another folder, and say so."""
    from ..models.run_folder import carry_run

    carry_run(out, carry)
    print(f"the run so far is in {carry}")


def _said(recipe: Recipe, given: dict[str, str | None]) -> str:
    """The options of a command that say what is trained, and with which noise."""
    noise = "" if recipe.model or given["like"] else f"--sigma-train {recipe.sigma_train} --noise {recipe.noise}"
    options = {"model": recipe.model, **given}
    return " ".join([*([noise] if noise else []), *(f"--{name} {value}" for name, value in options.items() if value)])


def _check_named(network: str, model: str, own: bool, known: list[str]) -> None:
    """Raises ValueError unless a known network or one of the user's own is named, with what belongs to it."""
    if bool(network) == bool(model):
        raise ValueError(f"train: name either a network ({', '.join(known)}) or your own by --model")
    if network and own:
        raise ValueError("--data, --test-data and --arg are for networks of your own (--model)")
    if network and network not in known:
        raise ValueError(f"network must be one of {', '.join(known)}, got {network!r}")


def _hardware(name: str, sigma_train: float, like: str | None) -> Hardware:
    """What is trained through."""
    from ..inputs import find_hardware

    if sigma_train or like is not None:
        raise ValueError("hardware: its chip brings the noise, so --sigma-train must be 0 and --like not given")
    return find_hardware(name)


def _through(settings: Hardware, calibrate: torch.Tensor, net: nn.Module) -> nn.Module:
    """What is trained in the place of a network."""
    from ..mapping.trainable.trainable import trainable

    device = next(parameter.device for parameter in net.parameters())
    return trainable(net, settings, calibrate=calibrate.to(device))


def _start(start: str, like: str | None, sigma_train: float, noise: str) -> str:
    """The weights to start from, if any."""
    from ..models.weights import kind_of

    if like is not None and sigma_train:
        raise ValueError(f"sigma_train must be 0 with like, which brings the noise, got {sigma_train}")
    if like is not None:
        start = start or "sigma-0.0"
    if start and kind_of(start) != noise:
        raise ValueError(f"start: {start!r} was trained with another kind of noise than {noise!r}")
    return start


def _noise_like(like: str, net: nn.Module, inputs: torch.Tensor, seed: int) -> tuple[Hardware, list[Share]]:
    """The hardware of this name or file, and the noise that each layer of the network has on it, which is told."""
    from ..inputs import find_hardware
    from ..mapping.convert import map as map_model
    from ..models.like import noise_of_chip

    hardware = find_hardware(like)
    print(f"measuring the noise of each layer on {hardware.name} ...", flush=True)
    shares = noise_of_chip(map_model(net, hardware, calibrate=inputs[:CALIBRATION], seed=seed), inputs)
    for share in shares:
        print(f"  {share.layer}: {share.add:.4f} ± {share.add_se:.1g} of its outputs, ", end="")
        print(f"{share.mult:.4f} ± {share.mult_se:.1g} of each (standard errors)", flush=True)
    return hardware, shares


def _prepare(device: str, threads: int | None) -> None:
    """Check that the device is there, and set the threads."""
    import torch

    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {device!r}")
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r}: torch {torch.__version__} finds no CUDA device here")
    if threads:
        torch.set_num_threads(threads)


def _store(
    net: nn.Module, empty: nn.Module, path: Path, made: dict[str, Any], test: Any, half: bool = True
) -> nn.Module:
    """Write weights and their record to `path`; returns the network `empty` with the weights as stored.

    `test` are inputs and labels that tell the accuracy of those, for the record; None where it is known.
    """
    import yaml

    from ..models.run_folder import LOG
    from ..models.train import evaluate
    from ..models.weights import load_saved, save_weights

    last = yaml.safe_load((path.parent / LOG).read_text(encoding="utf-8"))[-1]
    made["seconds"], made["test_accuracy"] = last["seconds"], last["test_accuracy"]
    save_weights(net, path.parent, path.name, made, half=half)
    stored = load_saved(empty, path.parent / f"{path.name}.safetensors")
    if test is not None:
        print("testing the stored weights ...", flush=True)
        made["test_accuracy_as_stored"] = evaluate(stored, *test)
        save_weights(net, path.parent, path.name, made, half=half)
    return stored


def _attacked(net: nn.Module, network: Network, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """Accuracy of a network on images made on itself, by one start of the attack that it should resist."""
    from dataclasses import asdict

    from ..models.attacks import pgd

    assert network.attack is not None
    attack = replace(network.attack, restarts=1)
    found = pgd(net, inputs[:ATTACKED], labels[:ATTACKED], attack)
    return {**asdict(attack), "images": len(found.fooled), "accuracy": 1 - float(found.fooled.double().mean())}


def _recipe(
    name: str,
    network: Network,
    sigma_train: float,
    noise: str,
    epochs: int | None,
    batch_size: int | None,
    seed: int,
    protocol: str,
    adversarial: bool,
    sizes: str,
) -> Recipe:
    from ..models.noise import Noise
    from ..models.train import sizes_of

    if protocol not in ("ours", "paper"):
        raise ValueError(f"protocol must be 'ours' or 'paper', got {protocol!r}")
    recipe: Recipe | None = network.paper if protocol == "paper" else network.ours
    if noise == "add" and protocol == "ours":
        recipe = network.additive or network.ours
    if adversarial:
        recipe = network.paper_adversarial if protocol == "paper" else network.adversarial
    if recipe is None:
        kind = "adversarial training" if adversarial and network.paper else "protocol of the paper"
        raise ValueError(f"network {name!r} has no {kind}")
    if sizes and epochs is None:
        epochs = len(sizes_of(sizes))
    if not sizes and epochs is None:
        sizes = recipe.sizes
    return replace(
        recipe,
        sizes=sizes,
        sigma_train=sigma_train,
        noise=Noise(cast("Literal['mult', 'add']", noise), sigma_train).kind,
        seed=seed,
        epochs=epochs or recipe.epochs,
        batch_size=batch_size or recipe.batch_size,
    )


def _progress(total: int) -> Any:
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def bar() -> Any:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, disable=not Console().is_terminal) as progress:
            task = progress.add_task("training", total=total)

            def tell(now: Any) -> None:
                done = now.epoch * now.steps + now.step + 1
                if done % SHOW_EVERY == 0 or now.accuracy is not None:
                    progress.update(task, completed=done, description=f"epoch {now.epoch + 1}, loss {now.loss:.3f}")
                if now.accuracy is not None:
                    progress.console.print(f"epoch {now.epoch + 1}: test accuracy {now.accuracy:.2%}")

            yield tell if progress.console.is_terminal else _Lines()

    return bar()


class _Lines:
    """Progress where no terminal shows a bar: a line a minute and after each epoch."""

    def __init__(self) -> None:
        import time

        self.clock, self.shown = time.monotonic, 0.0

    def __call__(self, now: Any) -> None:
        if now.accuracy is None and self.clock() - self.shown < LINE_EVERY_S:
            return
        self.shown = self.clock()
        if now.accuracy is None:
            print(f"epoch {now.epoch + 1}, step {now.step + 1} of {now.steps}: loss {now.loss:.3f}", flush=True)
        else:
            print(f"epoch {now.epoch + 1}: test accuracy {now.accuracy:.2%}", flush=True)


def _made(network: str, injected: str, recipe: Recipe, protocol: str, device: str) -> dict[str, Any]:
    """How weights are made: command, settings, versions, machine, date."""
    import os
    import platform
    from dataclasses import asdict
    from datetime import date

    import torch

    from .. import __version__

    return {
        "network": network,
        "command": f"mho train {network}{' ' if network else ''}{injected} --seed {recipe.seed}"
        f" --epochs {recipe.epochs} --batch-size {recipe.batch_size} --protocol {protocol}"
        f"{' --adversarial' if recipe.adversary else ''}"
        f" --learning-rate {recipe.learning_rate} --average-decay {recipe.average_decay}"
        f"{f' --sizes {recipe.sizes!r}' if recipe.sizes else ''}"
        f"{f' --dropout {recipe.dropout}' if recipe.dropout else ''}"
        f"{f' --init {recipe.init}' if recipe.init != 'torch' else ''}"
        f" --augment {recipe.augment} --precision {recipe.precision}"
        f" --threads {torch.get_num_threads()} --device {device}",
        "recipe": asdict(recipe),
        "versions": {"mho": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
        "machine": {
            "processor": torch.cuda.get_device_name(device) if device != "cpu" else _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "date": date.today().isoformat(),
    }


def _processor() -> str:
    import platform

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
