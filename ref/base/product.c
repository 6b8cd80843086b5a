/** The matrix product (product.h): blocks of outputs over threads, tiles of them in registers. */
#include "product.h"

#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_num_procs() 1
#endif
#include <stdlib.h>
#include <string.h>

#include "mr3d/status.h"

#define TILE_ROWS 6    /* times four registers of 512 bits are 24 sums of the processor's 32 */
#define TILE_DEPTH 448 /* half of Qwen2-0.5B's hidden size: 64 outputs of it are 224 KiB, which a second cache level holds */
#define BLOCK_OUTPUTS 64
#define FEW_ROWS 4 /* packing costs as much as some eight rows */
#define FEW_SUMS 8
/* Loops over registers must be unrolled at every optimisation level above none, else the sums live in memory (three times slower). */
#define UNROLLED _Pragma("GCC unroll 8")
#define ITSELF(w) (w)
#define SQUARE(w) (float)((w) * (w))

/* 16 bytes: SSE2 and NEON; elsewhere the compiler takes the vectors apart. */
#define TILE_REAL double
#define TILE_OF ITSELF
#define TILE_BYTES 16
#define TILE_VECTORS 2
#define TILE_TARGET
#define TILE_SUMS sums_portable
#define TILE_BLOCK block_portable
#define TILE_FEW few_portable
#include "product_tile.h"

#define TILE_REAL float
#define TILE_OF SQUARE
#define TILE_BYTES 16
#define TILE_VECTORS 2
#define TILE_TARGET
#define TILE_SUMS sums_squares_portable
#define TILE_BLOCK block_squares_portable
#define TILE_FEW few_squares_portable
#include "product_tile.h"

#if defined(__x86_64__)
#define TILE_REAL double
#define TILE_OF ITSELF
#define TILE_BYTES 32
#define TILE_VECTORS 2
#define TILE_TARGET __attribute__((target("avx2")))
#define TILE_SUMS sums_avx2
#define TILE_BLOCK block_avx2
#define TILE_FEW few_avx2
#include "product_tile.h"

#define TILE_REAL float
#define TILE_OF SQUARE
#define TILE_BYTES 32
#define TILE_VECTORS 2
#define TILE_TARGET __attribute__((target("avx2")))
#define TILE_SUMS sums_squares_avx2
#define TILE_BLOCK block_squares_avx2
#define TILE_FEW few_squares_avx2
#include "product_tile.h"

/* Four registers side by side: the processor has 32, and one with 512 bits takes two turns on some. */
#define TILE_REAL double
#define TILE_OF ITSELF
#define TILE_BYTES 64
#define TILE_VECTORS 4
#define TILE_TARGET __attribute__((target("avx512f")))
#define TILE_SUMS sums_avx512
#define TILE_BLOCK block_avx512
#define TILE_FEW few_avx2
#define TILE_TAKES_FEW
#include "product_tile.h"

#define TILE_REAL float
#define TILE_OF SQUARE
#define TILE_BYTES 64
#define TILE_VECTORS 4
#define TILE_TARGET __attribute__((target("avx512f")))
#define TILE_SUMS sums_squares_avx512
#define TILE_BLOCK block_squares_avx512
#define TILE_FEW few_squares_avx2
#define TILE_TAKES_FEW
#include "product_tile.h"

static int widest_wanted = 64;
static int vector_bytes(void) {
  return widest_wanted >= 64 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx2") ? 64 : widest_wanted >= 32 && __builtin_cpu_supports("avx2") ? 32 : 16;
}
int mr3d_product_widest(int bytes) {
  widest_wanted = bytes;
  return vector_bytes();
}
#else
#define block_avx512 block_portable
#define block_avx2 block_portable
#define block_squares_avx512 block_squares_portable
#define block_squares_avx2 block_squares_portable
static int vector_bytes(void) { return 16; }
int mr3d_product_widest(int bytes) { return (void)bytes, vector_bytes(); }
#endif

int mr3d_thread_count(int threads) { return threads > 0 ? threads : omp_get_num_procs(); }

static int64_t block_count(const mr3d_product_in *p) { return (p->out + BLOCK_OUTPUTS - 1) / BLOCK_OUTPUTS; }

static int64_t block_size(const mr3d_product_in *p, int64_t block) {
  const int64_t left = p->out - block * BLOCK_OUTPUTS;
  return left < BLOCK_OUTPUTS ? left : BLOCK_OUTPUTS;
}

void mr3d_product(const mr3d_product_in *p, int threads, double *y) {
  const int bytes = vector_bytes();
  (void)threads; /* without OpenMP */
#pragma omp parallel for num_threads(mr3d_thread_count(threads)) schedule(dynamic) if (block_count(p) > 1 && threads != 1)
  for (int64_t block = 0; block < block_count(p); block++) {
    double packed[BLOCK_OUTPUTS * TILE_DEPTH];
    (bytes == 64 ? block_avx512 : bytes == 32 ? block_avx2 : block_portable)(p, p->x, p->x_row, block * BLOCK_OUTPUTS, block_size(p, block), packed, y);
  }
}

void mr3d_product_squares(const mr3d_product_in *p, int threads, float *squares) {
  const int bytes = vector_bytes();
  (void)threads; /* without OpenMP */
  float *x = mr3d_allocate(p->rows * p->in, sizeof *x);
  for (int64_t r = 0; r < p->rows; r++)
    for (int64_t i = 0; i < p->in; i++)
      x[r * p->in + i] = SQUARE(p->x[r * p->x_row + i]);
#pragma omp parallel for num_threads(mr3d_thread_count(threads)) schedule(dynamic) if (block_count(p) > 1 && threads != 1)
  for (int64_t block = 0; block < block_count(p); block++) {
    float packed[BLOCK_OUTPUTS * TILE_DEPTH];
    (bytes == 64 ? block_squares_avx512 : bytes == 32 ? block_squares_avx2 : block_squares_portable)(p, x, p->in, block * BLOCK_OUTPUTS, block_size(p, block), packed, squares);
  }
  free(x);
}
