"""Records of runs: names and values, MLflow's tracking store, where a run came from."""
