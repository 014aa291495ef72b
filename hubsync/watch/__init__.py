"""What changed in a source, and when it is whole."""
