"""Linear, logistic and softmax regression are networks of one layer; only the loss differs.

Least squares has a solution in closed form, and gradient descent arrives at it. For classes whose
points are normally distributed with the same spread, the true probabilities are a sigmoid or a
softmax of a linear function, so the weights that training should find are known, too. Several
yes-or-no questions at once ("multi-label") are as many logistic regressions side by side.

Source: Bishop, Pattern Recognition and Machine Learning (2006), sections 3.1, 4.2 and 4.3.
"""

import numpy as np

import fastnn as fnn

SEED = 0
rng = np.random.default_rng(SEED)


def train(layer, loss, X, y):
    """One layer, trained on all rows at once until nothing changes any more."""
    model = fnn.Sequential([layer], seed=SEED)
    schedule = fnn.schedules.CosineDecay(0.1, 0.0, decay_steps=2000)
    metrics = [] if loss == "mean_squared_error" else ["accuracy"]
    model.compile(loss, fnn.optimizers.Adam(schedule), metrics, dtype="float64")
    model.fit(X, y, batch_size=len(X), epochs=2000, verbose=0)
    return model


# Linear regression: a number as a linear function of three others, with noise.
X = rng.normal(size=(200, 3))
y = X @ [1.0, -2.0, 0.5] + 3.0 + rng.normal(0, 0.3, 200)
linear = train(fnn.layers.Dense(1), "mean_squared_error", X, y)
W, b = linear.get_weights()
exact = np.linalg.lstsq(np.c_[X, np.ones(200)], y, rcond=None)[0]
linear_gap = np.abs(np.append(W, b) - exact).max()
print(f"linear regression: weights {W[:, 0].round(3)}, off the exact solution by {linear_gap:.1e}")

# Logistic regression: two clouds around +c and -c; the true weights are 2 c.
centre = np.array([1.0, -0.5])
labels = rng.integers(0, 2, 4000)
X = rng.normal(size=(4000, 2)) + np.outer(2 * labels - 1, centre)
logistic = train(fnn.layers.Dense(1, "sigmoid"), "binary_cross_entropy", X, labels)
W, b = logistic.get_weights()
logistic_gap = np.abs(W[:, 0] - 2 * centre).max()
print(f"logistic regression: weights {W[:, 0].round(2)}, true ones {2 * centre}")

# Softmax regression: three clouds. Where they overlap, no classifier can be always right.
centres = np.array([[0.0, 2.0], [-1.5, -1.0], [1.5, -1.0]])
labels = rng.integers(0, 3, 4000)
X = rng.normal(size=(4000, 2)) + centres[labels]
softmax = train(fnn.layers.Dense(3, "softmax"), "cross_entropy", X, labels)
accuracy = softmax.evaluate(X, labels)["accuracy"]
nearest = ((X[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
best = (nearest == labels).mean()
print(f"softmax regression: accuracy {accuracy:.3f}, with the true centres {best:.3f}")

# Multi-label: "is it in the upper half?" and "is it on the right?", both answered with noise.
Y = (X[:, ::-1] + rng.normal(size=X.shape) > 0).astype(int)
both = train(fnn.layers.Dense(2, "sigmoid"), "binary_cross_entropy", X, Y)
alone = [train(fnn.layers.Dense(1, "sigmoid"), "binary_cross_entropy", X, t) for t in Y.T]
separate = np.hstack([model.predict(X) for model in alone])
label_gap = np.abs(both.predict(X) - separate).max()
right = both.evaluate(X, Y)["accuracy"]
print(f"multi-label: {right:.3f} of the answers right, {label_gap:.1e} from two separate models")

assert linear_gap < 1e-6
assert logistic_gap < 0.4
assert abs(accuracy - best) < 0.01
assert label_gap < 1e-3 and right > 0.75
