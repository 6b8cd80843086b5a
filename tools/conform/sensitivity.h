/**
 * How small an error the judge sees: defects of known size are put into honest answers, and the smallest that fails is searched
 * (docs/tolerance.md, "Sensitivity").
 */
#ifndef MR3D_CONFORM_SENSITIVITY_H
#define MR3D_CONFORM_SENSITIVITY_H

#include "case.h"
#include "run.h"

typedef enum mr3d_defect {
  MR3D_DEFECT_SCALE,   /**< every output times 1 + size */
  MR3D_DEFECT_HEAD,    /**< one head times 1 + size */
  MR3D_DEFECT_TOKEN,   /**< one row (token, or token of one head) times 1 + size */
  MR3D_DEFECT_ELEMENT, /**< one element off by size times its row's root mean square */
  MR3D_DEFECT_ANGLE,   /**< rotations: every angle off by size radians */
  MR3D_DEFECT_KEY,     /**< attention: a query loses a key, or a part of it, of weight size */
  MR3D_N_DEFECTS
} mr3d_defect;

/** "outputs x (1 + e)" ... */
const char *mr3d_defect_text(mr3d_defect);

/** One case at one tier. */
typedef struct mr3d_sensed {
  bool asked;                    /**< it has an answer that such an error can be put into */
  bool false_alarm;              /**< the honest answer itself fails */
  double noise;                  /**< the honest answer's root mean square error over the truth's root mean square, of the noisiest output */
  float least[MR3D_N_DEFECTS];   /**< the smallest size that fails, in steps of 2^(1/4); INFINITY: none up to 1; NAN: no such defect there */
} mr3d_sensed;

typedef struct mr3d_sensitivity {
  mr3d_suite *suite;
  int n_cases, n_tiers;
  const mr3d_case **cases;
  mr3d_tier tiers[MR3D_N_TIERS];
  mr3d_sensed *sensed; /**< [tiers][cases] */
  uint64_t seed;
  double seconds;
} mr3d_sensitivity;

typedef struct mr3d_sensitivity_options {
  mr3d_selection selection; /**< cases, and the tiers (0: all but tf32) */
  const char *without;      /**< glob of cases left out; NULL: none */
  uint64_t seed;
  int jobs;
  const char *golden_dir;
} mr3d_sensitivity_options;

/** Each case's last answer is taken. Errors: an empty selection; the reference does not do as a case says. Ownership: mr3d_sensitivity_free. */
mr3d_status mr3d_sensitivity_run(const mr3d_sensitivity_options *, void (*progress)(void *, int done, int total), void *user, mr3d_sensitivity **, mr3d_error *);
void mr3d_sensitivity_free(mr3d_sensitivity **);

/** The smallest size that some case of the operator sees at the tier, and the case (or NULL, and INFINITY or NAN as in `least`). */
double mr3d_sensitivity_least(const mr3d_sensitivity *, int tier, const char *op, mr3d_defect, const mr3d_case **);

#endif
