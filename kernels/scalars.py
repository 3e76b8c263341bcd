"""Every pointwise formula and update rule, each written once.

The build translates these functions into Cython (see ``aot/translate.py``), so they keep to what
every compiler here understands: arithmetic, comparisons, ``a if condition else b``, assignments to
local names, and the functions imported below. Comparisons are arranged so that NaN passes through:
a NaN must reach the loss, where it is detected, and not be turned into zero on its way.
"""

from math import exp, expm1, log, log1p, sqrt, tanh

from .formula import activation, loss, optimizer, schedule

# ---------------------------------------------------------------------------- activations


@activation("the linear unit")
def identity(x):
    """f(x) = x"""
    return x


@identity.derivative
def _(x, y):
    return 1.0


@activation("Rosenblatt, The perceptron, Psychological Review 65 (1958)")
def heaviside(x):
    """f(x) = 1 for x >= 0, else 0; the derivative is 0 wherever it exists"""
    return 1.0 if x >= 0.0 else (0.0 if x < 0.0 else x)


@heaviside.derivative
def _(x, y):
    return 0.0


@activation("Rumelhart, Hinton & Williams, Nature 323 (1986)")
def sigmoid(x):
    """f(x) = 1 / (1 + exp(-x))"""
    return 1.0 / (1.0 + exp(-x))


@sigmoid.derivative
def _(x, y):
    return y * (1.0 - y)


@activation("LeCun et al., Efficient BackProp (1998)")
def tanh_(x):
    """f(x) = tanh(x)"""
    return tanh(x)


@tanh_.derivative
def _(x, y):
    return 1.0 - y * y


@activation("Nair & Hinton, Rectified linear units improve RBMs, ICML 2010")
def relu(x):
    """f(x) = max(x, 0); the derivative at 0 is 0"""
    return 0.0 if x < 0.0 else x


@relu.derivative
def _(x, y):
    return 1.0 if y > 0.0 else 0.0


@activation("Maas, Hannun & Ng, Rectifier nonlinearities, ICML 2013", limits={"slope": 0.0})
def leaky_relu(x, slope=0.01):
    """f(x) = x for x > 0, else slope * x; the derivative at 0 is slope"""
    return x if x > 0.0 else slope * x


@leaky_relu.derivative
def _(x, y, slope):
    return 1.0 if y > 0.0 else slope


@activation("Clevert, Unterthiner & Hochreiter, ELU, ICLR 2016", limits={"alpha": 0.0})
def elu(x, alpha=1.0):
    """f(x) = x for x > 0, else alpha * (exp(x) - 1); the derivative at 0 is alpha"""
    return x if x > 0.0 else alpha * expm1(x)


@elu.derivative
def _(x, y, alpha):
    return 1.0 if y > 0.0 else y + alpha


# ---------------------------------------------------------------------------- losses


@loss("Bishop, Pattern Recognition and Machine Learning, section 3.1.1")
def squared_error(y, t):
    """l(y, t) = (y - t)^2"""
    return (y - t) * (y - t)


@squared_error.derivative
def _(y, t):
    return 2.0 * (y - t)


@loss("Bishop, Pattern Recognition and Machine Learning, section 1.5.5")
def absolute_error(y, t):
    """l(y, t) = |y - t|; the derivative at y = t is 0"""
    return y - t if y > t else t - y


@absolute_error.derivative
def _(y, t):
    return 1.0 if y > t else (-1.0 if y < t else y - t)


@loss("Bishop, Pattern Recognition and Machine Learning, section 4.3.2", domain=(0.0, 1.0))
def binary_cross_entropy(y, t):
    """l(y, t) = -t log y - (1 - t) log(1 - y), y first clipped to [1e-7, 1 - 1e-7]"""
    p = 1e-7 if y < 1e-7 else (1.0 - 1e-7 if y > 1.0 - 1e-7 else y)
    return -t * log(p) - (1.0 - t) * log(1.0 - p)


@binary_cross_entropy.derivative
def _(y, t):
    p = 1e-7 if y < 1e-7 else (1.0 - 1e-7 if y > 1.0 - 1e-7 else y)
    return (p - t) / (p * (1.0 - p))


@loss("Bishop, Pattern Recognition and Machine Learning, section 4.3.2, on logits")
def sigmoid_cross_entropy(y, t):
    """l(z, t) = max(z, 0) - z t + log(1 + exp(-|z|)), the binary cross-entropy of sigmoid(z)"""
    magnitude = y if y > 0.0 else -y
    return (y if y > 0.0 else 0.0) - y * t + log1p(exp(-magnitude))


@sigmoid_cross_entropy.derivative
def _(y, t):
    return 1.0 / (1.0 + exp(-y)) - t


@loss("the share of outputs on the right side of a threshold; a metric, without derivative")
def binary_match(y, t, threshold):
    """l(y, t) = 1 if (y > threshold) equals (t > 1/2), else 0"""
    return (1.0 if t > 0.5 else 0.0) if y > threshold else (0.0 if t > 0.5 else 1.0)


# ---------------------------------------------------------------------------- optimizers


@optimizer("Robbins & Monro, A stochastic approximation method (1951)")
def sgd(w, g, rate):
    """w <- w - rate g"""
    return w - rate * g


@optimizer("Polyak, Some methods of speeding up the convergence (1964)", state=("velocity",))
def momentum(w, g, velocity, rate, mu):
    """v <- mu v - rate g; w <- w + v"""
    v = mu * velocity - rate * g
    return w + v, v


@optimizer("Nesterov (1983); Sutskever et al., ICML 2013", state=("velocity",))
def nesterov(w, g, velocity, rate, mu):
    """v <- mu v - rate g; w <- w + mu v - rate g"""
    v = mu * velocity - rate * g
    return w + mu * v - rate * g, v


@optimizer("Duchi, Hazan & Singer, JMLR 12 (2011)", state=("accumulator",))
def adagrad(w, g, accumulator, rate, epsilon):
    """r <- r + g^2; w <- w - rate g / (sqrt(r) + epsilon)"""
    r = accumulator + g * g
    return w - rate * g / (sqrt(r) + epsilon), r


@optimizer(
    "Tieleman & Hinton, Coursera lecture 6.5 (2012)", state=("mean_square",), constants=("gain",)
)
def rmsprop(w, g, mean_square, rate, rho, epsilon, gain):
    """r <- rho r + (1 - rho) g^2; w <- w - rate g / (sqrt(r) + epsilon)"""
    r = rho * mean_square + gain * g * g
    return w - rate * g / (sqrt(r) + epsilon), r


@rmsprop.per_step
def _(step, rho, epsilon):
    return (1.0 - rho,)


@optimizer(
    "Kingma & Ba, Adam, ICLR 2015, algorithm 1",
    state=("mean", "mean_square"),
    constants=("gain1", "gain2", "correction", "square_correction"),
)
def adam(
    w,
    g,
    mean,
    mean_square,
    rate,
    beta1,
    beta2,
    epsilon,
    gain1,
    gain2,
    correction,
    square_correction,
):
    """m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2; w <- w - rate m^ / (sqrt(v^) + epsilon)"""
    m = beta1 * mean + gain1 * g
    v = beta2 * mean_square + gain2 * g * g
    return w - rate * correction * m / (sqrt(square_correction * v) + epsilon), m, v


@adam.per_step
def _(step, beta1, beta2, epsilon):
    # In float32, 1 - 0.999 from a rounded 0.999 is off by 1e-5: it is computed here, in double.
    return 1.0 - beta1, 1.0 - beta2, 1.0 / (1.0 - beta1**step), 1.0 / (1.0 - beta2**step)


# ---------------------------------------------------------------------------- schedules


@schedule("the same rate at every step")
def constant(step, rate):
    """rate(k) = rate"""
    return rate


@schedule("Goodfellow, Bengio & Courville, Deep Learning, equation 8.14")
def linear_decay(step, rate, final_rate, decay_steps):
    """rate(k) = (1 - a) rate + a final_rate with a = min(k / decay_steps, 1)"""
    a = step / decay_steps if step < decay_steps else 1.0
    return (1.0 - a) * rate + a * final_rate
