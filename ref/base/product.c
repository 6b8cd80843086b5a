/** The matrix product (product.h): blocks of outputs over threads, tiles of them in registers. */
#include "product.h"

#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_num_procs() 1
#endif
#include <stdlib.h>
#include <string.h>

#include "mr3d/format.h"
#include "mr3d/status.h"

#define TILE_ROWS 6    /* times four registers of 512 bits are 24 sums of the processor's 32 */
#define TILE_DEPTH 448 /* half of Qwen2-0.5B's hidden size: 64 outputs of it are 224 KiB, which a second cache level holds */
#define BLOCK_OUTPUTS 64
#define FEW_SUMS 8
#define FEW_DEPTH 512 /* terms of FEW_SUMS outputs that are widened at a time */
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

/** Elements at .. at+count-1 in binary64. */
static void widen(const mr3d_tensor *stored, int64_t at, int64_t count, double *wide) {
  typedef uint16_t codes __attribute__((vector_size(8), aligned(2), may_alias));
  typedef uint32_t words __attribute__((vector_size(16)));
  typedef float singles __attribute__((vector_size(16)));
  typedef double reals __attribute__((vector_size(32), aligned(8), may_alias));
  const char *from = (const char *)stored->data + (size_t)at * mr3d_dtype_size(stored->dtype);
  if (stored->dtype == MR3D_BF16) {
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) /* a BF16 code is the upper half of a binary32 number */
      *(reals *)(wide + i) = __builtin_convertvector((singles)(__builtin_convertvector(*(const codes *)(from + 2 * i), words) << 16), reals);
    for (; i < count; i++)
      wide[i] = mr3d_bf16_to_double(((const uint16_t *)from)[i]);
  } else if (stored->dtype == MR3D_F32)
    for (int64_t i = 0; i < count; i++)
      wide[i] = ((const float *)from)[i];
  else
    mr3d_tensor_to_double(&(mr3d_tensor){.dtype = stored->dtype, .rank = 1, .shape = {count}, .data = (void *)from}, wide);
}

/** Outputs first .. first+count-1 of weights that are stored narrow, FEW_DEPTH terms widened at a time: y carries the sums from one stretch to the next. */
static void few_stored(const mr3d_product_in *p, int64_t first, int64_t count, double *y) {
  enum { stride = FEW_DEPTH + 8 }; /* else all rows would want the same places of a cache */
  double wide[FEW_SUMS * stride];
  for (int64_t o = first; o < first + count; o += FEW_SUMS) {
    const int64_t n = first + count - o < FEW_SUMS ? first + count - o : FEW_SUMS;
    for (int64_t start = 0; start == 0 || start < p->in; start += FEW_DEPTH) {
      const int64_t depth = p->in - start < FEW_DEPTH ? p->in - start : FEW_DEPTH;
      for (int64_t k = 0; k < FEW_SUMS; k++)
        widen(p->stored, (o + (k < n ? k : 0)) * p->in + start, depth, wide + k * stride);
      for (int64_t r = 0; r < p->rows; r++) {
        double sum[FEW_SUMS] = {0};
        const double *x = p->x + r * p->x_row + start;
        if (start > 0 || p->onto)
          memcpy(sum, y + r * p->y_row + o, sizeof *sum * (size_t)n);
        for (int64_t i = 0; i < depth; i++)
          UNROLLED for (int k = 0; k < FEW_SUMS; k++)
            sum[k] = sum[k] + x[i] * wide[k * stride + i];
        memcpy(y + r * p->y_row + o, sum, sizeof *sum * (size_t)n);
      }
    }
  }
}

void mr3d_product(const mr3d_product_in *p, int threads, double *y) {
  const int bytes = vector_bytes();
  (void)threads; /* without OpenMP */
#pragma omp parallel for num_threads(mr3d_thread_count(threads)) schedule(dynamic) if (block_count(p) > 1 && threads != 1)
  for (int64_t block = 0; block < block_count(p); block++) {
    if (p->stored != NULL) {
      few_stored(p, block * BLOCK_OUTPUTS, block_size(p, block), y);
      continue;
    }
    double packed[BLOCK_OUTPUTS * TILE_DEPTH];
    (bytes == 64 ? block_avx512 : bytes == 32 ? block_avx2 : block_portable)(p, p->x, p->x_row, block * BLOCK_OUTPUTS, block_size(p, block), packed, y);
  }
}

void mr3d_divide(int64_t count, double by, double *x) {
  typedef double vector __attribute__((vector_size(32), aligned(8), may_alias));
  int64_t i = 0;
  for (; i + 4 <= count; i += 4)
    *(vector *)(x + i) = *(vector *)(x + i) / by;
  for (; i < count; i++)
    x[i] = x[i] / by;
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
