"""Small experiments: synthetic tasks, and what each kind of block learns of them."""
