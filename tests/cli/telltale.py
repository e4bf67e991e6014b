"""A sink that puts what it was given into its error."""

from __future__ import annotations


class Telltale:
    """Takes any options, and refuses them."""

    def __init__(self, **options: str) -> None:
        raise ValueError(f"cannot use {options} {' '.join(options.values())}")
