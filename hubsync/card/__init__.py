"""The card: what a run says about itself in its files, put as the Hub shows it, beside what people write."""

CARD = "README.md"
