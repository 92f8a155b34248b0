r"""Many Markov chains at once.

A density is a function :math:`\log f` of a batch of points, known up to a constant: ``f(x: (chains, *event)) ->
(chains,)``, each row of its own. A :class:`~pyrogen.numerics.markov.state.ChainState` holds the points of all chains
with the value and the gradient of the density there, so that no move computes them twice.

``state``         points with their log-density and its gradient
``mass``          the scale and the shape of the target, learned from all chains
``moves``         one step of Langevin dynamics, of MALA, of Hamiltonian Monte Carlo
``discrete``      Gibbs sampling of bits and symbols, in blocks and led by gradients
``paths``         densities on the way from a known one to a target
``annealing``     weighted draws along a path, and the ratio of normalizers
``tempering``     chains at all inverse temperatures of a path, which exchange states
``adaptation``    step sizes and trajectory lengths, learned from all chains
``sampling``      runs of many chains: kernels that learn their settings, warm-up, and going on from a state
``compilation``   densities compiled with their gradients
``convergence``   whether chains have met, and what their draws are worth
"""
