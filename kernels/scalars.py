"""Every pointwise formula and update rule, each written once.

The build translates these functions into Cython (see ``aot/translate.py``), so they keep to what
every compiler here understands: arithmetic, comparisons, ``a if condition else b``, assignments to
local names, and the functions imported below. Comparisons are arranged so that NaN passes through:
a NaN must reach the loss, where it is detected, and not be turned into zero on its way.
"""

from math import cos, erf, exp, expm1, floor, inf, log, log1p, sqrt, tanh

from .formula import activation, loss, merge, optimizer, penalty, schedule

# ---------------------------------------------------------------------------- activations


@activation("Widrow & Hoff, Adaptive switching circuits (1960)")
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


@activation("Maas, Hannun & Ng, Rectifier nonlinearities, ICML 2013", slope=(0.0, inf))
def leaky_relu(x, slope=0.01):
    """f(x) = x for x > 0, else slope * x; the derivative at 0 is slope"""
    return x if x > 0.0 else slope * x


@leaky_relu.derivative
def _(x, y, slope):
    return 1.0 if y > 0.0 else slope


@activation("Clevert, Unterthiner & Hochreiter, ELU, ICLR 2016", alpha=(0.0, inf))
def elu(x, alpha=1.0):
    """f(x) = x for x > 0, else alpha * (exp(x) - 1); the derivative at 0 is alpha"""
    return x if x > 0.0 else alpha * expm1(x)


@elu.derivative
def _(x, y, alpha):
    return 1.0 if y > 0.0 else y + alpha


@activation("Klambauer, Unterthiner, Mayr & Hochreiter, Self-normalizing networks, NIPS 2017")
def selu(x):
    """f(x) = s x for x > 0, else s a (exp(x) - 1), with s = 1.0507 and a = 1.6733"""
    tail = 1.0507009873554805 * 1.6732632423543772 * expm1(x)
    return 1.0507009873554805 * x if x > 0.0 else tail


@selu.derivative
def _(x, y):
    return 1.0507009873554805 if y > 0.0 else y + 1.0507009873554805 * 1.6732632423543772


@activation("Dugas et al., Incorporating second-order functional knowledge, NIPS 2001")
def softplus(x):
    """f(x) = log(1 + exp(x)), computed as max(x, 0) + log(1 + exp(-|x|))"""
    return (0.0 if x < 0.0 else x) + log1p(exp(-x if x > 0.0 else x))


@softplus.derivative
def _(x, y):
    return -expm1(-y)


@activation("Hendrycks & Gimpel, Gaussian error linear units (2016)")
def gelu(x):
    """f(x) = x P(x), with P(x) = (1 + erf(x / sqrt(2))) / 2 of the normal distribution"""
    return 0.5 * x * (1.0 + erf(0.7071067811865476 * x))


@gelu.derivative
def _(x, y):
    return 0.5 * (1.0 + erf(0.7071067811865476 * x)) + 0.3989422804014327 * x * exp(-0.5 * x * x)


@activation("Hendrycks & Gimpel, Gaussian error linear units (2016), section 2")
def gelu_tanh(x):
    """f(x) = x / 2 (1 + tanh(u)), u = sqrt(2 / pi) (x + 0.044715 x^3), close to gelu"""
    # (1 + tanh(u)) / 2 is the sigmoid of z = 2 u, which loses nothing where it is near 0. The
    # exponential of 700 is nearly the largest number there is.
    z = 1.5957691216057308 * (x + 0.044715 * x * x * x)
    return 0.0 * x if z < -700.0 else x / (1.0 + exp(-z))


@gelu_tanh.derivative
def _(x, y):
    c = -12.0 if x < -12.0 else (12.0 if x > 12.0 else x)  # beyond, it is 0 or 1
    s = 1.0 / (1.0 + exp(-1.5957691216057308 * (c + 0.044715 * c * c * c)))
    return s + c * s * (1.0 - s) * 1.5957691216057308 * (1.0 + 3.0 * 0.044715 * c * c)


@activation("Elfwing, Uchibe & Doya (2017); Ramachandran, Zoph & Le, Swish (2017)")
def silu(x):
    """f(x) = x / (1 + exp(-x)); also called swish"""
    return x / (1.0 + exp(-x))


@silu.derivative
def _(x, y):
    s = 1.0 / (1.0 + exp(-x))
    return s + y * (1.0 - s)


@activation("Misra, Mish: a self regularized non-monotonic activation, BMVC 2020")
def mish(x):
    """f(x) = x tanh(log(1 + exp(x)))"""
    # tanh(log(1 + e)) = n / (n + 2) with n = e (e + 2); beyond 20 it is 1 to the last bit.
    e = exp(20.0 if x > 20.0 else x)
    return x * (e * (e + 2.0) / (e * (e + 2.0) + 2.0))


@mish.derivative
def _(x, y):
    e = exp(20.0 if x > 20.0 else x)
    rest = 2.0 / (e * (e + 2.0) + 2.0)
    return 1.0 - rest + x * (e / (1.0 + e)) * rest * (2.0 - rest)


@activation("Courbariaux, Bengio & David, BinaryConnect (2015); slope 1/6 as in PyTorch")
def hard_sigmoid(x):
    """f(x) = x / 6 + 1/2, clipped to [0, 1]; the derivative at the corners is 0"""
    return 0.0 if x < -3.0 else (1.0 if x > 3.0 else (x + 3.0) * (1.0 / 6.0))


@hard_sigmoid.derivative
def _(x, y):
    return (1.0 / 6.0 if y < 1.0 else 0.0) if y > 0.0 else 0.0


@activation("Collobert, Large scale machine learning (2004)")
def hard_tanh(x):
    """f(x) = x, clipped to [-1, 1]; the derivative at the corners is 0"""
    return -1.0 if x < -1.0 else (1.0 if x > 1.0 else x)


@hard_tanh.derivative
def _(x, y):
    return (1.0 if y < 1.0 else 0.0) if y > -1.0 else 0.0


@activation("Krizhevsky, Convolutional deep belief networks on CIFAR-10 (2010)")
def relu6(x):
    """f(x) = x, clipped to [0, 6]; the derivative at the corners is 0"""
    return 0.0 if x < 0.0 else (6.0 if x > 6.0 else x)


@relu6.derivative
def _(x, y):
    return (1.0 if y < 6.0 else 0.0) if y > 0.0 else 0.0


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


@loss(
    "Bishop, Pattern Recognition and Machine Learning, section 4.3.2",
    domain=(0.0, 1.0),
    targets="shares",
)
def binary_cross_entropy(y, t):
    """l(y, t) = -t log y - (1 - t) log(1 - y), y first clipped to [1e-7, 1 - 1e-7]"""
    p = 1e-7 if y < 1e-7 else (1.0 - 1e-7 if y > 1.0 - 1e-7 else y)
    return -t * log(p) - (1.0 - t) * log(1.0 - p)


@binary_cross_entropy.derivative
def _(y, t):
    p = 1e-7 if y < 1e-7 else (1.0 - 1e-7 if y > 1.0 - 1e-7 else y)
    return (p - t) / (p * (1.0 - p))


@loss("Bishop, Pattern Recognition and Machine Learning, section 4.3.2", targets="shares")
def sigmoid_cross_entropy(y, t):
    """l(z, t) = max(z, 0) - z t + log(1 + exp(-|z|)), the binary cross-entropy of sigmoid(z)"""
    magnitude = y if y > 0.0 else -y
    return (y if y > 0.0 else 0.0) - y * t + log1p(exp(-magnitude))


@sigmoid_cross_entropy.derivative
def _(y, t):
    return 1.0 / (1.0 + exp(-y)) - t


@loss("Huber, Robust estimation of a location parameter (1964)", delta=(0.0, inf))
def huber(y, t, delta=1.0):
    """l(y, t) = e^2 / 2 for |e| <= delta, else delta (|e| - delta / 2), with e = y - t"""
    size = y - t if y > t else t - y
    return 0.5 * size * size if size < delta else delta * (size - 0.5 * delta)


@huber.derivative
def _(y, t, delta):
    e = y - t
    return delta if e > delta else (-delta if e < -delta else e)


@loss("Keras and Chen et al., Log hyperbolic cosine loss improves VAEs (2018)")
def log_cosh(y, t):
    """l(y, t) = log(cosh(e)) with e = y - t"""
    # cosh(e) - 1 is (1 - exp(-e))^2 / (2 exp(-e)); far from 0, |e| - log(2) and a little.
    size = y - t if y > t else t - y
    near = 0.5 * expm1(-size) * expm1(-size) / exp(-1.0 if size > 1.0 else -size)
    return log1p(near) if size < 1.0 else size + log1p(exp(-2.0 * size)) - 0.6931471805599453


@log_cosh.derivative
def _(y, t):
    return tanh(y - t)


@loss("Koenker & Bassett, Regression quantiles, Econometrica 46 (1978)", quantile=(0.0, 1.0))
def quantile(y, t, quantile=0.5):
    """l(y, t) = q (t - y) for t >= y, else (1 - q) (y - t); the derivative at y = t is 0"""
    return (1.0 - quantile) * (y - t) if y > t else quantile * (t - y)


@quantile.derivative
def _(y, t, quantile):
    return 1.0 - quantile if y > t else (-quantile if y < t else y - t)


@loss("Nelder & Wedderburn, Generalized linear models (1972)", domain=(0.0, 10.0), targets="counts")
def poisson(y, t):
    """l(y, t) = y - t log y, y first raised to at least 1e-7"""
    rate = 1e-7 if y < 1e-7 else y
    return rate - t * log(rate)


@poisson.derivative
def _(y, t):
    return 1.0 - t / (1e-7 if y < 1e-7 else y)


@loss("Nelder & Wedderburn, Generalized linear models (1972)", targets="counts")
def log_poisson(y, t):
    """l(z, t) = exp(z) - t z, the Poisson loss of the rate exp(z)"""
    return exp(y) - t * y


@log_poisson.derivative
def _(y, t):
    return exp(y) - t


@loss(
    "Lin et al., Focal loss for dense object detection, ICCV 2017",
    domain=(0.0, 1.0),
    targets="shares",
    gamma=(0.0, inf),
    alpha=(0.0, 1.0),
)
def focal(y, t, gamma=2.0, alpha=0.25):
    """l(y, t) = -alpha t (1 - y)^gamma log y - (1 - alpha) (1 - t) y^gamma log(1 - y)"""
    p = 1e-7 if y < 1e-7 else (1.0 - 1e-7 if y > 1.0 - 1e-7 else y)
    yes = t * exp(gamma * log(1.0 - p)) * log(p)
    no = (1.0 - t) * exp(gamma * log(p)) * log(1.0 - p)
    return -alpha * yes - (1.0 - alpha) * no


@focal.derivative
def _(y, t, gamma, alpha):
    p = 1e-7 if y < 1e-7 else (1.0 - 1e-7 if y > 1.0 - 1e-7 else y)
    q = 1.0 - p
    yes = t * exp(gamma * log(q)) * (1.0 / p - gamma * log(p) / q)
    no = (1.0 - t) * exp(gamma * log(p)) * (1.0 / q - gamma * log(q) / p)
    return -alpha * yes + (1.0 - alpha) * no


@loss("Rosasco et al., Are loss functions all the same? (2004)", targets="signs")
def hinge(y, t):
    """l(y, t) = max(0, 1 - t y); the derivative at t y = 1 is 0"""
    margin = 1.0 - t * y
    return 0.0 if margin < 0.0 else margin


@hinge.derivative
def _(y, t):
    return -t if t * y < 1.0 else 0.0 * t * y


@loss("Rosasco et al., Are loss functions all the same? (2004)", targets="signs")
def squared_hinge(y, t):
    """l(y, t) = max(0, 1 - t y)^2"""
    margin = 1.0 - t * y
    return 0.0 if margin < 0.0 else margin * margin


@squared_hinge.derivative
def _(y, t):
    return -2.0 * t * (1.0 - t * y) if t * y < 1.0 else 0.0 * t * y


@loss("Bishop, Pattern Recognition and Machine Learning, section 4.1.7", targets="shares")
def perceptron(y, t):
    """l(z, t) = max(z, 0) - t z with t in {0, 1}: its derivative is heaviside(z) - t"""
    return (0.0 if y < 0.0 else y) - t * y


@perceptron.derivative
def _(y, t):
    return -t if y < 0.0 else 1.0 - t + 0.0 * y


@loss("Bishop, Pattern Recognition and Machine Learning, section 1.5.1; a metric")
def binary_match(y, t, threshold):
    """l(y, t) = 1 if (y > threshold) equals (t > 1/2), else 0"""
    return (1.0 if t > 0.5 else 0.0) if y > threshold else (0.0 if t > 0.5 else 1.0)


@loss("Kullback & Leibler, On information and sufficiency (1951)", (0.0, 1.0), "shares")
def kl_divergence(y, t):
    """l(p, t) = t log(t / p), 0 for t = 0; p first raised to at least 1e-7"""
    p = 1e-7 if y < 1e-7 else y
    return t * log((t if t > 0.0 else 1.0) / p)


@kl_divergence.derivative
def _(y, t):
    return -t / (1e-7 if y < 1e-7 else y)


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
    constants=("gain1", "gain2", "pace", "floor"),
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
    pace,
    floor,
):
    """m <- beta1 m + (1 - beta1) g; v <- beta2 v + (1 - beta2) g^2;
    w <- w - rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon) at update t"""
    m = beta1 * mean + gain1 * g
    v = beta2 * mean_square + gain2 * g * g
    return w - rate * pace * m / (sqrt(v) + floor), m, v


@adam.per_step
def _(step, beta1, beta2, epsilon):
    # In float32, 1 - 0.999 from a rounded 0.999 is off by 1e-5: it is computed here, in double.
    # Numerator and denominator are multiplied by the root of 1 - beta2^t: one product less for
    # each weight (the end of section 2).
    root = sqrt(1.0 - beta2**step)
    return 1.0 - beta1, 1.0 - beta2, root / (1.0 - beta1**step), epsilon * root


@optimizer(
    "Zeiler, Adadelta: an adaptive learning rate method (2012), algorithm 1",
    state=("mean_square", "mean_step"),
    constants=("gain",),
)
def adadelta(w, g, mean_square, mean_step, rate, rho, epsilon, gain):
    """r <- rho r + (1 - rho) g^2; d = g sqrt(s + epsilon) / sqrt(r + epsilon); w <- w - rate d;
    s <- rho s + (1 - rho) d^2"""
    r = rho * mean_square + gain * g * g
    d = g * sqrt(mean_step + epsilon) / sqrt(r + epsilon)
    return w - rate * d, r, rho * mean_step + gain * d * d


@adadelta.per_step
def _(step, rho, epsilon):
    return (1.0 - rho,)


@optimizer(
    "Graves, Generating sequences with recurrent neural networks (2013), section 4.2",
    state=("mean_square", "mean"),
    constants=("gain",),
)
def centered_rmsprop(w, g, mean_square, mean, rate, rho, epsilon, gain):
    """r <- rho r + (1 - rho) g^2; m <- rho m + (1 - rho) g;
    w <- w - rate g / (sqrt(max(r - m^2, 0)) + epsilon)"""
    r = rho * mean_square + gain * g * g
    m = rho * mean + gain * g
    variance = r - m * m
    return w - rate * g / (sqrt(0.0 if variance < 0.0 else variance) + epsilon), r, m


@centered_rmsprop.per_step
def _(step, rho, epsilon):
    return (1.0 - rho,)


@optimizer(
    "Reddi, Kale & Kumar, On the convergence of Adam and beyond, ICLR 2018, algorithm 2",
    state=("mean", "mean_square", "greatest"),
    constants=("gain1", "gain2", "pace", "floor"),
)
def amsgrad(
    w,
    g,
    mean,
    mean_square,
    greatest,
    rate,
    beta1,
    beta2,
    epsilon,
    gain1,
    gain2,
    pace,
    floor,
):
    """m <- beta1 m + (1 - beta1) g; v <- beta2 v + (1 - beta2) g^2; u <- max(u, v);
    w <- w - rate (m / (1 - beta1^t)) / (sqrt(u / (1 - beta2^t)) + epsilon) at update t"""
    m = beta1 * mean + gain1 * g
    v = beta2 * mean_square + gain2 * g * g
    u = v if greatest < v else greatest + 0.0 * v  # NaN of either
    return w - rate * pace * m / (sqrt(u) + floor), m, v, u


@amsgrad.per_step
def _(step, beta1, beta2, epsilon):
    root = sqrt(1.0 - beta2**step)
    return 1.0 - beta1, 1.0 - beta2, root / (1.0 - beta1**step), epsilon * root


@optimizer(
    "Kingma & Ba, Adam, ICLR 2015, algorithm 2",
    state=("mean", "greatest"),
    constants=("gain", "correction"),
)
def adamax(w, g, mean, greatest, rate, beta1, beta2, epsilon, gain, correction):
    """m <- beta1 m + (1 - beta1) g; u <- max(beta2 u, |g| + epsilon);
    w <- w - rate (m / (1 - beta1^t)) / u at update t"""
    m = beta1 * mean + gain * g
    size = (g if g > 0.0 else -g) + epsilon
    decayed = beta2 * greatest
    u = size if decayed < size else decayed
    return w - rate * correction * m / u, m, u


@adamax.per_step
def _(step, beta1, beta2, epsilon):
    return 1.0 - beta1, 1.0 / (1.0 - beta1**step)


@optimizer(
    "Dozat, Incorporating Nesterov momentum into Adam, ICLR 2016 workshop",
    state=("mean", "mean_square"),
    constants=("gain1", "gain2", "ahead", "now", "floor"),
)
def nadam(
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
    ahead,
    now,
    floor,
):
    """m <- beta1 m + (1 - beta1) g; v <- beta2 v + (1 - beta2) g^2; w <- w - rate n /
    (sqrt(v / (1 - beta2^t)) + epsilon), n = beta1 m / (1 - beta1^(t + 1)) + (1 - beta1) g /
    (1 - beta1^t) at update t"""
    m = beta1 * mean + gain1 * g
    v = beta2 * mean_square + gain2 * g * g
    return w - rate * (ahead * m + now * g) / (sqrt(v) + floor), m, v


@nadam.per_step
def _(step, beta1, beta2, epsilon):
    root = sqrt(1.0 - beta2**step)
    return (
        1.0 - beta1,
        1.0 - beta2,
        root * beta1 / (1.0 - beta1 ** (step + 1.0)),
        root * (1.0 - beta1) / (1.0 - beta1**step),
        epsilon * root,
    )


@optimizer(
    "Chen et al., Symbolic discovery of optimization algorithms, NeurIPS 2023",
    state=("mean",),
    constants=("gain1", "gain2"),
)
def lion(w, g, mean, rate, beta1, beta2, gain1, gain2):
    """w <- w - rate sign(beta1 m + (1 - beta1) g); m <- beta2 m + (1 - beta2) g"""
    c = beta1 * mean + gain1 * g
    sign = 1.0 if c > 0.0 else (-1.0 if c < 0.0 else c)
    return w - rate * sign, beta2 * mean + gain2 * g


@lion.per_step
def _(step, beta1, beta2):
    return 1.0 - beta1, 1.0 - beta2


# ---------------------------------------------------------------------------- schedules


@schedule(
    "Bottou, Curtis & Nocedal, Optimization methods for large-scale machine learning, "
    "SIAM Review 60 (2018), section 4.2"
)
def constant(step, rate):
    """rate(k) = rate"""
    return rate


@schedule(
    "Goodfellow, Bengio & Courville, Deep Learning, equation 8.14",
    counts=("decay_steps",),
    final_rate=(0.0, inf),
)
def linear_decay(step, rate, final_rate, decay_steps):
    """rate(k) = (1 - a) rate + a final_rate with a = min(k / decay_steps, 1)"""
    a = step / decay_steps if step < decay_steps else 1.0
    return (1.0 - a) * rate + a * final_rate


@schedule(
    "He et al., Deep residual learning, CVPR 2016, section 3.4: by a tenth at a time",
    counts=("every",),
    factor=(0.0, 1.0),
)
def step_decay(step, rate, factor, every):
    """rate(k) = rate factor^floor(k / every)"""
    return rate * factor ** floor(step / every)


@schedule(
    "Senior et al., An empirical study of learning rates, ICASSP 2013",
    counts=("decay_steps",),
    factor=(0.0, 1.0),
)
def exponential_decay(step, rate, factor, decay_steps):
    """rate(k) = rate factor^(k / decay_steps)"""
    return rate * factor ** (step / decay_steps)


@schedule("Robbins & Monro (1951)", counts=("decay_steps",), decay=(0.0, inf))
def inverse_time_decay(step, rate, decay, decay_steps):
    """rate(k) = rate / (1 + decay k / decay_steps)"""
    return rate / (1.0 + decay * step / decay_steps)


@schedule(
    "Chen et al., DeepLab, TPAMI 40 (2018), section 4.1",
    counts=("decay_steps",),
    final_rate=(0.0, inf),
    power=(0.0, inf),
)
def polynomial_decay(step, rate, final_rate, decay_steps, power=2.0):
    """rate(k) = final_rate + (rate - final_rate) (1 - a)^power with a = min(k / decay_steps, 1)"""
    a = step / decay_steps if step < decay_steps else 1.0
    return final_rate + (rate - final_rate) * (1.0 - a) ** power


@schedule(
    "Loshchilov & Hutter, SGDR, ICLR 2017, equation 5, without restarts",
    counts=("decay_steps",),
    final_rate=(0.0, inf),
)
def cosine_decay(step, rate, final_rate, decay_steps):
    """rate(k) = final_rate + (rate - final_rate) (1 + cos(pi a)) / 2 with
    a = min(k / decay_steps, 1)"""
    a = step / decay_steps if step < decay_steps else 1.0
    return final_rate + (rate - final_rate) * 0.5 * (1.0 + cos(3.141592653589793 * a))


@schedule(
    "Loshchilov & Hutter, SGDR, ICLR 2017, equation 5",
    counts=("period",),
    final_rate=(0.0, inf),
    growth=(1.0, inf),
)
def cosine_restarts(step, rate, final_rate, period, growth=1.0):
    """a cosine decay that starts again after period, period growth, period growth^2, ... steps"""
    # With growth, cycle i starts at step period (growth^i - 1) / (growth - 1). The logarithm may
    # fall short of a whole number by its rounding.
    passed = 1.0 + step * (growth - 1.0) / period
    number = floor(log(passed) / log(growth) + 1e-9) if growth > 1.0 else floor(step / period)
    length = period * growth**number
    start = (length - period) / (growth - 1.0) if growth > 1.0 else period * number
    a = (step - start) / length
    return final_rate + (rate - final_rate) * 0.5 * (1.0 + cos(3.141592653589793 * a))


@schedule(
    "Smith & Topin, Super-convergence (2018); the cosine form and numbers of PyTorch",
    counts=("total_steps",),
    warm_share=(0.0, 1.0),
    start_divisor=(1.0, inf),
    final_divisor=(1.0, inf),
)
def one_cycle(step, rate, total_steps, warm_share=0.3, start_divisor=25.0, final_divisor=10000.0):
    """half a cosine from s = rate / start_divisor up to rate, over warm_share of total_steps, and
    one down to s / final_divisor"""
    start = rate / start_divisor
    final = start / final_divisor
    top = warm_share * total_steps - 1.0
    last = total_steps - 1.0
    up = 0.5 * (1.0 - cos(3.141592653589793 * step / top)) if top > 0.0 else 1.0
    way = (step - top) / (last - top) if step < last else 1.0
    down = 0.5 * (1.0 + cos(3.141592653589793 * way))
    return start + (rate - start) * up if step < top else final + (rate - final) * down


# ---------------------------------------------------------------------------- penalties


@penalty("Tibshirani, Regression shrinkage and selection via the lasso (1996)")
def l1(w):
    """f(w) = |w|; the derivative at 0 is 0"""
    return w if w > 0.0 else -w


@l1.derivative
def _(w):
    return 1.0 if w > 0.0 else (-1.0 if w < 0.0 else w)


@penalty("Goodfellow, Bengio & Courville, Deep Learning, section 7.1.1")
def l2(w):
    """f(w) = w^2 / 2, so that the derivative is w"""
    return 0.5 * w * w


@l2.derivative
def _(w):
    return w


@penalty("Zou & Hastie, The elastic net, J. R. Stat. Soc. B 67 (2005)", l1_share=(0.0, 1.0))
def elastic_net(w, l1_share=0.5):
    """f(w) = l1_share |w| + (1 - l1_share) w^2 / 2"""
    return l1_share * (w if w > 0.0 else -w) + (1.0 - l1_share) * 0.5 * w * w


@elastic_net.derivative
def _(w, l1_share):
    return l1_share * (1.0 if w > 0.0 else (-1.0 if w < 0.0 else w)) + (1.0 - l1_share) * w


@penalty("Bishop, Pattern Recognition and Machine Learning, equation 3.29", p=(1.0, inf))
def lp(w, p):
    """f(w) = |w|^p"""
    size = w if w > 0.0 else -w
    return exp(p * log(size)) if size > 0.0 else size


@lp.derivative
def _(w, p):
    size = w if w > 0.0 else -w
    slope = p * exp((p - 1.0) * log(size)) if size > 0.0 else 0.0 * size
    return slope if w > 0.0 else -slope


# ---------------------------------------------------------------------------- merges


@merge("Griewank & Walther, Evaluating Derivatives, table 2.3")
def subtract(a, b):
    """f(a, b) = a - b"""
    return a - b


@subtract.derivative
def _(a, b):
    return 1.0, -1.0


@merge("Griewank & Walther, Evaluating Derivatives, table 2.3")
def multiply(a, b):
    """f(a, b) = a b"""
    return a * b


@multiply.derivative
def _(a, b):
    return b, a


@merge("Griewank & Walther, Evaluating Derivatives, section 14.1")
def maximum(a, b):
    """f(a, b) = max(a, b); where they are equal each has half the derivative"""
    return a if a > b else (b if b > a else 0.5 * a + 0.5 * b)


@maximum.derivative
def _(a, b):
    first = 1.0 if a > b else (0.0 if b > a else 0.5)
    return first, 1.0 - first


@merge("Griewank & Walther, Evaluating Derivatives, section 14.1")
def minimum(a, b):
    """f(a, b) = min(a, b); where they are equal each has half the derivative"""
    return a if a < b else (b if b < a else 0.5 * a + 0.5 * b)


@minimum.derivative
def _(a, b):
    first = 1.0 if a < b else (0.0 if b < a else 0.5)
    return first, 1.0 - first
