"""Single rows of observed sites, which likelihoods and ratios are about."""
