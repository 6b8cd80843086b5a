/** Codes along a z-order curve (encoders.md, "Sonata"). */
#include "mr3d/encoders.h"

/**
 * codes [n]: bit i of x goes to bit 3i+2, of y to 3i+1, of z to 3i; under MR3D_Z_TRANS x and y are exchanged. Exact; distinct cells have distinct codes.
 */
void mr3d_z_order(const mr3d_context *context, mr3d_point_order order, int64_t n, const int64_t *cells, uint64_t *codes) {
  (void)context;
  const int first = order == MR3D_Z_TRANS ? 1 : 0, second = 1 - first;
  for (int64_t p = 0; p < n; p++) {
    const uint64_t high = (uint64_t)cells[3 * p + first], middle = (uint64_t)cells[3 * p + second], low = (uint64_t)cells[3 * p + 2];
    codes[p] = 0;
    for (int i = 0; i < MR3D_Z_ORDER_BITS; i++)
      codes[p] |= (high >> i & 1) << (3 * i + 2) | (middle >> i & 1) << (3 * i + 1) | (low >> i & 1) << (3 * i);
  }
}
