"""Measurements of the store beside what one would use instead, and of a whole server under load.

``python -m benchmarks`` runs all of them and prints a table for each, with the command that made it; ``--quick``
scales them down, names choose some. Everything happens in a temporary folder and on the loopback interface, and ends
by itself.

What belongs here: measuring. What the figures should be stands in each table as its target; nothing fails here when
one is missed.
"""
