"""What writes: to files, to TensorBoard, MLflow and Weights & Biases, and to a messenger."""
