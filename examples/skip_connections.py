"""A deep, narrow network hardly learns; with a connection around every layer it does.

Each of fifty layers of 16 units mixes its inputs by a random matrix. The product of so many of
them keeps hardly more than one direction: whatever comes in, the last layer makes points near a
line of it, on which ten digits are hard to tell apart. With a skip connection, h + f(h), a layer
keeps what comes in and adds to it, so that what distinguishes the images arrives at the end.

Sources: He, Zhang, Ren and Sun, Deep residual learning for image recognition (2016); Saxe,
McClelland and Ganguli, Exact solutions to the nonlinear dynamics of learning in deep linear neural
networks (2014), for products of random matrices.
"""

import numpy as np

import fastnn as fnn

SEED = 0
(X, y), (X_test, y_test) = fnn.datasets.load_digits()


def stack(skip):
    """The images, and what fifty layers make of them."""
    images = fnn.Input(64)
    h = fnn.layers.Dense(16, "tanh")(fnn.layers.Rescaling(1 / 16)(images))
    for _ in range(50):
        f = fnn.layers.Dense(16, "tanh")(h)
        h = h + f if skip else f
    return images, h


def directions(skip):
    """How many of 16 directions hold 95% of the last layer's variance, with the initial weights."""
    model = fnn.Model(*stack(skip), seed=SEED)
    model.compile("mean_squared_error")  # which is not used
    values = model.predict(X_test).astype("float64")
    variance = np.linalg.svd(values - values.mean(axis=0), compute_uv=False) ** 2
    return 1 + int(np.sum(np.cumsum(variance) < 0.95 * np.sum(variance)))


def test_accuracy(skip, rate):
    images, h = stack(skip)
    model = fnn.Model(images, fnn.layers.Dense(10, "softmax")(h), seed=SEED)
    model.compile("cross_entropy", fnn.optimizers.SGD(rate), metrics="accuracy")
    model.fit(X, y, epochs=20, verbose=0)
    return model.evaluate(X_test, y_test)["accuracy"]


print("       before training: directions with  test accuracy at rate")
print("       95% of the last layer's variance  0.003  0.01  0.03")
needed, accuracy = {}, {}
for name, skip in {"plain": False, "skip": True}.items():
    needed[name] = directions(skip)
    accuracy[name] = [test_accuracy(skip, rate) for rate in (0.003, 0.01, 0.03)]
    low, middle, high = accuracy[name]
    print(f"{name:5}  {needed[name]:32}  {low:5.2f}  {middle:4.2f}  {high:4.2f}")

assert needed["plain"] <= 3 and needed["skip"] >= 5
assert max(accuracy["plain"]) < 0.6
assert min(accuracy["skip"]) > 0.75
