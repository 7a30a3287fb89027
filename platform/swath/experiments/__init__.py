"""What a job does as a whole: train and score a model, evaluate one, forecast a run, ingest a folder."""
