"""Between the user's arrays and the batch."""

from __future__ import annotations

from ..op import op


def _row_sizes(d, attrs, binding):
    return d["B"], d.get("F", 1), binding.first_row, *binding.layout


@op(
    "source[B,F]:feed -> x[B,F]",
    sizes=_row_sizes,
    constants=lambda attrs: (attrs["scale"], attrs["offset"]),
    uses_step=True,
    copies=lambda attrs: attrs["scale"] == 1 and attrs["offset"] == 0,
)
def gather(source, x, *, scale, offset, step):
    """x = scale source[order] + offset, in the model's number type"""
    x[...] = source[step.positions(len(x))]
    if scale != 1:
        x *= scale
    if offset:
        x += offset


@op(
    "source[B]:feed -> labels[B]:int32",
    sizes=_row_sizes,
    uses_step=True,
    copies=lambda attrs: True,
)
def gather_labels(source, labels, *, step):
    """labels = source[order]"""
    labels[...] = source[step.positions(len(labels))]


@op("y[B,F] -> out[B,F]:feed", sizes=_row_sizes, uses_step=True)
def store(y, out, *, step):
    """The rows of the batch, to their place in the result"""
    out[step.first : step.first + len(y)] = y
