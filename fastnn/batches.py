"""Batches that a user brings along, one after the other, as ``Model.fit_batches`` takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from operator import length_hint
from typing import Any

from . import checks


class Batches:
    """The batches of each epoch, from an iterable, an iterator, or an object with indices.

    Attributes
    ----------
    total
        Steps of all epochs, as far as they are known; else 0.
    step
        The step that is trained, from 0.
    """

    def __init__(self, batches: Any, epochs: int, steps_per_epoch: int | None) -> None:
        self._indexed = not isinstance(batches, Iterable)
        if self._indexed and not (hasattr(batches, "__getitem__") and hasattr(batches, "__len__")):
            raise TypeError(
                f"batches: expected an iterable of (X, y) or (X, y, sample_weight), got {batches!r}"
            )
        if steps_per_epoch is not None:
            checks.positive_int("steps_per_epoch", steps_per_epoch)
        elif isinstance(batches, Iterator) and epochs > 1:
            raise ValueError(
                "steps_per_epoch: expected the number of batches of an epoch, because a "
                f"{type(batches).__name__} cannot start anew in each of {epochs} epochs, got None"
            )
        self._batches, self._steps = batches, steps_per_epoch
        self.total = (steps_per_epoch or length_hint(batches)) * epochs
        self.step = -1

    def epoch(self, epoch: int) -> Iterator[tuple[str, Any]]:
        """The batches of one epoch, each with its name for messages."""
        number = -1
        for number, batch in enumerate(islice(self._start(), self._steps)):
            self.step += 1
            yield f"batches[{number}]", batch
        expected = self._steps or 1
        if number + 1 < expected:
            raise ValueError(
                f"batches: expected {expected} or more in epoch {epoch}, but they ended after "
                f"{number + 1}"
            )

    def _start(self) -> Iterator[Any]:
        if self._indexed:
            return (self._batches[i] for i in range(len(self._batches)))
        return iter(self._batches)
