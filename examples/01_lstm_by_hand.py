"""One LSTM step: by hand, in exact arithmetic, and by the library. The same numbers, from the sheet to the code.

python examples/01_lstm_by_hand.py
"""

from longshort.byhand import article_lstm, by_hand
from longshort.functional import lstm

exercise = article_lstm()
rounded = exercise.evaluate(by_hand)[0]  # one decimal after every operation, as on paper
exact = exercise.evaluate()[0]
for name in rounded:
    print(f"{name:8} by hand {rounded[name]!s:14} exact {[round(x, 4) for x in exact[name]]}")

x_pre, R, state = exercise.tensors()  # W x for every step, the recurrent weights, and h0, C0
h, last = lstm(x_pre, R, state)
print(f"library  h1 = {[round(x, 4) for x in h[0, 0, 0].tolist()]}")
