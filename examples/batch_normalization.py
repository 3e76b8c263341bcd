"""With batch normalization a deep network learns at many more learning rates.

Six hidden layers are trained on the bundled digits with rates from 0.001 to 30. Without
normalization most rates are too low or too high: signals and gradients shrink or grow from layer to
layer, and a step that suits one layer does not suit another. With it, every layer sees inputs of
the same size, and its output does not depend on the length of its weights: too long a step
lengthens them, and makes the next one shorter in proportion.

Sources: Ioffe and Szegedy, Batch normalization (2015); Bjorck, Gomes, Selman and Weinberger,
Understanding batch normalization (2018).
"""

import fastnn as fnn

SEED = 0
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
ENOUGH = 0.9
(X, y), (X_test, y_test) = fnn.datasets.load_digits()


def hidden(normalized):
    """A layer; between the products and the activation, its values are normalized."""
    between = [fnn.layers.BatchNormalization()] if normalized else []
    return [fnn.layers.Dense(32), *between, fnn.layers.Activation("relu")]


def test_accuracy(rate, normalized):
    layers = [layer for _ in range(6) for layer in hidden(normalized)]
    model = fnn.Sequential(
        [fnn.layers.Rescaling(1 / 16), *layers, fnn.layers.Dense(10, "softmax")],
        seed=SEED,
    )
    model.compile("cross_entropy", fnn.optimizers.SGD(rate), metrics="accuracy")
    try:
        model.fit(X, y, epochs=20, verbose=0)
    except fnn.NonFiniteLoss:  # far too high a rate
        return 0.0
    return model.evaluate(X_test, y_test)["accuracy"]


print("test accuracy after 20 epochs (0 where the loss became infinite)")
print("  rate  plain  normalized")
good = {False: [], True: []}
for rate in RATES:
    accuracy = {normalized: test_accuracy(rate, normalized) for normalized in (False, True)}
    for normalized, reached in accuracy.items():
        if reached > ENOUGH:
            good[normalized].append(rate)
    print(f"{rate:6}  {accuracy[False]:5.2f}  {accuracy[True]:10.2f}")
for normalized, name in ((False, "plain"), (True, "normalized")):
    print(f"{name}: {len(good[normalized])} of {len(RATES)} rates reach {ENOUGH}")

assert good[False]  # without normalization it is possible, too
assert len(good[True]) >= len(good[False]) + 2
assert max(good[True]) > 2 * max(good[False]) and min(good[True]) < min(good[False]) / 2
