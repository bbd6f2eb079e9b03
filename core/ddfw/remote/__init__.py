"""Work that travels to other processes and machines."""
