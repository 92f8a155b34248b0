"""The joint distribution of a program: reading the program, running it many times, and what simulations are."""
