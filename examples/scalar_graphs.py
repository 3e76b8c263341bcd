"""Backpropagation on two small graphs of numbers, against derivatives by hand.

A graph of layers may be as simple as (x + y) z: a sum and a product. Going backward, a product
passes on the derivative times its other factor, a sum passes it on as it is, and a difference turns
the sign of what it subtracts. Where a value is used twice, as x2 in (x1 + x2) (x2 - x3), what comes
back on both ways is added.

Sources: Griewank and Walther, Evaluating Derivatives (2008), chapter 3; Rumelhart, Hinton and
Williams, Learning representations by back-propagating errors (1986).
"""

import numpy as np

import fastnn as fnn

SEED = 0


def value_and_derivatives(inputs, output, *numbers):
    """The graph's value for these numbers, and its derivative by each; arrays are many at once."""
    model = fnn.Model(inputs, output)
    model.compile("mean_squared_error", dtype="float64")  # the loss is not used
    columns = [np.reshape(n, (-1, 1)) for n in numbers]  # an example is a row
    derivatives = model.input_gradients(columns)
    return model.predict(columns)[:, 0], [d[:, 0] for d in derivatives]


x, y, z = (fnn.Input(1, name) for name in "xyz")
(value,), derivatives = value_and_derivatives([x, y, z], (x + y) * z, 1.0, -3.0, 4.0)
at_point = [float(d[0]) for d in derivatives]
print(f"(x + y) z at x = 1, y = -3, z = 4 is {value:g}")
for name, derivative, by_hand in zip("xyz", at_point, ("z", "z", "x + y"), strict=True):
    print(f"  derivative by {name}: {by_hand} = {derivative:g}")

# The other graph at a thousand random points, all in one pass.
x1, x2, x3 = inputs = [fnn.Input(1, name) for name in ("x1", "x2", "x3")]
a, b, c = np.random.default_rng(SEED).normal(size=(3, 1000))
values, found = value_and_derivatives(inputs, (x1 + x2) * (x2 - x3), a, b, c)
by_hand = {"x2 - x3": b - c, "(x2 - x3) + (x1 + x2)": (b - c) + (a + b), "-(x1 + x2)": -(a + b)}
gaps = []
print("(x1 + x2) (x2 - x3) at 1000 random points")
for symbol, derivative, (formula, right) in zip(inputs, found, by_hand.items(), strict=True):
    gaps.append(np.abs(derivative - right).max())
    print(f"  derivative by {symbol.name}: {formula}, off by at most {gaps[-1]:.1e}")

assert value == -8 and at_point == [4, 4, -2]
assert np.abs(values - (a + b) * (b - c)).max() < 1e-12
assert max(gaps) < 1e-12
