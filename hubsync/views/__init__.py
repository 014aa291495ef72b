"""Views over the log: the lines that somebody asks for, and the report that is made of them."""
