"""Everything that runs on a Ray cluster: training, maps and ingests; and the choice between that and this process."""
