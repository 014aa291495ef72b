"""Gives the disk back: removes units that the rules let go, once every required mirror has proved that it holds them."""
