/** Runs mr3d as a user does. */
#ifndef MR3D_TEST_PROGRAM_H
#define MR3D_TEST_PROGRAM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "mr3d/status.h"

static char output[65536];

/** Runs `mr3d WORDS` through the shell, keeps its output (both streams) and gives the exit status. */
static inline int mr3d(const char *format, ...) MR3D_PRINTF(1, 2);
static inline int mr3d(const char *format, ...) {
  char words[3000], command[8000];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(words, sizeof words, format, arguments);
  va_end(arguments);
  snprintf(command, sizeof command, "'%s' %s 2>&1", getenv("MR3D"), words);
  FILE *pipe = popen(command, "r");
  assert_non_null(pipe);
  output[fread(output, 1, sizeof output - 1, pipe)] = '\0';
  const int status = pclose(pipe);
  assert_true(WIFEXITED(status));
  return WEXITSTATUS(status);
}

static inline void assert_said(const char *text) {
  if (!strstr(output, text)) fail_msg("\"%s\" was not said, but: %s", text, output);
}

#endif
