"""Numerical mathematics that knows no Pyro.

``schedules``, ``grids``     noise over time, and the times at which to step
``ode``, ``runge_kutta``     integrators with step control for each row; ``adjoint``: gradients through them
``trace``                    divergences, exact and estimated
``transport``                which noise goes with which datum
``resampling``               of weighted particles; ``linear``: products with operators
``pairwise``, ``special``    distances; logarithms of small differences
"""
