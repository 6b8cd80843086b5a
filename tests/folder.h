/** A folder of a test's own. */
#ifndef MR3D_TEST_FOLDER_H
#define MR3D_TEST_FOLDER_H

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/** A folder below $TMPDIR, removed by remove_folder. */
static inline void make_folder(char path[256]) {
  const char *base = getenv("TMPDIR");
  snprintf(path, 256, "%.200s/mr3d-test-XXXXXX", base && *base ? base : "/tmp");
  assert_non_null(mkdtemp(path));
}

static inline int remove_entry(const char *path, const struct stat *status, int type, struct FTW *at) {
  (void)status, (void)type, (void)at;
  return remove(path);
}
static inline void remove_folder(const char *path) { nftw(path, remove_entry, 8, FTW_DEPTH | FTW_PHYS); }

#endif
