"""How good a result is: the paper's scores and ours, the same for every engine."""
