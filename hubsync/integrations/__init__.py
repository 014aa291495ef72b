"""Callbacks for training programs: they say that a checkpoint is complete, and may wait until it is published.

Nothing here may end, delay or fail a training: no network, no lock, and every failure is a warning in its log. Only the
first rank acts. Each framework has a module of its own, which needs that framework; this one needs none.
"""
