/**
 * A function whose loops are to do several elements at once (private header): the loops are marked with `omp simd`, the function with this, and it is
 * compiled for wider registers too. Each element is the one of the plain loop, which is what is written down: no operation is left out, joined or
 * reordered, since contraction and fast-math are off.
 */
#ifndef MR3D_SIDE_BY_SIDE_H
#define MR3D_SIDE_BY_SIDE_H

/* Not under a sanitizer, whose runtime is not up yet when a program chooses among the versions. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define MR3D_SIDE_BY_SIDE __attribute__((target_clones("avx2", "default")))
#else
#define MR3D_SIDE_BY_SIDE
#endif

#include <stdint.h>
#include <string.h>

/** n < 2^52, exactly: the low bits of a number in [2^52, 2^53). A conversion as processors do several at once. */
static inline double mr3d_double_of(uint64_t n) {
  n |= UINT64_C(0x4330000000000000);
  double value;
  memcpy(&value, &n, sizeof value);
  return value - 0x1p52;
}

#endif
