"""Proves what mirrors hold: receipts, whether a path may be deleted, and what differs."""
