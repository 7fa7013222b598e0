"""What every part of the platform agrees on: inputs, bundles, scoring, policy, settings.

Belongs here: contracts that two or more parts share, and pure decisions.
Does not belong here: training, serving, storage clients, anything that imports pandas, scikit-learn,
MLflow, KServe or KFP. Importing this package is cheap, and a test holds it so.
"""
