"""Faults in random order, reproducible by a seed, under a load that goes on: ``python -m tests.chaos``, `make chaos`.

After each round nothing may be lost, doubled or stuck, and `medd reconcile` must be content.
"""
