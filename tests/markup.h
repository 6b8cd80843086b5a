/** What tests of pages and of XML share. */
#ifndef MR3D_TESTS_MARKUP_H
#define MR3D_TESTS_MARKUP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/** Tags must nest and close, attributes be quoted, & begin an entity; `html` knows elements without end tags. Text of style and script is
 * skipped. */
static inline void check_markup(const char *text, bool html) {
  static const char *const empty[] = {"meta", "link", "br", "input", "hr", NULL};
  char open[64][32];
  int depth = 0;
  for (const char *c = text; *c;) {
    if (*c == '&') {
      size_t n = strspn(c + 1, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789#");
      if (n == 0 || c[1 + n] != ';') fail_msg("a bare &: %.60s", c);
      c += n + 2;
      continue;
    }
    if (*c != '<') {
      if (*c == '>') fail_msg("a bare >: %.60s", c - 20 > text ? c - 20 : text);
      c++;
      continue;
    }
    if (strncmp(c, "<?", 2) == 0 || strncmp(c, "<!", 2) == 0) {
      c = strchr(c, '>') + 1;
      continue;
    }
    bool closing = c[1] == '/', itself = false;
    const char *name = c + 1 + closing;
    size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-");
    if (length == 0 || length > 31) fail_msg("no tag name: %.60s", c);
    for (c = name + length; *c != '>'; c++) { /* attributes */
      if (*c == '"') c = strchr(c + 1, '"');
      if (!c || !*c || *c == '<') fail_msg("a tag that never ends: %.60s", name);
      itself = *c == '/';
    }
    c++;
    for (int i = 0; html && empty[i]; i++) itself = itself || (strlen(empty[i]) == length && strncmp(empty[i], name, length) == 0);
    if (closing) {
      if (depth == 0 || strlen(open[depth - 1]) != length || strncmp(open[depth - 1], name, length) != 0)
        fail_msg("</%.*s> closes <%s>", (int)length, name, depth ? open[depth - 1] : "");
      depth--;
    } else if (!itself) {
      assert_true(depth < 64);
      snprintf(open[depth++], 32, "%.*s", (int)length, name);
      if (html && (strcmp(open[depth - 1], "style") == 0 || strcmp(open[depth - 1], "script") == 0)) {
        char end[40];
        snprintf(end, sizeof end, "</%s>", open[depth - 1]);
        assert_non_null(c = strstr(c, end));
      }
    }
  }
  if (depth) fail_msg("<%s> is never closed", open[depth - 1]);
}

#endif
