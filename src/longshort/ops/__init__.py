"""What surrounds a cell: causal convolution, norms, block-diagonal and gated linear layers. Torch only."""
