"""How a config becomes a run: assembling, checking, the runner with its loops and hooks, and the cost account."""
