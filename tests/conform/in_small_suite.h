/** A test group that works in one folder with a golden set of one case to answer and one to refuse. Included last, as in_folder.h is. */
#ifndef MR3D_TEST_IN_SMALL_SUITE_H
#define MR3D_TEST_IN_SMALL_SUITE_H

#include "in_folder.h"
#include "small_suite.h"

static inline int make_small_suite(void **state) {
  make(state);
  make_set(folder, RMSNORM_CASE("a", "", "") ", " REFUSED_CASE("refused", ""));
  return 0;
}

#endif
