"""Gradient checking: derivatives as training computes them, against differences of the loss.

A wrong derivative does not stop a network from learning; it only learns worse, which is hard to
notice. Moving one weight a little to either side and looking at the loss tells the derivative
without any calculus. Here it passes a model, and then finds an error that is planted in the
derivative of tanh: 1 - y instead of 1 - y^2.

Source: Bishop, Pattern Recognition and Machine Learning (2006), section 5.3.3.
"""

from unittest import mock

import numpy as np

import fastnn as fnn
from fastnn.checking import check_gradients
from fastnn.kernels.ref import REFERENCE

SEED = 0

# The idea by hand: the derivative of t^3 at t = 1 is 3.
step = 0.01
by_differences = ((1 + step) ** 3 - (1 - step) ** 3) / (2 * step)
print(f"derivative of t^3 at 1: 3, by differences with a step of {step}: {by_differences:.4f}")

rng = np.random.default_rng(SEED)
X, y = rng.normal(size=(20, 4)), rng.integers(0, 3, 20)
model = fnn.Sequential(
    [
        fnn.layers.Dense(8, "tanh", kernel_regularizer=fnn.regularizers.L2(0.01)),
        fnn.layers.Dropout(0.2),
        fnn.layers.Dense(3, "softmax"),
    ],
    seed=SEED,
)
# The backend "numpy" is the readable definition of every operation, in which errors can be planted.
model.compile("cross_entropy", backend="numpy")

right = check_gradients(model, X, y)
print(right)

tanh, _ = REFERENCE["activation"]["tanh"]
planted = {"tanh": (tanh, lambda x, y: 1 - y)}
with mock.patch.dict(REFERENCE["activation"], planted):  # undone at the end of the block
    wrong = check_gradients(model, X, y)
print()
print(wrong)

arrays = {entry.array for entry in wrong.wrong}
print(f"\nwrong: {', '.join(sorted(arrays))}; the layer behind the tanh is not affected")

assert abs(by_differences - 3.0001) < 1e-9
assert right.passed and right.worst[0].error < 1e-6
assert not wrong.passed and wrong.wrong[0].error > 0.01
assert arrays == {"dense_0.kernel", "dense_0.bias"}
assert check_gradients(model, X, y).passed
