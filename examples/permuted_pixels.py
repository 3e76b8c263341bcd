"""A fully connected network does not know which pixels are neighbours.

The pixels of all images are put into one other order, always the same: a person cannot read the
digits any more, but the network is as good as before, because each unit has a weight for each
pixel wherever it lies. With the rows of the first weights in the same order, even the training is
the same, step by step; with other random weights the accuracy is about the same.

Source: Goodfellow et al., An empirical investigation of catastrophic forgetting in gradient-based
neural networks (2013), which makes new tasks of MNIST in this way.
"""

import numpy as np

import fastnn as fnn

SEED = 0
(X, y), (X_test, y_test) = fnn.datasets.load_digits()
order = np.random.default_rng(SEED).permutation(64)

print("a digit, and the same with its pixels permuted:")
for row, permuted in zip(X[0].reshape(8, 8), X[0, order].reshape(8, 8), strict=True):
    print("   ".join("".join(" .:+#"[pixel // 4] for pixel in line) for line in (row, permuted)))


def make(seed):
    model = fnn.Sequential(
        [
            fnn.Input(64),
            fnn.layers.Rescaling(1 / 16),
            fnn.layers.Dense(64, "relu"),
            fnn.layers.Dense(10, "softmax"),
        ],
        seed=seed,
    )
    model.compile("cross_entropy", "adam", metrics="accuracy", dtype="float64")
    return model


plain = make(SEED)
same = make(SEED)
first, *others = plain.get_weights()
same.set_weights([first[order], *others])  # row i of W belongs to pixel i
other = make(SEED + 1)

plain.fit(X, y, epochs=30, verbose=0)
same.fit(X[:, order], y, epochs=30, verbose=0)
other.fit(X[:, order], y, epochs=30, verbose=0)

difference = np.abs(plain.predict(X_test) - same.predict(X_test[:, order])).max()
accuracy = plain.evaluate(X_test, y_test)["accuracy"]
accuracy_permuted = other.evaluate(X_test[:, order], y_test)["accuracy"]
unprepared = plain.evaluate(X_test[:, order], y_test)["accuracy"]
print(f"test accuracy on the images:          {accuracy:.3f}")
print(f"on permuted ones, other weights:      {accuracy_permuted:.3f}")
print(f"on permuted ones, weights permuted:   predictions differ by {difference:.1e}")
print(f"trained on images, tested permuted:   {unprepared:.3f}")

assert accuracy > 0.95 and accuracy_permuted > 0.95
assert abs(accuracy - accuracy_permuted) < 0.02
assert difference < 1e-6
assert unprepared < 0.5
