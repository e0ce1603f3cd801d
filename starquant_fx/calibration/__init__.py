"""Calibration: states to estimate from, activations at the sites, fitting of bases, estimation of TAC."""
