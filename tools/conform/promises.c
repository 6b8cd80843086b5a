#include "promises.h"

#include <stdio.h>
#include <string.h>

static const mr3d_promise promises[] = {
    {"scores", MR3D_AT_SCORE},
    {"probabilities", MR3D_AT_PROBABILITY},
    {"products", MR3D_AT_BEFORE_BIAS},
};

const mr3d_promise *mr3d_promise_at(int index) { return index < (int)(sizeof promises / sizeof *promises) ? &promises[index] : NULL; }

mr3d_status mr3d_promises_read(const char *list, uint32_t *kept, mr3d_error *error) {
  static const char *const between = " ,";
  char all[96];
  *kept = 0;
  for (const char *at = list + strspn(list, between); *at; at += strspn(at, between)) {
    const size_t length = strcspn(at, between);
    const mr3d_promise *promise;
    for (int i = 0; (promise = mr3d_promise_at(i)); i++)
      if (strlen(promise->name) == length && memcmp(promise->name, at, length) == 0) break;
    if (!promise) return mr3d_fail(error, MR3D_INVALID, "\"%.*s\" is nothing that can be kept; expected some of %s", (int)(length < 40 ? length : 40), at, mr3d_promises_text(~0u, all));
    *kept |= 1u << promise->point;
    at += length;
  }
  return MR3D_OK;
}

char *mr3d_promises_text(uint32_t kept, char text[96]) {
  const mr3d_promise *promise;
  text[0] = 0;
  for (int i = 0; (promise = mr3d_promise_at(i)); i++) {
    const size_t used = strlen(text);
    if (kept >> promise->point & 1) snprintf(text + used, 96 - used, "%s%s", used ? ", " : "", promise->name);
  }
  return text;
}
