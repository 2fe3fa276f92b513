"""The GPU, the processes on it, and host memory, as the system reports them. No torch."""
