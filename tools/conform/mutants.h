/** Mutants: the reference with exactly one mistake (docs/pitfalls.md); the suite's proof that a case can fail. */
#ifndef MR3D_CONFORM_MUTANTS_H
#define MR3D_CONFORM_MUTANTS_H

#include "mr3d/server.h"

typedef struct mr3d_mutant {
  const char *slug, *name;     /**< "decode-rope", "position-text-only": mutant:decode-rope/position-text-only */
  const char *says;            /**< what is then true of an output: "the new token is rotated at position 231 instead of 786" */
  const char *ops;             /**< space-separated operators whose answers it can change */
  mr3d_operators operators;    /**< the table with the mistake in it */
  /**
   * Optional: changes the request itself, or answers one that must be refused (decorated inputs). Returns a new request,
   * or NULL when this request is not touched.
   */
  mr3d_bundle *(*decorate)(const mr3d_bundle *request);
  bool hangs;                  /**< never answers (mask-ownership/never-returns) */
} mr3d_mutant;

int mr3d_mutant_count(void);
const mr3d_mutant *mr3d_mutant_at(int index);
/** "slug/name", or NULL. */
const mr3d_mutant *mr3d_mutant_named(const char *slug_and_name);

#endif
