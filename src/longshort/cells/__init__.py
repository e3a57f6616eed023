"""The maths of the cells, one file a cell: a step, a sequence, and what computes it faster. Torch only.

Call them through `longshort.functional`, which checks shapes, fills in the start state and picks the kernel.
"""
