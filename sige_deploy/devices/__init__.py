"""Where the data of a session lives and who works on it: host arrays, or memory that native kernels use."""
