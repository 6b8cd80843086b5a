/** The counter-based generator (docs/generator.md): a value is a function of seed, stream name and index alone. */
#ifndef MR3D_RANDOM_H
#define MR3D_RANDOM_H

#include <stdint.h>

#include "mr3d/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/** A stream: key of Philox4x64-10. */
typedef struct mr3d_stream {
  uint64_t key[2];
} mr3d_stream;

mr3d_stream mr3d_stream_named(uint64_t seed, const char *name);
/** Raw word number `index`. */
uint64_t mr3d_random_raw(mr3d_stream stream, uint64_t index);
/** Raw words first .. first+count-1, faster than one by one and equal to it. */
void mr3d_random_fill(mr3d_stream stream, uint64_t first, int64_t count, uint64_t *words);

typedef enum mr3d_dist { MR3D_UNIFORM, MR3D_NORMAL, MR3D_HEAVY, MR3D_INT, MR3D_CONST, MR3D_ONEHOT, MR3D_N_DISTS } mr3d_dist;

/** A distribution with its adjustments, as in docs/generator.md. Zero-initialise, then set; `scale` 1 must be set. */
typedef struct mr3d_draw {
  mr3d_dist dist;
  double lo, hi;             /**< uniform, int */
  double scale, shift;
  int64_t outlier_every;     /**< 0: none */
  double outlier_by;
  bool repeat;               /**< every row of the second last axis like row 0 */
} mr3d_draw;

mr3d_dist mr3d_dist_named(const char *name); /**< or MR3D_N_DISTS */

/** Fills a tensor of any computing type (floats, I64, BOOL); threads do not change the result. */
void mr3d_random_draw(const mr3d_draw *draw, mr3d_stream stream, mr3d_tensor *tensor);

/** Fills a tensor with the rows `first` .. along the first axis of a larger one's. Requires: rank 1 at least; neither onehot nor repeat. */
void mr3d_random_draw_rows(const mr3d_draw *draw, mr3d_stream stream, int64_t first, mr3d_tensor *rows);

#ifdef __cplusplus
}
#endif
#endif
