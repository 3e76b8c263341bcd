"""The perceptron rule finds a line wherever one exists; XOR has none and needs a second layer.

The perceptron looks at one example at a time and, where it answered wrongly, adds the example to
its weights or subtracts it. If a line with a margin separates the classes, it makes at most
(R / margin)^2 mistakes in all, where R is the length of the longest example.

Sources: Rosenblatt, The perceptron (1958); Novikoff, On convergence proofs on perceptrons (1962);
Minsky and Papert, Perceptrons (1969), for XOR.
"""

import numpy as np

import fastnn as fnn

SEED = 0


class StopWithoutMistakes(fnn.callbacks.Callback):
    """Counts the mistakes and ends the training after an epoch that made none."""

    def __init__(self, rows):
        self.rows = rows
        self.mistakes = 0
        self.converged = False

    def on_epoch_end(self, model, epoch, logs):
        # The accuracy of an epoch is over the answers that were given while it ran.
        self.mistakes += round((1 - logs["accuracy"]) * self.rows)
        self.converged = model.stop_training = logs["accuracy"] == 1


def train_perceptron(X, y, epochs):
    layer = fnn.layers.Dense(1, "heaviside", kernel_initializer="zeros")
    model = fnn.Sequential([layer], seed=SEED)
    model.compile("perceptron", fnn.optimizers.SGD(1.0), metrics="accuracy")
    stop = StopWithoutMistakes(len(X))
    model.fit(X, y, batch_size=1, epochs=epochs, callbacks=stop, verbose=0)
    return model, stop


# Points on both sides of a line, none of them closer to it than 0.05.
rng = np.random.default_rng(SEED)
X = rng.uniform(-1, 1, (400, 2))
normal, offset = np.array([0.6, -0.8]), 0.1
X = X[np.abs(X @ normal + offset) > 0.05]
y = (X @ normal + offset > 0).astype(int)

line, stop = train_perceptron(X, y, epochs=1000)
line_accuracy = line.evaluate(X, y)["accuracy"]
# The bias is one more weight, whose input is always 1.
longest = np.sqrt((X**2).sum(axis=1).max() + 1)
margin = np.abs(X @ normal + offset).min() / np.sqrt(1 + offset**2)
bound = (longest / margin) ** 2
print(
    f"a line exists: accuracy {line_accuracy:.2f} after {stop.mistakes} mistakes (<= {bound:.0f})"
)

X_xor = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "float32")
y_xor = np.array([0, 1, 1, 0])
perceptron, stop_xor = train_perceptron(X_xor, y_xor, epochs=1000)
one = perceptron.evaluate(X_xor, y_xor)["accuracy"]
print(f"XOR, one layer: accuracy {one:.2f}, {stop_xor.mistakes} mistakes in 1000 epochs")

network = fnn.Sequential(
    [fnn.layers.Dense(8, "tanh"), fnn.layers.Dense(1, "sigmoid")],
    seed=SEED,
)
network.compile("binary_cross_entropy", fnn.optimizers.Adam(0.05), metrics="accuracy")
network.fit(X_xor, y_xor, epochs=500, verbose=0)
two = network.evaluate(X_xor, y_xor)["accuracy"]
print(f"XOR, two layers: accuracy {two:.2f}, answers {network.predict(X_xor)[:, 0].round(2)}")

assert stop.converged and line_accuracy == 1
assert stop.mistakes <= bound
assert not stop_xor.converged and stop_xor.mistakes >= 1000 and one <= 0.75
assert two == 1
