"""How good a server's answers are, measured from outside: judged queries, metrics, advice. Needs no torch."""
