"""Dropout and max-norm against overfitting, on a few digits with wrong labels among them.

Of 200 images 60 have a wrong label. A large network learns them all by heart and is then sure of
wrong answers. With dropout, every update trains another random half of the hidden units, so that
none can rely on the others: it fits the training images less well, and new ones better. A max-norm
constraint beside it keeps the weights of each unit from growing, as they do to fit the last wrong
labels, and helps once more.

Source: Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting (2014).
"""

import numpy as np

import fastnn as fnn

SEED = 0
(X, y), (X_test, y_test) = fnn.datasets.load_digits()

rng = np.random.default_rng(SEED)
rows = rng.choice(len(X), 200, replace=False)
X, y = X[rows], y[rows].copy()
wrong = rng.choice(200, 60, replace=False)
y[wrong] = (y[wrong] + rng.integers(1, 10, 60)) % 10  # any digit but the right one


def train(rate, constraint):
    """(loss, accuracy) on the training and on the test images."""
    model = fnn.Sequential(
        [
            fnn.layers.Rescaling(1 / 16),
            fnn.layers.Dropout(rate / 2),
            fnn.layers.Dense(256, "relu", kernel_constraint=constraint),
            fnn.layers.Dropout(rate),
            fnn.layers.Dense(256, "relu", kernel_constraint=constraint),
            fnn.layers.Dropout(rate),
            fnn.layers.Dense(10, "softmax", kernel_constraint=constraint),
        ],
        seed=SEED,
    )
    model.compile("cross_entropy", "adam", metrics="accuracy")
    model.fit(X, y, epochs=400, verbose=0)
    return [tuple(model.evaluate(*data).values()) for data in ((X, y), (X_test, y_test))]


results = {}
for name, options in {
    "plain": (0.0, None),
    "dropout": (0.5, None),
    "both": (0.5, fnn.constraints.MaxNorm(1.0)),
}.items():
    (loss, accuracy), (test_loss, test_accuracy) = results[name] = train(*options)
    print(
        f"{name:7}  training loss {loss:.3f}, accuracy {accuracy:.3f}; "
        f"test loss {test_loss:.3f}, accuracy {test_accuracy:.3f}"
    )

plain, dropout, both = results.values()
assert plain[0][1] > 0.99  # by heart, wrong labels included
assert dropout[1][0] < plain[1][0] / 1.3
assert plain[1][1] < dropout[1][1] < both[1][1]
assert both[1][1] > plain[1][1] + 0.05
