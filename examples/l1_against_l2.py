"""L1 makes most weights zero; L2 makes all of them smaller.

Both penalties pull weights to zero. The pull of L2 is proportional to the weight and fades as it
becomes small, so that few weights arrive. That of L1 has the same strength everywhere: a weight
that does not lower the loss by more goes to zero. At the same accuracy, most weights of the network
with L1 can be cut off, and nothing changes.

Sources: Tibshirani, Regression shrinkage and selection via the lasso (1996); Goodfellow, Bengio and
Courville, Deep Learning (2016), sections 7.1.1 and 7.1.2.
"""

import numpy as np

import fastnn as fnn

SEED = 0
EPOCHS = 100
(X, y), (X_test, y_test) = fnn.datasets.load_digits()
updates = EPOCHS * -(-len(X) // 32)


def train(penalty):
    model = fnn.Sequential(
        [
            fnn.layers.Rescaling(1 / 16),
            fnn.layers.Dense(64, "relu", kernel_regularizer=penalty),
            fnn.layers.Dense(10, "softmax", kernel_regularizer=penalty),
        ],
        seed=SEED,
    )
    # A step along the slope of |w| may overshoot zero by its length, so steps become shorter.
    rate = fnn.schedules.LinearDecay(0.05, 0.0, decay_steps=updates)
    model.compile("cross_entropy", fnn.optimizers.Momentum(rate), metrics="accuracy")
    model.fit(X, y, epochs=EPOCHS, verbose=0)
    return model


print("penalty    weights below 0.001  test accuracy  without these weights")
small, accuracy, accuracy_cut = {}, {}, {}
for name, penalty in {
    "none": None,
    "L2": fnn.regularizers.L2(0.003),
    "L1": fnn.regularizers.L1(0.001),
}.items():
    model = train(penalty)
    accuracy[name] = model.evaluate(X_test, y_test)["accuracy"]
    kernels = model.get_weights()[::2]  # writing into these views changes the model
    cut = [np.abs(kernel) < 0.001 for kernel in kernels]
    small[name] = np.mean(np.concatenate([c.ravel() for c in cut]))
    for kernel, where in zip(kernels, cut, strict=True):
        kernel[where] = 0
    accuracy_cut[name] = model.evaluate(X_test, y_test)["accuracy"]
    print(f"{name:10} {small[name]:19.0%}  {accuracy[name]:13.3f}  {accuracy_cut[name]:21.3f}")

assert min(accuracy.values()) > 0.95
assert abs(accuracy["L1"] - accuracy["L2"]) < 0.02
assert abs(accuracy["L1"] - accuracy_cut["L1"]) < 0.01
assert small["L1"] > 0.8
assert small["none"] < 0.02 and small["L2"] < 0.2
