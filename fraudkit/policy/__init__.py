"""Decisions: facts + thresholds → Verdict. Purely computational, no side effects, no clock, no client library.

Adapters gather the facts, a policy decides, adapters act. Missing data is never a pass.
"""
