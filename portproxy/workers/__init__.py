"""Who relays for a supervisor: a worker in its own process, or several in processes of their own."""
