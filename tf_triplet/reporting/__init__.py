"""Shows results to people: tables, sheets of neighbors, a map of embeddings."""
