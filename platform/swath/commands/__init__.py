"""One module a verb: the arguments of each job, and its work in a few lines."""
