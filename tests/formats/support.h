/** What the format tests share: files with given bytes, and refusals that say what they should. */
#ifndef MR3D_TESTS_FORMATS_SUPPORT_H
#define MR3D_TESTS_FORMATS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "mr3d/tensor.h"

/** A path of this process in the temporary folder; the caller removes the file. */
static inline const char *temporary(char path[256], const char *name) {
  const char *folder = getenv("TMPDIR");
  snprintf(path, 256, "%s/mr3d-formats-%ld-%s", folder != NULL ? folder : "/tmp", (long)getpid(), name);
  return path;
}

static inline void write_bytes(const char *path, const void *bytes, size_t size) {
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(bytes, 1, size, file), size);
  assert_int_equal(fclose(file), 0);
}

/** The call failed in the way expected, and its message says what was wrong. */
#define assert_refused(call, expected_status, error, words)                                                   \
  do {                                                                                                        \
    (error) = (mr3d_error){0};                                                                                \
    const mr3d_status status_ = (call);                                                                       \
    if (status_ != (expected_status) || (error).status != status_ || strstr((error).message, (words)) == NULL) \
      fail_msg("%s: status %d, message \"%s\"; expected status %d and \"%s\"", #call, (int)status_,           \
               (error).message, (int)(expected_status), (words));                                             \
  } while (0)

/** The call succeeded; else its message is shown. */
#define assert_done(call, error)                                     \
  do {                                                               \
    (error) = (mr3d_error){0};                                       \
    if ((call) != MR3D_OK)                                           \
      fail_msg("%s: \"%s\"", #call, (error).message);                \
  } while (0)

#endif
