"""Benchmarks of fastbp, for airspeed velocity: kernels, training, start-up, accuracy."""
