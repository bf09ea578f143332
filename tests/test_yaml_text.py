"""YAML read strictly: one line for what is wrong, little work for what explodes, no number that was not written."""

from __future__ import annotations

import pytest
import yaml

from mho import Hardware
from mho.crossbar.yaml_text import DEPTH, NODES, TEXT, parse_yaml, read_yaml
from mho.sweeps.file import Sweep

BOMB = "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10) if i else 'x, x, x, x, x, x, x, x, x, x'}]\n" for i in range(15)
)

REFUSED = {
    "repeated key": ("a: 1\nb: 2\na: 3\n", "the key 'a' stands there twice, line 3, column 1"),
    "repeated key below": ("a: {b: 1, b: 1}", "the key 'b' stands there twice"),
    "keys that are equal": ("1: a\n1.0: b", "the key 1.0 stands there twice"),
    "deep": ("[" * 500 + "]" * 500, f"nested more than {DEPTH} deep"),
    "deep in blocks": ("\n".join(" " * i + "a:" for i in range(500)), f"nested more than {DEPTH} deep"),
    "alias bomb": (BOMB, f"expands to more than {NODES} values"),
    "alias of itself": ("a: &a [*a]", r"\*a stands in itself"),
    "many values": ("a: [" + "1," * (NODES + 9) + "]", f"expands to more than {NODES} values"),
    "long text": ("a: " + "x" * TEXT, f"more than {TEXT} characters"),
    "long integer": ("a: " + "1" * 30, "a whole number of more than 64 bits, line 1, column 4"),
    "very long integer": ("a: -" + "9" * 6000, "a whole number of more than 64 bits"),
    "object": ("a: !!python/object/apply:os.getcwd []", "no plain value: tag:yaml.org,2002:python"),
    "date": ("a: !!timestamp 2001-01-01", "no plain value"),
    "binary": ("a: !!binary aGk=", "no plain value"),
    "set": ("a: !!set {b}", "no plain value"),
    "key of many parts": ("? [1, 2]\n: 3", "a key must be text or a number"),
    "number that is none": ("a: !!float x", "'x' is no float"),
    "hexadecimal number": ("a: !!int 0x10", "'0x10' is no int"),
    "half a surrogate pair": ('a: "\\ud800"', "surrogates not allowed"),
    "control character": ("a: \x00", "special characters are not allowed"),
    "two documents": ("a: 1\n---\nb: 2", "another document"),
    "not closed": ("a: [1", "expected ',' or ']'"),
    "merge of a number": ("a: {<<: 3}", "expected a mapping"),
}


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_told_in_one_line(text, said):
    with pytest.raises(ValueError, match=said) as caught:
        parse_yaml(text, "file.yaml")
    message = str(caught.value)
    assert type(caught.value) is ValueError
    assert message.startswith("file.yaml: not a YAML file (")
    assert message.isprintable()
    assert len(message) < 400


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", "010"),
        ("0x10", "0x10"),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("yes", "yes"),
        ("off", "off"),
        ("2001-01-01", "2001-01-01"),
        ("1e400", "1e400"),
        ("1e5", "1e5"),
        ("12", 12),
        ("-3", -3),
        ("1.5e+3", 1500.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("true", True),
        ("~", None),
        ("", None),
        ("'12'", "12"),
    ],
)
def test_values_are_what_they_look_like(text, value):
    got = parse_yaml(f"a: {text}", "text")["a"]
    assert got == value
    assert type(got) is type(value)


def test_aliases_and_merges_work():
    text = "a: &a {b: 1, c: [1, 2]}\nd: *a\ne: {<<: *a, b: 3}\n"
    assert parse_yaml(text, "text") == {
        "a": {"b": 1, "c": [1, 2]},
        "d": {"b": 1, "c": [1, 2]},
        "e": {"b": 3, "c": [1, 2]},
    }


def test_what_is_dumped_comes_back():
    value = {"a": ["yes", "010", "1e5", "1:30", "=", "<<", "~", "", "é", "x" * 500, 1e-15, 2.5e22, -3, True, None]}
    assert parse_yaml(yaml.safe_dump(value, allow_unicode=True), "text") == value


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: 1\na: 2\n", b"a: [1", BOMB.encode(), b"[" * 9000])
def test_all_files_are_read_so(content, tmp_path):
    """Hardware, sweeps, and whatever else is read by `read_yaml`."""
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    for reader in (Hardware.load, Sweep.read, lambda path: read_yaml(path, str(path))):
        with pytest.raises(ValueError, match=r"a\.yaml") as caught:
            reader(path)
        assert str(caught.value).isprintable()
