"""What the operator declared: found, read, checked and frozen; nothing else reads the file or the environment."""
