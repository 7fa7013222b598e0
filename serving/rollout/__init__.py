"""The roll-out controller: it alone moves traffic from one model to another."""
