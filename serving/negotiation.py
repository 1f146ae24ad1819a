"""The weights by which a client prefers media types and encodings (RFC 9110, section 12.4.2)."""

from __future__ import annotations


def weights(header: str) -> dict[str, float]:
    """Return the weight of each lower-case element of the header Accept or Accept-Encoding.

    An element without a weight has 1, and one whose weight is not a number from 0 to 1 has 0.
    """
    found: dict[str, float] = {}
    for element in header.lower().split(","):
        name, *parameters = (part.strip() for part in element.split(";"))
        found[name] = _weight(parameters)
    return found


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                return 0.0
            return weight if 0 <= weight <= 1 else 0.0
    return 1.0
