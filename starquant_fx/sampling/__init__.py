"""What generation has in common whatever computes it: rules, checks of arguments, views. Nothing here needs torch."""
