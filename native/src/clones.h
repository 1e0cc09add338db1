// PRIMED_CLONES before a function compiles it once per instruction set; the best one is chosen when
// the module is loaded, and the bits are the same. Elsewhere (Arm, Clang, musl, sanitizers) the
// function is compiled once.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && !defined(__clang__) && \
    !defined(PRIMED_SANITIZED)
#define PRIMED_CLONES \
    __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define PRIMED_CLONES
#endif

// What such a function calls in its loops must be inlined to be compiled with it.
#define PRIMED_INLINE inline __attribute__((always_inline))

#ifdef __CUDACC__
#define PRIMED_HOST_DEVICE __host__ __device__
#else
#define PRIMED_HOST_DEVICE
#endif
