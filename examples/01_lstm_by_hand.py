"""One LSTM step: by hand, in exact arithmetic, and by the library. The same numbers, from the sheet to the code.

python examples/01_lstm_by_hand.py
"""

from longshort.byhand import Cell, by_hand, exact, exercise
from longshort.byhand.spelling import Speller
from longshort.byhand.to_layer import layer_of

lstm = exercise("lstm")
rounded, precise = lstm.work(by_hand), lstm.work(exact)  # one decimal after every operation, as on paper; and none
speller = Speller(lstm)
for step in lstm.steps[:6]:  # t = 1; the whole sheet has 14 steps
    print(f"{step.number}. {step.title}")
    for quantity in step.quantities:
        print(f"   {speller.equation(quantity.name, 1):42} by hand {rounded.value(quantity.name, 1)}")
cell = Cell("z_f", 1, (0,))
print(f"One cell, with its numbers in place: {speller.worked(cell, rounded)} = {rounded.at(*cell)}")

layer, x, state = layer_of(lstm)  # longshort.LSTM with the sheet's weights
y, last = layer(x, state)
print(f"h₁ by hand {rounded.value('h', 1)}, exact {precise.value('h', 1)}, longshort.LSTM {y[0, 0].tolist()}")
