"""The service on the line: what it says, what it remembers, and the operator's page."""
