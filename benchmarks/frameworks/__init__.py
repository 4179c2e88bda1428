"""One small adapter per framework: what fits, evaluates and predicts a job."""
