"""Numerical mathematics, without Pyro.

``gaussian_path``            data becoming noise; ``absorbing``: elements becoming unknown
``schedules``, ``grids``     noise over time, and the times at which to step; ``times``: at which to estimate
``ode``, ``runge_kutta``     integrators with step control for each row; ``adjoint``: gradients through them
``trace``                    divergences, exact and estimated
``transport``                which noise goes with which datum
``angles``, ``sphere``       numbers that repeat after whole turns; unit vectors
``markov``                   moves of many chains side by side, and their convergence
``resampling``               of weighted particles
``linear``, ``krylov``       Gaussian conditioning; large matrices, by products with them alone
``supports``, ``scores``     where numbers may lie, and scores that are safe outside
``pairwise``, ``kernels``    distances, and similarities by distance; ``wasserstein``: distances of distributions
``pareto``                   the tails of importance weights; ``contrastive``: ratios by classification
``special``                  logarithms of small differences
``exclusive``                what one thread does at a time
"""
