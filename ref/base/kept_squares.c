/** Sums of squared terms that the runs of one request have in common (mr3d/arithmetic.h). */
#include <stdlib.h>
#include <string.h>

#include "mr3d/arithmetic.h"
#include "mr3d/status.h"

typedef struct product {
  uint64_t call;
  float *squares;
} product;

struct mr3d_kept_squares {
  bool complete;
  int count, room;
  product *products;
};

mr3d_kept_squares *mr3d_kept_squares_new(void) { return mr3d_allocate(1, sizeof(mr3d_kept_squares)); }

void mr3d_kept_squares_free(mr3d_kept_squares **kept) {
  if (*kept == NULL)
    return;
  for (int i = 0; i < (*kept)->count; i++)
    free((*kept)->products[i].squares);
  free((*kept)->products);
  free(*kept);
  *kept = NULL;
}

void mr3d_kept_squares_complete(mr3d_kept_squares *kept) { kept->complete = true; }
bool mr3d_kept_squares_are_complete(const mr3d_kept_squares *kept) { return kept->complete; }

const float *mr3d_kept_squares_find(const mr3d_kept_squares *kept, uint64_t call) {
  for (int i = 0; i < kept->count; i++)
    if (kept->products[i].call == call)
      return kept->products[i].squares;
  return NULL;
}

void mr3d_kept_squares_add(mr3d_kept_squares *kept, uint64_t call, float *squares) {
  if (kept->count == kept->room) {
    kept->room = 2 * kept->room + 8;
    product *more = mr3d_allocate(kept->room, sizeof *more);
    if (kept->count > 0)
      memcpy(more, kept->products, (size_t)kept->count * sizeof *more);
    free(kept->products);
    kept->products = more;
  }
  kept->products[kept->count++] = (product){call, squares};
}
