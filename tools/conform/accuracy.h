/**
 * How often the diagnosis names the mistake: every mutant, and random pairs, run as a backend that computes in its tier's own arithmetic, on
 * cases that kill it.
 */
#ifndef MR3D_CONFORM_ACCURACY_H
#define MR3D_CONFORM_ACCURACY_H

#include "matrix.h"

typedef enum mr3d_naming {
  MR3D_NAMED,       /**< the finding with most cases is the mistake; of a pair: both are named */
  MR3D_NAMED_ALIKE, /**< another mutant that gives the same answers in all these cases is named, and the mistake beside it */
  MR3D_HALF_NAMED,  /**< of a pair: one */
  MR3D_NAMED_OTHER, /**< something else */
  MR3D_NOT_NAMED,
  MR3D_NOT_SEEN,    /**< in the tier's own arithmetic no case failed */
} mr3d_naming;

typedef struct mr3d_namesake {
  int first, second;  /**< mutants of the matrix; second -1: alone */
  int tier;           /**< of the matrix */
  mr3d_naming naming;
  int asked, failed;  /**< cases */
  char named[256];    /**< the finding with most cases */
} mr3d_namesake;

typedef struct mr3d_accuracy {
  int n;
  mr3d_namesake *all;
  double seconds;
} mr3d_accuracy;

/** All mutants that the matrix says are killed, at each of its tiers, and `pairs` random ones a tier. Errors: those of the work. */
mr3d_status mr3d_accuracy_run(const mr3d_matrix *, int pairs, mr3d_matrix_progress *, void *user, mr3d_accuracy **, mr3d_error *);
void mr3d_accuracy_free(mr3d_accuracy **);
int mr3d_accuracy_count(const mr3d_accuracy *, int tier, bool pairs, mr3d_naming);

#endif
