/**
 * A furnished room as a stationary laser scanner sees it: the deterministic source of the canonical scene.
 *
 * Only integer arithmetic, the counter-based generator and IEEE + - * / sqrt are used, so every bit is the same on every
 * machine. Units are metres; z points up.
 */
#ifndef MR3D_SCENE_ROOM_H
#define MR3D_SCENE_ROOM_H

#include <stdint.h>

#include "mr3d/tensor.h"

typedef struct mr3d_room_parameters {
  uint64_t seed;
  int64_t rays;                 /**< rows of the scan: one a ray, valid or not */
  double length, width, height; /**< inner size of the room (x, y, z) */
  double origin[3];             /**< where its lowest corner lies in the scanner's frame */
  double noise, noise_per_m2;   /**< standard deviation of the range: noise + noise_per_m2 * range^2 */
  double dropout;               /**< share of rays that return nothing for no visible reason */
} mr3d_room_parameters;

/** The canonical scene: 106,328 rows, 556 tokens of 16^3 cells of 0.025 m (spec.md section 1). */
mr3d_room_parameters mr3d_room_canonical(void);

/**
 * Scans the room. Returns `points` [rays,6] F64 in a new bundle, the caller's: x, y, z (binary32 values) and red, green, blue.
 *
 * Rows without a return are kept, as organised sensors do (REP 117): +infinity where the ray left through the window,
 * NaN where it was dropped or grazed a surface; their colour is 0.
 * Errors: MR3D_INVALID, a size or share out of range, with the number.
 */
mr3d_status mr3d_room_scan(const mr3d_room_parameters *, mr3d_bundle **bundle, mr3d_error *);

#endif
