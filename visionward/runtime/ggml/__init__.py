"""ggml and llama.cpp: the library, its devices, graphs and kernels."""
