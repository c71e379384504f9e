"""Maps of a logit and the account of it."""
