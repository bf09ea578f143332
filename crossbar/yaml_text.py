"""YAML that people write, read strictly: every fault is one line, and no text takes more than a bounded amount of work.

Refused are repeated keys, nesting beyond `DEPTH`, texts beyond `TEXT` characters, aliases that expand to more than
`NODES` values, whole numbers beyond 64 bits, and what is no plain value (dates, sets, binary, objects). Numbers are
decimal: `010`, `0x10`, `1_000` and `1:30` are text here, which YAML 1.1 would take for 8, 16, 1000 and 90, and so are
`yes` and `off`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

TEXT = 1_000_000  # characters
DEPTH = 50
NODES = 50_000  # values, those of an alias counted each time

_RESOLVED = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+][0-9]+)?|\.[0-9]+(?:[eE][-+][0-9]+)?)", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
)
_MERGE = "tag:yaml.org,2002:merge"
_WRITTEN = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "null")}
_KINDS = _WRITTEN | {_MERGE} | {f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")}


class _Loader(yaml.SafeLoader):
    """The safe loader of PyYAML, which stops where `yaml_text` says."""

    def __init__(self, text: str, nodes: int) -> None:
        super().__init__(text)
        self.depth, self.nodes = 0, nodes
        self.sizes: dict[int, int] = {}  # of complete nodes, expanded

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if self.depth > DEPTH:
            self._refuse(f"nested more than {DEPTH} deep", event)
        self.depth += 1
        node: Any = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self.sizes:
                self._refuse(f"*{event.anchor} stands in itself", event)
            return node
        if node.tag not in _KINDS:
            self._refuse(f"no plain value: {node.tag}", event)
        children = node.value
        if isinstance(node, yaml.ScalarNode):
            children = []
            self._check_scalar(node)
        elif isinstance(node, yaml.MappingNode):
            self._check_keys(node)
            children = [part for pair in node.value for part in pair]
        size = 1 + sum(self.sizes[id(child)] for child in children)
        if size > self.nodes or len(self.sizes) > self.nodes:
            self._refuse(f"expands to more than {self.nodes} values", event)
        self.sizes[id(node)] = size
        return node

    def _check_scalar(self, node: Any) -> None:
        if node.tag in _WRITTEN and self.resolve(yaml.ScalarNode, node.value, (True, False)) != node.tag:
            self._refuse(f"{node.value[:80]!r} is no {node.tag.rpartition(':')[2]}", node)
        if not node.value.isascii():
            node.value.encode()  # lone halves of a surrogate pair are no text

    def _check_keys(self, node: Any) -> None:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._refuse("a key must be text or a number", key)
            name = "<<" if key.tag == _MERGE else self.construct_object(key)
            if name in seen:
                self._refuse(f"the key {name!r} stands there twice", key)
            seen.add(name)

    def construct_yaml_int(self, node: Any) -> int:
        digits = self.construct_scalar(node)
        if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
            self._refuse("a whole number of more than 64 bits", node)
        return int(digits)

    @staticmethod
    def _refuse(what: str, at: Any) -> None:
        raise yaml.MarkedYAMLError(problem=what, problem_mark=at.start_mark)


_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in _RESOLVED:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def parse_yaml(text: str, where: str, *, larger: int = 1) -> Any:
    """What a YAML text holds: dicts, lists, text, numbers, truth values and None.

    Args:
        where: names the text in errors.
        larger: how many times the bounds of characters and values a text may have that no person wrote.

    Raises:
        ValueError: in one line, what is wrong and where.
    """
    if len(text) > larger * TEXT:
        raise ValueError(f"{where}: not a YAML file (more than {larger * TEXT} characters)")
    try:
        loader = _Loader(text, larger * NODES)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError, AttributeError, LookupError) as error:
        raise ValueError(f"{where}: not a YAML file ({_told(error)})") from error


def read_yaml(path: str | Path, where: str) -> Any:
    """`parse_yaml` of a file in UTF-8.

    Raises:
        ValueError: as there, or a file that cannot be read.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(TEXT + 1)
    except TypeError:
        raise ValueError(f"{where}: expected a path, got {type(path).__name__}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{where}: {getattr(error, 'strerror', None) or error}") from error
    return parse_yaml(text, where)


def _told(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return " ".join(f"{error.problem}, line {mark.line + 1}, column {mark.column + 1}".split())
    return "nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())[:300]
