"""Plain computations of expected results, which share no code with batchrec."""
