"""Package layout: the top-level folders are one import package, so `mho.crossbar` lives in `crossbar/`, and so on."""

from pathlib import Path

from setuptools import setup

FOLDERS = {
    "mho": "mho",
    "mho.commands": "mho/commands",
    "mho.sweeps": "mho/sweeps",
    "mho.crossbar": "crossbar",
    "mho.crossbar.backends": "crossbar/backends",
    "mho.crossbar.kernels": "crossbar/kernels",
    "mho.devices": "devices",
    "mho.mapping": "mapping",
    "mho.mapping.checkpoints": "mapping/checkpoints",
    "mho.mapping.architecture": "mapping/architecture",
    "mho.mapping.explaining": "mapping/explaining",
    "mho.mapping.torch_backend": "mapping/torch_backend",
    "mho.mapping.trainable": "mapping/trainable",
    "mho.mapping.voting": "mapping/voting",
    "mho.models": "models",
    "mho.models.data": "models/data",
    "mho.models.kernels": "models/kernels",
}

setup(
    name="mho",
    version="0.3.0",
    description="Neural networks on simulated analog crossbars: ReRAM, PCM, NAND tiles; noise, votes, schedule, cost",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=list(FOLDERS),
    package_dir=FOLDERS,
    package_data={
        "mho": ["py.typed"],
        "mho.crossbar": ["costs.yaml"],
        "mho.devices": ["presets/*"],
        "mho.models": ["weights/*/*"],
        "mho.models.data": ["mnist/*"],
    },
    install_requires=[
        "numpy>=1.26,<3",
        "numba>=0.60",
        "torch>=2.4,<3",
        "scipy>=1.11",
        "pyyaml>=6",
        "pydantic>=2.7,<3",
        "pandas>=2.2",
        "pyarrow>=15",
        "matplotlib>=3.8",
        "typer>=0.12",
        "rich>=13",
        "joblib>=1.5",
        "safetensors>=0.4.3",
    ],
    extras_require={
        "cluster": ["dask[distributed]>=2024.8", "ray>=2.10"],
        "hub": ["transformers>=5,<6"],
        "onnx": ["onnx>=1.18"],
        "search": ["optuna>=4"],
        "timm": ["timm>=1,<2"],
        # setuptools: the tests build a wheel, and `make lint` lays the package out under its import names
        "test": [
            "dask[distributed]>=2024.8",
            "foolbox>=3.3.4",
            "hypothesis>=6.100",
            "mypy>=1.11",
            "onnx>=1.18",
            "onnxruntime>=1.20; python_version >= '3.11'",
            "optuna>=4",
            "pandas-stubs>=2.2",
            "pytest>=8",
            "ray>=2.10",
            "ruff>=0.6",
            "setuptools>=77",
            "types-PyYAML>=6",
        ],
    },
    entry_points={"console_scripts": ["mho = mho.cli:main"]},
)
