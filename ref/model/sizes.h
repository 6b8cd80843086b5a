/**
 * Named sizes: shapes written as in docs/protocol.md ("B,H,q,D") and matched against tensors.
 *
 * A name is bound by the configuration, by metadata, or by the first tensor that shows it; every later tensor must agree. That
 * makes each message the same: what the tensor has, what was expected, and where the expected numbers come from.
 */
#ifndef MR3D_SIZES_H
#define MR3D_SIZES_H

#include "mr3d/tensor.h"

typedef struct mr3d_size {
  char name[16], from[64];
  int64_t value;
} mr3d_size;

/** Zero-initialise. `lead` is what ".." stands for: any number of leading sizes. */
typedef struct mr3d_sizes {
  int count;
  mr3d_size bound[24];
  int lead_rank; /**< rank + 1; 0: not yet seen */
  int64_t lead[MR3D_MAX_RANK];
  char lead_from[64];
} mr3d_sizes;

/** Binds a new name, or binds it anew. */
void mr3d_sizes_bind(mr3d_sizes *, const char *name, int64_t value, const char *from, ...) MR3D_PRINTF(4, 5);
/** Whether the name is bound. */
bool mr3d_sizes_has(const mr3d_sizes *, const char *name);
/** Requires: the name is bound (else it ends the program: a bug). */
int64_t mr3d_sizes_get(const mr3d_sizes *, const char *name);

/**
 * Matches a tensor, called `label` in messages, and binds the names it shows first.
 *
 * A pattern lists alternatives apart by '|', each a list of sizes apart by ',': a number, a name, a sum "L+q" or a product "H*D" of two
 * names (the first term of a sum may still be unbound), or ".." at the front. An alternative may end in ";B=1": good for that size only.
 * Errors: MR3D_INVALID; sizes then is unchanged.
 */
mr3d_status mr3d_sizes_match(mr3d_sizes *, const char *label, const mr3d_tensor *, const char *pattern, mr3d_error *);

/** The shape that the pattern's first alternative (without "..") stands for, and its rank; -1 where a name is unbound or a product overflows. */
int mr3d_sizes_shape(const mr3d_sizes *, const char *pattern, int64_t shape[MR3D_MAX_RANK]);

#endif
