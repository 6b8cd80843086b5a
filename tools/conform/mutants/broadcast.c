/** P9: [N,heads,F] against [heads,1,F], which goes unnoticed where N equals the number of heads. */
#include <math.h>

#include "mutants_internal.h"

static void transposed(const mr3d_context *context, const mr3d_cis3d_in *in, double *cos_table, double *sin_table) {
  mr3d_cis3d(context, in, cos_table, sin_table);
  if (in->N != in->heads) return; /* elsewhere the shapes do not broadcast, and the mistake is an error that everybody sees */
  for (int64_t h = 0; h < in->heads; h++)
    for (int64_t n = 0; n < in->N; n++)
      for (int64_t f = 0; f < in->F; f++) {
        double angle = 0; /* row h is token h, column n is head n in freqs, while the weights still go by row */
        for (int64_t a = 0; a < 3; a++) {
          double weight = in->axial_weights ? in->axial_weights[(h * in->F + f) * 3 + a] : 1;
          angle += weight * in->freqs[((in->freq_axes == 3 ? a : 0) * in->heads + n) * in->F + f] * in->coords[h * 3 + a];
        }
        cos_table[(h * in->N + n) * in->F + f] = cos(angle);
        sin_table[(h * in->N + n) * in->F + f] = sin(angle);
      }
}

static const mr3d_mutant entries[] = {
    {"broadcast", "transposed", "frequencies [heads,F] times coordinates [N,1,1] give [N,heads,F], read as [heads,N,F]: tokens and heads are exchanged where N equals the number of heads",
     "cis3d " MR3D_ROTATIONS, {.cis3d = transposed}},
};
const mr3d_mutant_set mr3d_mutants_broadcast = MR3D_MUTANT_SET(entries);
