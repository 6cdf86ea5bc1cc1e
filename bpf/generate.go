package bpf

// The object and its bindings are committed, so that building needs no clang.
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -type reason -type record -type explained -type checked_map -type told -type adopted -type endpoint weft src/weft.c -- -O2 -mcpu=v3 -fno-strict-aliasing -Wall -Wextra -Werror
