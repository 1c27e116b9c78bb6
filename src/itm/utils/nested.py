"""Read nested configurations by dotted names."""

from __future__ import annotations

from typing import Any


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested dicts by dotted names; lists and empty dicts are values.

    Examples:
        >>> flatten({"loss": {"margin": 0.2, "terms": []}, "seed": 0})
        {'loss.margin': 0.2, 'loss.terms': [], 'seed': 0}
    """
    if not isinstance(node, dict) or not node:
        return {prefix: node} if prefix else {}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
