"""Evaluation: how good is a model, are its samples right, are its posteriors calibrated, what is an outlier.

``density``      log-likelihood, bits per dimension, differences of models, the classifier by Bayes' rule
``comparison``   several models on the same data, ready or fitted fold by fold, with paired differences
``importance``   marginal likelihoods of a model/guide pair, and the Pareto k-hat of their weights
``amortization`` what is lost because one guide serves every datum; ``collapse``: which latents it uses
``grid``         guide x objective x seed, in one table
``samples``      two-sample tests with :mod:`~pyrogen.numerics.kernels`; ``classifier``: those by a classifier
``frechet``      sample quality in an ``embedding``; ``kernel_distance`` and ``precision_recall`` likewise
``modes``        which modes of a mixture samples reach; ``trained_classifier``: an embedding from the data at hand
``calibration``  simulation-based calibration; ``ranks``: its statistics; ``regression``: a quantity without likelihood
``local``        calibration at the observed data; ``random_points``: joint coverage from draws alone
``marginals``    calibration of a model's own draws
``misspecification``  are the observed data like simulated ones; ``predictive``: like replicated ones
``restoration``  posteriors over images: PSNR, SSIM, coverage
``edits``        distances of sequences, and error rates, such as that of words
``outliers``     outlier scores, and AUROC: how well a score separates; ``complexity``: how long images are by a code
``gaussian_baseline``  what a density has to beat; ``counts``: the same for models of sequences
``reliability``  are stated probabilities as often right as they say
``attribution``  which of several models is a datum from
``clusters``     are classes that were found without labels those of the labels
``adversarial``  data changed a little to raise a loss
``self_consistency``  do noising and denoising leave the distribution of a diffusion model as it is
``table``        results as text, in rows and columns

Every measure of a model is an :class:`Estimate` with a standard error and a label, or a :class:`TestResult` with a
p-value; but for ``squared_mmd`` and ``energy_distance``, the bare statistics of their tests, and for ``psnr``, ``ssim``
and ``edit_distance``, plain numbers of one image or sequence.
"""

from pyrogen.core.estimate import Estimate, TestResult
from pyrogen.numerics import kernels

from .adversarial import adversarial
from .amortization import amortization_gap
from .attribution import Attribution, attribution
from .calibration import Amortized, Calibration, simulation_based_calibration
from .classifier import classifier_test, cross_validated_classifier_test, ratio_test
from .clusters import matched_clusters
from .collapse import collapse_report
from .comparison import compare
from .complexity import code_length
from .counts import witten_bell
from .density import (
    bayes_classifier,
    bits_per_dimension,
    class_marginal,
    log_likelihood,
    log_likelihood_difference,
    log_probs,
)
from .edits import ErrorRate, edit_distance, error_rates
from .embedding import NamedEmbedding
from .frechet import FrechetDistance, frechet_distance, gaussian_frechet_distance
from .gaussian_baseline import gaussian_baseline
from .grid import grid
from .importance import (
    importance_log_weights,
    importance_weighted_log_likelihood,
    importance_weighted_log_probs,
    pareto_k,
    pareto_k_of,
)
from .kernel_distance import kernel_distance
from .local import LocalCalibration, local_calibration_test
from .marginals import marginal_calibration
from .misspecification import Mahalanobis, NearestNeighbours, misspecification_test
from .modes import ModeCounts, label_counts, mode_counts
from .outliers import (
    auroc,
    density_p_value,
    joint_typicality,
    likelihood_ratio,
    two_sided_p_value,
    typicality,
    typicality_test,
    waic,
)
from .precision_recall import (
    DensityCoverage,
    PrecisionRecall,
    coverage_of_equals,
    density_coverage,
    precision_recall,
)
from .predictive import PredictiveCheck, predictive_check
from .random_points import joint_coverage
from .ranks import Departure, EcdfNull, central_coverage, chi_square_test, highest_coverage
from .regression import RegressionScore
from .reliability import Reliability, reliability
from .restoration import predictive_p_values, psnr, restoration_report, ssim
from .samples import energy_distance, energy_test, mmd_test, squared_mmd
from .self_consistency import SelfConsistency, denoised_by, neighbours, self_consistency
from .table import table
from .trained_classifier import TrainedClassifier, train_classifier

__all__ = [
    "Amortized",
    "Attribution",
    "Calibration",
    "DensityCoverage",
    "Departure",
    "EcdfNull",
    "ErrorRate",
    "Estimate",
    "FrechetDistance",
    "LocalCalibration",
    "Mahalanobis",
    "ModeCounts",
    "NamedEmbedding",
    "NearestNeighbours",
    "PrecisionRecall",
    "PredictiveCheck",
    "RegressionScore",
    "Reliability",
    "SelfConsistency",
    "TestResult",
    "TrainedClassifier",
    "adversarial",
    "amortization_gap",
    "attribution",
    "auroc",
    "bayes_classifier",
    "bits_per_dimension",
    "central_coverage",
    "chi_square_test",
    "class_marginal",
    "classifier_test",
    "code_length",
    "collapse_report",
    "compare",
    "coverage_of_equals",
    "cross_validated_classifier_test",
    "denoised_by",
    "density_coverage",
    "density_p_value",
    "edit_distance",
    "energy_distance",
    "energy_test",
    "error_rates",
    "frechet_distance",
    "gaussian_baseline",
    "gaussian_frechet_distance",
    "grid",
    "highest_coverage",
    "importance_log_weights",
    "importance_weighted_log_likelihood",
    "importance_weighted_log_probs",
    "joint_coverage",
    "joint_typicality",
    "kernel_distance",
    "kernels",
    "label_counts",
    "likelihood_ratio",
    "local_calibration_test",
    "log_likelihood",
    "log_likelihood_difference",
    "log_probs",
    "marginal_calibration",
    "matched_clusters",
    "misspecification_test",
    "mmd_test",
    "mode_counts",
    "neighbours",
    "pareto_k",
    "pareto_k_of",
    "precision_recall",
    "predictive_check",
    "predictive_p_values",
    "psnr",
    "ratio_test",
    "reliability",
    "restoration_report",
    "self_consistency",
    "simulation_based_calibration",
    "squared_mmd",
    "ssim",
    "table",
    "train_classifier",
    "two_sided_p_value",
    "typicality",
    "typicality_test",
    "waic",
    "witten_bell",
]


def __dir__() -> list[str]:
    return __all__
