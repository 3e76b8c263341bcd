"""Hidden units that start equal stay equal: weights need random initial values.

With all weights 0, every hidden unit computes the same, gets the same gradient and takes the same
step. Training does change the weights, but 32 equal units are worth no more than one. Random
weights, such as Glorot's, break the symmetry.

Sources: Goodfellow, Bengio and Courville, Deep Learning (2016), section 8.4; Glorot and Bengio,
Understanding the difficulty of training deep feedforward neural networks (2010).
"""

import numpy as np

import fastnn as fnn

SEED = 0
(X, y), (X_test, y_test) = fnn.datasets.load_digits()

spread, change, accuracy = {}, {}, {}
for initializer in ("zeros", "glorot_uniform"):
    model = fnn.Sequential(
        [
            fnn.Input(64),
            fnn.layers.Rescaling(1 / 16),
            fnn.layers.Dense(32, "sigmoid", kernel_initializer=initializer),
            fnn.layers.Dense(10, "softmax", kernel_initializer=initializer),
        ],
        seed=SEED,
    )
    model.compile("cross_entropy", fnn.optimizers.Adam(0.01), metrics="accuracy")
    W, *_ = model.get_weights()  # of the hidden layer: one column for each unit
    before = W.copy()
    model.fit(X, y, epochs=30, verbose=0)

    # How far apart the 32 units' weights for the same pixel are.
    spread[initializer] = np.ptp(W, axis=1).mean()
    change[initializer] = np.abs(W - before).mean()
    accuracy[initializer] = model.evaluate(X_test, y_test)["accuracy"]
    print(
        f"{initializer}: weights changed by {change[initializer]:.2f} on average, "
        f"units differ by {spread[initializer]:.2f}, "
        f"test accuracy {accuracy[initializer]:.3f}"
    )

assert change["zeros"] > 0.01  # it did learn something
assert spread["zeros"] < 1e-3 < 1 < spread["glorot_uniform"]
assert accuracy["zeros"] < 0.6
assert accuracy["glorot_uniform"] > 0.93
