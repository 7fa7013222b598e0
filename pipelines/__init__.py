"""From transactions to a gated, registered model: data, steps, the Kubeflow pipeline and its local run."""
