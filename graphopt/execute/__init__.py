"""Running plans: on the threads of this process, and on the workers of a cluster."""
