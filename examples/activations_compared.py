"""Activation functions: how fast they learn, how rectifiers die and how sigmoids saturate.

Two hidden layers are trained on the bundled digits by plain gradient descent. Rectifiers and their
relatives learn much faster than the sigmoid, whose derivative is at most 1/4 and shrinks the
gradient in every layer; so does tanh, in a network as shallow as this one.

A relu unit that is below 0 for every example has no gradient and is dead; a leaky one recovers. A
sigmoid with large weights is saturated: it answers 0 or 1 to nearly everything, and its derivative
is nearly 0. fastnn.inspection.layer_statistics shows both.

Sources: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural
networks (2010); Glorot, Bordes and Bengio, Deep sparse rectifier neural networks (2011); Maas,
Hannun and Ng, Rectifier nonlinearities improve neural network acoustic models (2013).
"""

import fastnn as fnn
from fastnn import inspection

SEED = 0
(X, y), (X_test, y_test) = fnn.datasets.load_digits()


def make(activation, depth=1, **initializers):
    hidden = [fnn.layers.Dense(32, activation, **initializers) for _ in range(depth)]
    model = fnn.Sequential(
        [fnn.layers.Rescaling(1 / 16), *hidden, fnn.layers.Dense(10, "softmax")],
        seed=SEED,
    )
    model.compile("cross_entropy", fnn.optimizers.SGD(0.1), metrics="accuracy")
    return model


print("activation  training loss  test accuracy")
losses, accuracies = {}, {}
for activation in ("sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu"):
    model = make(activation, depth=2)
    losses[activation] = model.fit(X, y, epochs=20, verbose=0).history["loss"][-1]
    accuracies[activation] = model.evaluate(X_test, y_test)["accuracy"]
    print(f"{activation:10}  {losses[activation]:13.3f}  {accuracies[activation]:13.3f}")

# With a bias of -10 no example reaches any hidden unit.
dead, accuracy_after_bad_start = {}, {}
for activation in (fnn.activations.relu(), fnn.activations.leaky_relu(slope=0.1)):
    model = make(activation, bias_initializer=fnn.initializers.Constant(-10.0))
    model.fit(X, y, epochs=100, verbose=0)
    # Layer 0 rescales the pixels, layer 1 is the hidden one.
    name = activation.name
    dead[name] = inspection.layer_statistics(model, X, y).layers[1].dead
    accuracy_after_bad_start[name] = model.evaluate(X_test, y_test)["accuracy"]
    print(
        f"{activation} after a bad start: {dead[name]:.0%} of the hidden units dead, "
        f"test accuracy {accuracy_after_bad_start[name]:.3f}"
    )

saturated, gradient = {}, {}
for size in (0.1, 10.0):
    weights = fnn.initializers.Normal(stddev=size)
    model = make("sigmoid", kernel_initializer=weights)
    hidden = inspection.layer_statistics(model, X, y).layers[1]
    saturated[size], gradient[size] = hidden.saturated, hidden.gradient
    print(
        f"sigmoid with weights of about {size}: {saturated[size]:.0%} of its values saturated, "
        f"length of the gradient {gradient[size]:.4f}"
    )

for activation in ("tanh", "relu", "leaky_relu", "elu", "gelu"):
    assert accuracies[activation] > 0.9
    assert losses[activation] < losses["sigmoid"] / 3
assert dead["relu"] == 1 and accuracy_after_bad_start["relu"] < 0.2
assert dead["leaky_relu"] == 0 and accuracy_after_bad_start["leaky_relu"] > 0.8
assert gradient[10.0] < gradient[0.1] / 3
assert saturated[0.1] < 0.01 and saturated[10.0] > 0.6
