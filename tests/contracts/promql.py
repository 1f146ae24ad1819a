"""Checks expressions of PromQL against the samples that a server exports: their names, labels and kinds.

The subset of PromQL is what the files in `deploy` use. https://prometheus.io/docs/prometheus/latest/querying/basics has
the whole language.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<duration>\d+(?:ms|[smhdwy])|\$__\w+)|(?P<number>\d+(?:\.\d+)?)"""
    r"""|(?P<name>[a-zA-Z_:][\w:]*)|(?P<sign>=~|!~|!=|==|>=|<=|[-+*/%<>=(){}\[\],]))"""
)
LEVELS = (("or",), ("and", "unless"), ("==", "!=", ">", "<", ">=", "<="), ("+", "-"), ("*", "/", "%"))
"""The binary operators, from the loosest to the tightest."""
AGGREGATIONS = ("sum", "max", "min", "avg", "count")
TARGET_LABELS = frozenset({"job", "instance"})
"""The labels that Prometheus adds to every sample."""

Kind = Literal["counter", "bucket", "gauge"]


@dataclass(frozen=True)
class Value:
    """What an expression has as value: a scalar, or series with `labels`. `kind` is that of samples as they are."""

    labels: frozenset[str]
    kind: Kind | None = None
    is_scalar: bool = False
    is_range: bool = False


class PromQLError(Exception):
    """An expression is not valid, or asks for what is not exported."""


def check(text: str, samples: Mapping[str, tuple[Kind, frozenset[str]]]) -> tuple[Value, set[str]]:
    """Return the value of the expression `text`, and the names of the samples that it reads.

    `samples` has the kind and labels of each sample by its name.

    Raises:
        PromQLError: the expression is not valid for these samples.
    """
    parser = _Parser(text, samples)
    value = parser.binary(0)
    if parser.at < len(parser.tokens):
        raise parser.error(f"{parser.tokens[parser.at][1]!r} is left over")
    return value, parser.used


class _Parser:
    """A recursive-descent parser, which computes values instead of a tree."""

    def __init__(self, text: str, samples: Mapping[str, tuple[Kind, frozenset[str]]]) -> None:
        self.text, self.samples, self.at = text, samples, 0
        self.used: set[str] = set()
        self.tokens: list[tuple[str, str]] = []
        end, last = 0, len(text.rstrip())
        while end < last:
            match = TOKEN.match(text, end)
            if match is None:
                raise self.error(f"cannot read {text[end:]!r}")
            self.tokens.append((str(match.lastgroup), match[str(match.lastgroup)]))
            end = match.end()

    def error(self, reason: str) -> PromQLError:
        return PromQLError(f"{reason}, in {self.text}")

    def kind(self) -> str:
        """Return the kind of the next token."""
        return self.tokens[self.at][0] if self.at < len(self.tokens) else "end"

    def next(self, *wanted: str) -> bool:
        """Take the next token if it is one of `wanted`, and return whether it is."""
        found = self.at < len(self.tokens) and self.tokens[self.at][1] in wanted
        self.at += found
        return found

    def expect(self, text: str) -> None:
        if not self.next(text):
            raise self.error(f"{text!r} is missing after token {self.at}")

    def take(self, *kinds: str) -> str:
        """Take the next token, which must be of one of `kinds`, and return its text."""
        if self.kind() not in kinds:
            raise self.error(f"a {self.kind()} stands in the place of a {' or '.join(kinds)}")
        self.at += 1
        return self.tokens[self.at - 1][1]

    def binary(self, level: int) -> Value:
        """Parse an operation of `LEVELS[level]` or a tighter one."""
        if level == len(LEVELS):
            return self.unary()
        left = self.binary(level + 1)
        while self.next(*LEVELS[level]):
            on = self.names() if self.next("on") else None
            left = self.joined(left, self.binary(level + 1), on)
        return left

    def joined(self, left: Value, right: Value, on: frozenset[str] | None) -> Value:
        """Return the value of an operation on two values, whose series are matched by the labels `on`, or by all."""
        if left.is_range or right.is_range:
            raise self.error("a range is an operand")
        if left.is_scalar or right.is_scalar:
            return Value(left.labels | right.labels, is_scalar=left.is_scalar and right.is_scalar)
        if on is None and left.labels != right.labels:
            raise self.error(f"series with {sorted(left.labels)} never match those with {sorted(right.labels)}")
        if on is not None and not on <= left.labels & right.labels:
            raise self.error(f"on {sorted(on)} is not in the labels of both operands")
        return Value(left.labels if on is None else on)

    def unary(self) -> Value:
        if self.next("("):
            value = self.binary(0)
            self.expect(")")
            return value
        if self.kind() == "number":
            self.at += 1
            return Value(frozenset(), is_scalar=True)
        name = self.take("name")
        if name in AGGREGATIONS:
            return self.aggregation()
        return self.function(name) if self.next("(") else self.selector(name)

    def aggregation(self) -> Value:
        by = self.names() if self.next("by") else frozenset()
        self.expect("(")
        value = self.binary(0)
        self.expect(")")
        if value.is_scalar or value.is_range:
            raise self.error("an aggregation needs series of single values")
        if not by <= value.labels:
            raise self.error(f"by {sorted(by)} is not in the labels {sorted(value.labels)}")
        return Value(by, kind="bucket" if value.kind == "bucket" and "le" in by else None)

    def function(self, name: str) -> Value:
        """Parse the arguments of a function and return its value."""
        if name == "time":
            self.expect(")")
            return Value(frozenset(), is_scalar=True)
        if name == "histogram_quantile":
            share = float(self.take("number"))
            self.expect(",")
        value = self.binary(0)
        self.expect(")")
        if name in ("rate", "increase"):
            if not value.is_range or value.kind not in ("counter", "bucket"):
                raise self.error(f"{name} needs a range of a counter")
            return Value(value.labels, kind="bucket" if value.kind == "bucket" else None)
        if name == "histogram_quantile":
            if value.kind != "bucket" or not 0 < share < 1:
                raise self.error("histogram_quantile needs a share, and the rates of buckets with their label le")
            return Value(value.labels - {"le"})
        raise self.error(f"the function {name} is not known here")

    def selector(self, name: str) -> Value:
        if name not in self.samples:
            raise self.error(f"{name} is not exported")
        self.used.add(name)
        kind, labels = self.samples[name]
        labels |= TARGET_LABELS
        if self.next("{") and not self.next("}"):
            self.matcher(name, labels)
            while self.next(","):
                self.matcher(name, labels)
            self.expect("}")
        is_range = self.next("[")
        if is_range:
            self.take("duration")
            self.expect("]")
        if self.next("offset"):
            self.take("duration")
        return Value(labels, kind, is_range=is_range)

    def matcher(self, name: str, labels: frozenset[str]) -> None:
        label = self.take("name")
        if label not in labels:
            raise self.error(f"{name} has no label {label}")
        sign, text = self.take("sign"), self.take("string")
        if sign not in ("=", "!=", "=~", "!~"):
            raise self.error(f"{sign!r} does not compare labels")
        if sign in ("=~", "!~"):
            re.compile(re.sub(r"\$\w+", "x", text[1:-1]))

    def names(self) -> frozenset[str]:
        """Parse the labels in parentheses behind `by` or `on`."""
        self.expect("(")
        found = [self.take("name")]
        while self.next(","):
            found.append(self.take("name"))
        self.expect(")")
        return frozenset(found)
