"""Learning rates: too low is slow, too high diverges, and a rate that decays ends lower.

The first part trains a network on the bundled digits with rates that differ by factors of a
hundred. The second part is a linear regression with noise. There, too high a rate multiplies the
error at every step, until the loss has left the range of floating-point numbers. At a good but
constant rate every batch pulls the weights its own way, for ever, around the minimum; a rate that
decays lets them settle.

Sources: Goodfellow, Bengio and Courville, Deep Learning (2016), sections 8.3.1 and 11.4.1; Robbins
and Monro, A stochastic approximation method (1951), for decaying rates.
"""

import numpy as np

import fastnn as fnn

SEED = 0
(X, y), _ = fnn.datasets.load_digits()

losses = {}
for name, rate in {"too low": 0.0005, "right": 0.05, "too high": 5.0}.items():
    model = fnn.Sequential(
        [
            fnn.layers.Rescaling(1 / 16),
            fnn.layers.Dense(64, "relu"),
            fnn.layers.Dense(10, "softmax"),
        ],
        seed=SEED,
    )
    model.compile("cross_entropy", fnn.optimizers.SGD(rate))
    try:
        model.fit(X, y, epochs=20, verbose=0)
        losses[name] = model.evaluate(X, y)["loss"]
    except fnn.NonFiniteLoss:
        losses[name] = np.inf
    print(f"rate {rate:6}, {name}: loss {losses[name]:.3f}")

# Linear regression with noisy targets: what the best weights leave over is the noise.
rng = np.random.default_rng(SEED)
X = rng.normal(size=(1000, 20))
y = X @ rng.normal(size=20) + rng.normal(size=1000)
best = np.linalg.lstsq(np.c_[X, np.ones(1000)], y, rcond=None)[0]
least = np.mean((np.c_[X, np.ones(1000)] @ best - y) ** 2)

above, diverged = {}, None
epochs, batch_size = 30, 10
steps = epochs * len(X) // batch_size
for name, rate in {
    "constant": 0.03,
    "too high": 1.0,
    "decaying": fnn.schedules.LinearDecay(0.03, 0.0003, decay_steps=steps),
}.items():
    model = fnn.Sequential([fnn.layers.Dense(1)], seed=SEED)
    model.compile("mean_squared_error", fnn.optimizers.SGD(rate))
    try:
        model.fit(X, y, batch_size=batch_size, epochs=epochs, verbose=0)
    except fnn.NonFiniteLoss as error:
        diverged = name
        print(f"{name} rate: {error}")
        continue
    above[name] = model.evaluate(X, y)["loss"] - least
    print(f"{name} rate: loss {above[name]:.5f} above the least possible {least:.3f}")

assert losses["right"] < 0.2
assert losses["too low"] > 5 * losses["right"]
assert losses["too high"] > 2  # ten classes by chance: log(10) = 2.3
assert diverged == "too high"
assert above["decaying"] < above["constant"] / 5
