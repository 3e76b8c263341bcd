"""A rare class: the accuracy looks fine while it is never found; class weights change that.

Three rows of a hundred belong to class 1, and the classes overlap. Answering "0" to nearly
everything is right in 97% of the cases, so training settles there. With class_weight="balanced"
both classes have the same total weight in the loss: far more of the rare rows are found (recall),
at the price of false alarms.

Source: King and Zeng, Logistic regression in rare events data (2001); Japkowicz and Stephen, The
class imbalance problem: a systematic study (2002).
"""

import numpy as np

import fastnn as fnn

SEED = 0
rng = np.random.default_rng(SEED)


def draw(rows):
    y = (rng.random(rows) < 0.03).astype(int)
    return rng.normal(size=(rows, 2)) + 1.2 * y[:, None], y


(X, y), (X_test, y_test) = draw(4000), draw(20000)


def train(class_weight):
    """Accuracy, and the share of each class that is found, on the test rows."""
    model = fnn.Sequential(
        [fnn.layers.Dense(16, "relu"), fnn.layers.Dense(2, "softmax")],
        seed=SEED,
    )
    model.compile("cross_entropy", "adam", metrics="accuracy")
    model.fit(X, y, epochs=20, class_weight=class_weight, verbose=0)
    answers = model.predict(X_test).argmax(axis=1)
    recall = [(answers[y_test == c] == c).mean() for c in (0, 1)]
    return (answers == y_test).mean(), *recall


print("class weights  accuracy  recall of 0  recall of 1  balanced accuracy")
results = {}
for class_weight in (None, "balanced"):
    accuracy, common, rare = results[class_weight] = train(class_weight)
    print(
        f"{class_weight!s:13}  {accuracy:8.3f}  {common:11.3f}  {rare:11.3f}  "
        f"{(common + rare) / 2:17.3f}"
    )

(accuracy, common, rare), (_, balanced_common, balanced_rare) = results.values()
assert accuracy > 0.95 and rare < 0.3
assert balanced_rare > 0.65
assert balanced_common + balanced_rare > common + rare + 0.3
