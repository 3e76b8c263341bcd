"""Training longer than the validation loss improves is overfitting; early stopping ends it in time.

A large network can learn the noise of a few rows by heart: its training loss goes to 0 while its
loss on rows it has not seen falls first and rises again. Early stopping watches the latter and
goes back to the weights of the best epoch.

Sources: Prechelt, Early stopping - but when? (1998); Goodfellow, Bengio and Courville, Deep
Learning (2016), section 7.8.
"""

import numpy as np

import fastnn as fnn

SEED = 0
rng = np.random.default_rng(SEED)


def draw(rows):
    """Whether the first of ten numbers is positive, seen through noise."""
    X = rng.normal(size=(rows, 10))
    return X, (X[:, 0] + 0.8 * rng.normal(size=rows) > 0).astype(int)


training, validation, test = draw(60), draw(200), draw(2000)


def make():
    model = fnn.Sequential(
        [fnn.layers.Dense(128, "relu"), fnn.layers.Dense(1, "sigmoid")],
        seed=SEED,
    )
    model.compile("binary_cross_entropy", fnn.optimizers.Adam(0.003), metrics="accuracy")
    return model


options = {"epochs": 200, "validation_data": validation, "verbose": 0}

long = make()
history = long.fit(*training, **options).history

stopped = make()
stopping = fnn.callbacks.EarlyStopping("val_loss", patience=10, restore_best_weights=True)
stopped.fit(*training, callbacks=stopping, **options)

print("200 epochs       first   best   last")
for name in ("loss", "val_loss"):
    first, *_, last = history[name]
    print(f"{name:15} {first:6.3f} {min(history[name]):6.3f} {last:6.3f}")
print(
    f"stopped after epoch {stopping.stopped_epoch}, back to epoch {stopping.best_epoch} "
    "(counted from 0)"
)
losses = {
    name: (model.evaluate(*validation)["loss"], model.evaluate(*test)["loss"])
    for name, model in {"long": long, "stopped": stopped}.items()
}
for name, (on_validation, on_test) in losses.items():
    # The validation rows have chosen the epoch, so the fair judges are rows that did not.
    print(f"{name}: validation loss {on_validation:.3f}, test loss {on_test:.3f}")

assert history["loss"][-1] < 0.05  # learned by heart
assert history["val_loss"][-1] > 1.5 * min(history["val_loss"])
assert stopping.stopped_epoch is not None and stopping.stopped_epoch < 150
assert abs(losses["stopped"][0] - stopping.best) < 1e-5  # the best weights are back
assert losses["stopped"][1] < losses["long"][1] / 1.5
