"""Latent-variable models: variational autoencoders, state-space models, pairs of model and guide; their objectives."""

from pyrogen.core.normal import StandardNormal
from pyrogen.renamed import renamed

from .annealing import Annealing, CyclicAnnealing, LinearAnnealing
from .deep_sequence_recipes import deep_markov, gaussian_process_vae, stochastic_recurrent
from .enumeration import EnumeratedElbo, EnumeratedPair
from .image_recipes import convolutional_vae, vq_vae
from .missing import IncompleteLikelihood, impute
from .mixture import MixtureElbo, MixtureVAE, SemiSupervisedElbo
from .model import VAE, BetaElbo
from .objectives import (
    DoublyReparameterized,
    ImportanceWeighted,
    Renyi,
    ReweightedWakeSleep,
    StickingTheLanding,
)
from .pair import Marginal
from .pair_objectives import DoublyReparameterizedPair, ImportanceWeightedPair, RenyiPair, StickingTheLandingPair
from .priors import Classes, ClassNormal, MixturePrior, VampPrior
from .quantized import VQVAE, Codebook, CodeTable
from .recipes import (
    binary_vae,
    categorical_vae,
    conditional_vae,
    mixture_vae,
    semi_supervised_vae,
    vae,
    vamp_vae,
)
from .sequence_recipes import gaussian_process, hidden_markov, linear_gaussian, switching_linear
from .state_space.linear import LinearGaussianModel
from .state_space.model import StateSpaceModel
from .state_space.objectives import Filtering
from .state_space.recurrent import StochasticRecurrentModel
from .state_space.regimes import HiddenMarkovModel
from .state_space.sequences import padded
from .state_space.switching import SwitchingModel
from .table_recipes import missing_data_vae, self_masking, tabular_vae
from .top_down import TopDown, TopDownElbo
from .top_down_recipes import convolutional_top_down, top_down

__getattr__ = renamed(__name__, {"Elbo": "pyrogen.latent.BetaElbo"})

__all__ = [
    "Annealing",
    "BetaElbo",
    "ClassNormal",
    "Classes",
    "CodeTable",
    "Codebook",
    "CyclicAnnealing",
    "DoublyReparameterized",
    "DoublyReparameterizedPair",
    "EnumeratedElbo",
    "EnumeratedPair",
    "ImportanceWeighted",
    "ImportanceWeightedPair",
    "Filtering",
    "HiddenMarkovModel",
    "IncompleteLikelihood",
    "LinearAnnealing",
    "LinearGaussianModel",
    "Marginal",
    "MixtureElbo",
    "MixturePrior",
    "MixtureVAE",
    "Renyi",
    "RenyiPair",
    "ReweightedWakeSleep",
    "SemiSupervisedElbo",
    "StandardNormal",
    "StateSpaceModel",
    "StickingTheLanding",
    "StickingTheLandingPair",
    "StochasticRecurrentModel",
    "SwitchingModel",
    "TopDown",
    "TopDownElbo",
    "VAE",
    "VQVAE",
    "VampPrior",
    "binary_vae",
    "categorical_vae",
    "conditional_vae",
    "convolutional_top_down",
    "convolutional_vae",
    "deep_markov",
    "gaussian_process",
    "gaussian_process_vae",
    "hidden_markov",
    "impute",
    "linear_gaussian",
    "missing_data_vae",
    "mixture_vae",
    "padded",
    "self_masking",
    "semi_supervised_vae",
    "stochastic_recurrent",
    "switching_linear",
    "tabular_vae",
    "top_down",
    "vae",
    "vamp_vae",
    "vq_vae",
]


def __dir__() -> list[str]:
    return __all__
