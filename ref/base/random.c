/** Philox4x64-10 streams and the distributions of docs/generator.md (mr3d/random.h). */
#include "mr3d/random.h"

#include <math.h>
#include <string.h>

#include "hash.h"
#include "side_by_side.h"

#define WORDS 4          /* of one Philox block */
#define CHUNK 1024       /* elements drawn at a time: words and values stay in the first-level cache */
#define PARALLEL_FROM 64 /* chunks */

__extension__ typedef unsigned __int128 uint128;

mr3d_stream mr3d_stream_named(uint64_t seed, const char *name) { return (mr3d_stream){{seed, mr3d_fnv1a(name)}}; }

static inline void philox_block(mr3d_stream stream, uint64_t counter, uint64_t word[WORDS]) {
  uint64_t key0 = stream.key[0], key1 = stream.key[1];
  uint64_t c0 = counter, c1 = 0, c2 = 0, c3 = 0;
  for (int round = 0; round < 10; round++) {
    const uint128 product0 = (uint128)UINT64_C(0xD2E7470EE14C6C93) * c0;
    const uint128 product1 = (uint128)UINT64_C(0xCA5A826395121157) * c2;
    c0 = (uint64_t)(product1 >> 64) ^ c1 ^ key0;
    c1 = (uint64_t)product1;
    c2 = (uint64_t)(product0 >> 64) ^ c3 ^ key1;
    c3 = (uint64_t)product0;
    key0 += UINT64_C(0x9E3779B97F4A7C15);
    key1 += UINT64_C(0xBB67AE8584CAA73B);
  }
  word[0] = c0;
  word[1] = c1;
  word[2] = c2;
  word[3] = c3;
}

uint64_t mr3d_random_raw(mr3d_stream stream, uint64_t index) {
  uint64_t word[WORDS];
  philox_block(stream, 1 + index / WORDS, word);
  return word[index % WORDS];
}

void mr3d_random_fill(mr3d_stream stream, uint64_t first, int64_t count, uint64_t *words) {
  for (; count > 0 && first % WORDS != 0; count--)
    *words++ = mr3d_random_raw(stream, first++);
  for (; count >= WORDS; count -= WORDS, first += WORDS, words += WORDS)
    philox_block(stream, 1 + first / WORDS, words);
  for (; count > 0; count--)
    *words++ = mr3d_random_raw(stream, first++);
}

/* ---- distributions: words to binary64 values ---- */

static const char *const names[MR3D_N_DISTS] = {
    [MR3D_UNIFORM] = "uniform", [MR3D_NORMAL] = "normal", [MR3D_HEAVY] = "heavy",
    [MR3D_INT] = "int",         [MR3D_CONST] = "const",   [MR3D_ONEHOT] = "onehot",
};

mr3d_dist mr3d_dist_named(const char *name) {
  int dist = 0;
  while (dist < MR3D_N_DISTS && strcmp(names[dist], name) != 0)
    dist++;
  return (mr3d_dist)dist;
}

/* 16-bit field of a word, the lowest first. */
static inline double field(uint64_t word, int index) { return mr3d_double_of(word >> 16 * index & 0xFFFF); }

static inline double uniform(uint64_t word, double lo, double hi) {
  return lo + (hi - lo) * ((double)(int64_t)(word >> 11) * 0x1p-53);
}

static inline double normal(uint64_t w) {
  return (field(w, 0) + field(w, 1) + field(w, 2) + field(w, 3) - 131070) * 0x1.bb67ae86627e8p-16;
}

static inline double heavy(uint64_t w) {
  const double tail = 1 / sqrt((field(w, 3) + 0.5) / 65536);
  return (field(w, 0) + field(w, 1) + field(w, 2) - 98302.5) * 0x1.0000000080000p-15 * (tail < 8 ? tail : 8);
}

/* Elements first .. first+count-1 of the stream's row-major tensor with `rows` by `columns` in its last two axes. */
MR3D_SIDE_BY_SIDE static void draw_elements(const mr3d_draw *draw, mr3d_stream stream, int64_t first, int64_t count, int64_t rows, int64_t columns,
                          double *value) {
  uint64_t word[CHUNK];
  if (draw->dist != MR3D_CONST && draw->dist != MR3D_ONEHOT)
    mr3d_random_fill(stream, (uint64_t)first, count, word);
  switch (draw->dist) {
  case MR3D_UNIFORM:
    for (int64_t i = 0; i < count; i++)
      value[i] = uniform(word[i], draw->lo, draw->hi);
    break;
  case MR3D_NORMAL:
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
      value[i] = normal(word[i]);
    break;
  case MR3D_HEAVY:
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
      value[i] = heavy(word[i]);
    break;
  case MR3D_INT: {
    const uint64_t choices = (uint64_t)(draw->hi - draw->lo + 1);
    for (int64_t i = 0; i < count; i++)
      value[i] = draw->lo + (double)((word[i] >> 11) % choices);
    break;
  }
  case MR3D_CONST:
  case MR3D_N_DISTS:
    for (int64_t i = 0; i < count; i++)
      value[i] = 1;
    break;
  case MR3D_ONEHOT:
    for (int64_t i = 0; i < count; i++)
      value[i] = (first + i) % columns == (first + i) / columns % rows % columns;
    break;
  }
  const double scale = draw->scale, shift = draw->shift;
#pragma omp simd
  for (int64_t i = 0; i < count; i++)
    value[i] = value[i] * scale + shift; /* two roundings: nothing here is contracted */
  if (draw->outlier_every > 0)
    for (int64_t i = 0; i < count; i++)
      if ((first + i) % columns % draw->outlier_every == draw->outlier_every - 1)
        value[i] *= draw->outlier_by;
}

/* The tensor's elements are the stream's from `offset` on. */
static void draw_from(const mr3d_draw *draw, mr3d_stream stream, int64_t offset, mr3d_tensor *tensor) {
  const int64_t count = mr3d_tensor_count(tensor), chunks = (count + CHUNK - 1) / CHUNK;
  const int64_t columns = tensor->rank > 0 ? tensor->shape[tensor->rank - 1] : 1;
  const int64_t rows = tensor->rank > 1 ? tensor->shape[tensor->rank - 2] : 1;
  const size_t size = mr3d_dtype_size(tensor->dtype);
#pragma omp parallel for if (chunks >= PARALLEL_FROM)
  for (int64_t chunk = 0; chunk < chunks; chunk++) {
    double value[CHUNK];
    const int64_t start = chunk * CHUNK, end = start + CHUNK < count ? start + CHUNK : count;
    for (int64_t i = start, part; i < end; i += part) {
      part = end - i;
      int64_t source = offset + i;
      if (draw->repeat) { /* row by row, each from row 0 of its block */
        const int64_t left = columns - i % columns;
        part = part < left ? part : left;
        source = i - i / columns % rows * columns;
      }
      draw_elements(draw, stream, source, part, rows, columns, value + (i - start));
    }
    mr3d_tensor piece = {.name = tensor->name,
                         .dtype = tensor->dtype,
                         .rank = 1,
                         .shape = {end - start},
                         .data = (char *)tensor->data + (size_t)start * size};
    mr3d_tensor_from_double(&piece, value);
  }
}

void mr3d_random_draw(const mr3d_draw *draw, mr3d_stream stream, mr3d_tensor *tensor) { draw_from(draw, stream, 0, tensor); }

void mr3d_random_draw_rows(const mr3d_draw *draw, mr3d_stream stream, int64_t first, mr3d_tensor *rows) {
  int64_t columns = 1;
  for (int axis = 1; axis < rows->rank; axis++) columns *= rows->shape[axis];
  draw_from(draw, stream, first * columns, rows);
}
