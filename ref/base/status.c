/** Status, message and memory (mr3d/status.h). */
#include "mr3d/status.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "large_pages.h"

/* A message is one line of whole characters, whatever names from a hostile file it quotes. */
static void tidy(char *message) {
  size_t length = strlen(message);
  if (length == sizeof((mr3d_error *)0)->message - 1) { /* perhaps cut inside a UTF-8 sequence: drop an unfinished one */
    size_t start = length;
    while (start > 0 && length - start < 4 && ((unsigned char)message[start - 1] & 0xC0) == 0x80)
      start--;
    unsigned char lead = start > 0 ? (unsigned char)message[start - 1] : 0;
    size_t expected = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    if (lead >= 0xC0 && length - start + 1 < expected)
      message[start - 1] = '\0';
  }
  for (char *c = message; *c != '\0'; c++)
    if ((unsigned char)*c < 0x20 || *c == 0x7F)
      *c = '?';
}

mr3d_status mr3d_fail(mr3d_error *error, mr3d_status status, const char *format, ...) {
  if (error == NULL)
    return status;
  char message[sizeof error->message]; /* the arguments may quote the old message */
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  tidy(message);
  error->status = status;
  memcpy(error->message, message, sizeof message);
  return status;
}

mr3d_status mr3d_fail_in(mr3d_error *error, const char *prefix, ...) {
  if (error == NULL)
    return MR3D_INVALID; /* the caller gave up the message and the kind with it */
  char start[sizeof error->message];
  va_list arguments;
  va_start(arguments, prefix);
  vsnprintf(start, sizeof start, prefix, arguments);
  va_end(arguments);
  return mr3d_fail(error, error->status, "%s: %s", start, error->message);
}

/* memory, unless there was none. */
static void *obtained(void *memory, long long count, unsigned long size) {
  if (memory == NULL) {
    fprintf(stderr, "mr3d: out of memory: asked for %lld elements of %lu bytes\n", count, size);
    exit(1);
  }
  mr3d_large_pages(memory, (size_t)count * size);
  return memory;
}

void *mr3d_allocate(long long count, unsigned long size) {
  return obtained(count < 0 ? NULL : calloc(count > 0 ? (size_t)count : 1, size > 0 ? size : 1), count, size);
}

void *mr3d_allocate_unset(long long count, unsigned long size) {
  return obtained(count < 0 ? NULL : reallocarray(NULL, count > 0 ? (size_t)count : 1, size > 0 ? size : 1), count, size);
}
