"""All optimizers of fastnn in one narrow valley: momentum and adaptive steps find the way along it.

Linear regression in which one input varies twenty times less than the other. The loss is a valley,
steep across and nearly flat along. Gradient descent must keep its steps small enough for the steep
direction and hardly moves in the flat one. Momentum gathers speed along the valley; the adaptive
rules divide by the size of the gradient and step equally far in every direction.

No rule is the best everywhere. With a constant rate, RMSProp and Lion go on taking steps of that
length and end by hovering around the minimum, AdamW's decay holds the weights a little away from
it, and Adadelta, which needs no rate, starts slowly.

Give a path as argument to save a plot of the loss curves (needs matplotlib):

    python examples/optimizers_compared.py losses.png

Sources: Polyak, Some methods of speeding up the convergence of iteration methods (1964);
Goodfellow, Bengio and Courville, Deep Learning (2016), sections 8.2.1, 8.3.2 and 8.5. Each rule's
own source is in the docstring of its class in fastnn.optimizers.
"""

import sys

import numpy as np

import fastnn as fnn

SEED = 0
rng = np.random.default_rng(SEED)
X = rng.normal(size=(200, 2)) * [1.0, 0.05]
y = X @ [1.0, 4.0]

# Learning rates that suit this problem.
RATES = {
    "sgd": 0.3, "momentum": 0.3, "nesterov": 0.3, "adagrad": 0.3, "rmsprop": 0.01, "adadelta": 1.0,
    "adam": 0.1, "amsgrad": 0.1, "adamax": 0.1, "nadam": 0.1, "adamw": 0.1, "lion": 0.1,
}  # fmt: skip

print("optimizer    rate  loss after 30 updates  after 100  after 300")
curves = {}
for name, optimizer in fnn.optimizers.OPTIMIZERS.items():
    start = fnn.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = fnn.Sequential([start], seed=SEED)
    rate = RATES.get(name, 0.01)
    model.compile("mean_squared_error", optimizer(rate), dtype="float64")
    # One batch of all rows: one update an epoch, and no noise.
    history = model.fit(X, y, batch_size=len(X), epochs=300, verbose=0)
    losses = curves[name] = history.history["loss"]
    print(f"{name:10}  {rate:5}  {losses[29]:21.1e}  {losses[99]:9.1e}  {losses[299]:9.1e}")

if len(sys.argv) > 1:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is not installed")
    else:
        axes = Figure(layout="constrained").add_subplot(xlabel="update", ylabel="loss")
        for name, losses in curves.items():
            axes.semilogy(losses, label=name)
        axes.legend(ncols=2)
        axes.figure.savefig(sys.argv[1])
        print(f"plot saved as {sys.argv[1]}")

for losses in curves.values():
    assert losses[-1] < losses[0] / 10  # all of them learn
plain = curves["sgd"][-1]
for name in ("momentum", "nesterov", "adagrad", "adam", "amsgrad", "adamax", "nadam", "adamw"):
    assert curves[name][-1] < plain / 100
