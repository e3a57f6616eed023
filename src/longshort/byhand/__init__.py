"""The LSTM worked by hand: the exercise of a widely read article, its numbers, and the rounding rule they follow.

Not the cell itself: that is `longshort.cells.lstm`, and a test holds the two together.
"""

from longshort.byhand.exercise import Exercise, article_lstm, by_hand, exact

__all__ = ["Exercise", "article_lstm", "by_hand", "exact"]
