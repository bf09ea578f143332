"""The geometry of a layer as saved chips of format 3 hold it: linear layers and convolutions in one form."""

from __future__ import annotations

from typing import Any

from .convolution import Convolution
from .leaf import LEAVES, Leaf


def geometry(fields: dict[str, Any]) -> Leaf:
    """The geometry of these fields.

    Raises:
        ValueError: they fit no layer, or name a kind that there is not.
    """
    if "kind" in fields:
        return LEAVES[fields["kind"]].build(fields["spec"])
    dims, features = fields["dims"], {key: fields[key] for key in ("in_features", "out_features", "dtype")}
    if dims == 0:
        return LEAVES["linear"].build(features)
    sizes = {key: fields[key][3 - dims :] for key in ("kernel", "stride", "dilation")}
    rest = {key: fields[key] for key in ("groups", "padding", "padding_mode")}
    return LEAVES["convolution"].build(features | sizes | rest)


def fields_of(leaf: Leaf) -> dict[str, Any]:
    """The fields of a geometry; those of other kinds than the two are its own."""
    plain = leaf.describe()
    if leaf.kind not in ("linear", "convolution"):
        return {"kind": leaf.kind, "spec": plain}
    patches = leaf.patches
    triples = {"kernel": patches.kernel, "stride": patches.stride, "dilation": patches.dilation}
    padded = {"padding": leaf.padding, "padding_mode": leaf.padding_mode} if isinstance(leaf, Convolution) else {}
    features = {key: plain[key] for key in ("in_features", "out_features", "dtype")}
    rest = {"dims": leaf.dims, "groups": leaf.matrix_shape[0], "padding": (), "padding_mode": "constant"}
    return {**rest, **features, **triples, **padded}
