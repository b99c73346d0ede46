"""One page about runs, ensembles and evaluations."""
