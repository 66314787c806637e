"""Training: what happens to a network over epochs, and the record of it."""
