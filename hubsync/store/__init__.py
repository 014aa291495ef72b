"""The store: a target's private repository, where captured files wait until every mirror has them."""
