/** Runs mr3d, or any command line, as a user does. */
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

static char output[1 << 18];

/** Runs a command line through the shell, keeps what it prints and gives the exit status. */
static inline int run_command(const char *command) {
  FILE *pipe = popen(command, "r");
  assert_non_null(pipe);
  output[fread(output, 1, sizeof output - 1, pipe)] = '\0';
  const int status = pclose(pipe);
  assert_true(WIFEXITED(status));
  return WEXITSTATUS(status);
}

/** Runs `mr3d WORDS`, $MR3D being the program; both of its streams are kept. */
static inline int mr3d(const char *format, ...) MR3D_PRINTF(1, 2);
static inline int mr3d(const char *format, ...) {
  char words[4000], command[9000];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(words, sizeof words, format, arguments);
  va_end(arguments);
  assert_non_null(getenv("MR3D"));
  snprintf(command, sizeof command, "'%s' %s 2>&1", getenv("MR3D"), words);
  return run_command(command);
}

static inline void assert_said(const char *text) {
  if (!strstr(output, text)) fail_msg("\"%s\" was not said, but: %.3000s", text, output);
}

#endif
