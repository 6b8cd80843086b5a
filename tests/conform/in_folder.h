/** A test group that works in one folder of its own, with cmocka's set-up and tear-down for it. Included last: `folder` is a parameter's name elsewhere. */
#ifndef MR3D_TEST_IN_FOLDER_H
#define MR3D_TEST_IN_FOLDER_H

#include "../folder.h"

static char folder[256];

/** The path of a file there, good until four calls later. */
static inline const char *in_folder(const char *name) {
  static char paths[4][320];
  static int next;
  char *path = paths[next++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  return path;
}

static inline int make(void **state) {
  (void)state;
  make_folder(folder);
  return 0;
}

static inline int drop(void **state) {
  (void)state;
  remove_folder(folder);
  return 0;
}

#endif
