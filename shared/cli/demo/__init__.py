"""`finestream demo`: the whole system on one machine, a data set through it, and what came of it in figures."""
