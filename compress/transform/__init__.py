"""NAT++ (Guo et al. 2021): operations of a trained network replaced by cheaper ones, chosen for accuracy and cost."""
