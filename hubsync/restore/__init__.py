"""Brings published files home: from the fastest mirror that is well, checked, whole or not at all."""
