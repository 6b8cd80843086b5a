/** The matrix product (product.h): blocks of outputs over threads, tiles of them in registers. */
#include "product.h"

#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_num_procs() 1
#endif
#include <math.h>
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
#define PLAIN(sum, x, w) ((sum) + (x) * (w))
#define FUSED(sum, x, w) fma(x, w, sum)
#define FUSED_SINGLE(sum, x, w) fmaf(x, w, sum)

/* 16 bytes: SSE2 and NEON; elsewhere the compiler takes the vectors apart. */
typedef double pair __attribute__((vector_size(16), aligned(8), may_alias));
typedef float quad __attribute__((vector_size(16), aligned(4), may_alias));
#define FUSED_PAIR(sum, x, w) ((pair){fma(x, (w)[0], (sum)[0]), fma(x, (w)[1], (sum)[1])})
#define FUSED_QUAD(sum, x, w) ((quad){fmaf(x, (w)[0], (sum)[0]), fmaf(x, (w)[1], (sum)[1]), fmaf(x, (w)[2], (sum)[2]), fmaf(x, (w)[3], (sum)[3])})

#define TILE_REAL double
#define TILE_OF ITSELF
#define TILE_BYTES 16
#define TILE_VECTORS 2
#define TILE_TARGET
#define TILE_STEP PLAIN
#define TILE_TERM PLAIN
#define TILE_NAME(part) part##_portable
#include "product_tile.h"

#define TILE_REAL double
#define TILE_OF ITSELF
#define TILE_BYTES 16
#define TILE_VECTORS 2
#define TILE_TARGET
#define TILE_STEP FUSED_PAIR
#define TILE_TERM FUSED
#define TILE_NAME(part) part##_fused_portable
#include "product_tile.h"

#define TILE_REAL float
#define TILE_OF SQUARE
#define TILE_BYTES 16
#define TILE_VECTORS 2
#define TILE_TARGET
#define TILE_STEP FUSED_QUAD
#define TILE_TERM FUSED_SINGLE
#define TILE_NAME(part) part##_squares_portable
#include "product_tile.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,fma"))) /* no processor has the first alone */
#define AVX512 __attribute__((target("avx512f")))

#define TILE_REAL double
#define TILE_OF ITSELF
#define TILE_BYTES 32
#define TILE_VECTORS 2
#define TILE_TARGET AVX2
#define TILE_STEP PLAIN
#define TILE_TERM PLAIN
#define TILE_NAME(part) part##_avx2
#include "product_tile.h"

#define FUSED_256(sum, x, w) (vector) _mm256_fmadd_pd(_mm256_set1_pd(x), (__m256d)(w), (__m256d)(sum))
#define TILE_REAL double
#define TILE_OF ITSELF
#define TILE_BYTES 32
#define TILE_VECTORS 2
#define TILE_TARGET AVX2
#define TILE_STEP FUSED_256
#define TILE_TERM FUSED
#define TILE_NAME(part) part##_fused_avx2
#include "product_tile.h"

#define FUSED_256_SINGLE(sum, x, w) (vector) _mm256_fmadd_ps(_mm256_set1_ps(x), (__m256)(w), (__m256)(sum))
#define TILE_REAL float
#define TILE_OF SQUARE
#define TILE_BYTES 32
#define TILE_VECTORS 2
#define TILE_TARGET AVX2
#define TILE_STEP FUSED_256_SINGLE
#define TILE_TERM FUSED_SINGLE
#define TILE_NAME(part) part##_squares_avx2
#include "product_tile.h"

/* Four registers side by side: the processor has 32, and one with 512 bits takes two turns on some. */
#define TILE_REAL double
#define TILE_OF ITSELF
#define TILE_BYTES 64
#define TILE_VECTORS 4
#define TILE_TARGET AVX512
#define TILE_STEP PLAIN
#define TILE_TERM PLAIN
#define TILE_NAME(part) part##_avx512
#define TILE_FEW few_avx2
#include "product_tile.h"

#define FUSED_512(sum, x, w) (vector) _mm512_fmadd_pd(_mm512_set1_pd(x), (__m512d)(w), (__m512d)(sum))
#define TILE_REAL double
#define TILE_OF ITSELF
#define TILE_BYTES 64
#define TILE_VECTORS 4
#define TILE_TARGET AVX512
#define TILE_STEP FUSED_512
#define TILE_TERM FUSED
#define TILE_NAME(part) part##_fused_avx512
#define TILE_FEW few_fused_avx2
#include "product_tile.h"

#define FUSED_512_SINGLE(sum, x, w) (vector) _mm512_fmadd_ps(_mm512_set1_ps(x), (__m512)(w), (__m512)(sum))
#define TILE_REAL float
#define TILE_OF SQUARE
#define TILE_BYTES 64
#define TILE_VECTORS 4
#define TILE_TARGET AVX512
#define TILE_STEP FUSED_512_SINGLE
#define TILE_TERM FUSED_SINGLE
#define TILE_NAME(part) part##_squares_avx512
#define TILE_FEW few_squares_avx2
#include "product_tile.h"

static int widest_wanted = 64;
static int vector_bytes(void) {
  const bool has_256 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), has_512 = has_256 && __builtin_cpu_supports("avx512f");
  return widest_wanted >= 64 && has_512 ? 64 : widest_wanted >= 32 && has_256 ? 32 : 16;
}
int mr3d_product_widest(int bytes) {
  widest_wanted = bytes;
  return vector_bytes();
}
#define VERSION(name) (vector_bytes() == 64 ? name##_avx512 : vector_bytes() == 32 ? name##_avx2 : name##_portable)
#else
static int vector_bytes(void) { return 16; }
int mr3d_product_widest(int bytes) { return (void)bytes, vector_bytes(); }
#define VERSION(name) name##_portable
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
  void (*const of_block)(const mr3d_product_in *, const double *, int64_t, int64_t, int64_t, double *, double *) = p->fused ? VERSION(block_fused) : VERSION(block);
  (void)threads; /* without OpenMP */
#pragma omp parallel for num_threads(mr3d_thread_count(threads)) schedule(dynamic) if (block_count(p) > 1 && threads != 1)
  for (int64_t block = 0; block < block_count(p); block++) {
    if (p->stored != NULL) {
      few_stored(p, block * BLOCK_OUTPUTS, block_size(p, block), y);
      continue;
    }
    double packed[BLOCK_OUTPUTS * TILE_DEPTH];
    of_block(p, p->x, p->x_row, block * BLOCK_OUTPUTS, block_size(p, block), packed, y);
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
  void (*const of_block)(const mr3d_product_in *, const float *, int64_t, int64_t, int64_t, float *, float *) = VERSION(block_squares);
  (void)threads; /* without OpenMP */
  float *x = mr3d_allocate_unset(p->rows * p->in, sizeof *x);
  for (int64_t r = 0; r < p->rows; r++)
    for (int64_t i = 0; i < p->in; i++)
      x[r * p->in + i] = SQUARE(p->x[r * p->x_row + i]);
#pragma omp parallel for num_threads(mr3d_thread_count(threads)) schedule(dynamic) if (block_count(p) > 1 && threads != 1)
  for (int64_t block = 0; block < block_count(p); block++) {
    float packed[BLOCK_OUTPUTS * TILE_DEPTH];
    of_block(p, x, p->in, block * BLOCK_OUTPUTS, block_size(p, block), packed, squares);
  }
  free(x);
}
