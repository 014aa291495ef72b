"""Mirrors: how snapshots become the heads of Hub repositories."""
