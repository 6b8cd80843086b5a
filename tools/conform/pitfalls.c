#include "pitfalls.h"

#include <pthread.h>
#include <string.h>
#include <strings.h>

#include "mr3d/status.h"

extern const char mr3d_embedded_pitfalls[]; /* docs/pitfalls.md, put here by embed.c */

#define MR3D_MAX_PITFALLS 64

static mr3d_pitfall catalogue[MR3D_MAX_PITFALLS];
static int count;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/** Cuts `text` at the first `end` and returns what follows it, or NULL. */
static char *cut(char *text, const char *end) {
  char *at = text ? strstr(text, end) : NULL;
  if (!at) return NULL;
  *at = '\0';
  return at + strlen(end);
}

/** The paragraph behind "**label.** " in a section, or "". `section` is left as it is. */
static const char *paragraph(const char *section, const char *label) {
  const char *at = strstr(section, label);
  if (!at) return "";
  at += strlen(label);
  const char *end = strstr(at, "\n\n");
  size_t length = end ? (size_t)(end - at) : strcspn(at, "\n");
  char *copy = mr3d_allocate((long long)length + 1, 1);
  memcpy(copy, at, length);
  return copy;
}

/** A section begins "## P1 mask-length: Title"; tests/conform/cli.c checks that none is malformed. */
static void parse(void) {
  char *text = mr3d_allocate((long long)strlen(mr3d_embedded_pitfalls) + 1, 1); /* kept: the catalogue points into it */
  strcpy(text, mr3d_embedded_pitfalls);
  for (char *section = cut(text, "\n## "); section && count < MR3D_MAX_PITFALLS;) {
    char *next = cut(section, "\n## ");
    mr3d_pitfall *p = &catalogue[count++];
    char *body = cut(section, "\n");
    p->id = section;
    p->slug = cut(section, " ");
    p->title = cut((char *)p->slug, ": ");
    p->mistake = paragraph(body ? body : "", "**Mistake.** ");
    p->effect = paragraph(body ? body : "", "**Effect.** ");
    p->symptom = paragraph(body ? body : "", "**Symptom.** ");
    p->fix = paragraph(body ? body : "", "**Fix.** ");
    section = next;
  }
}

int mr3d_pitfall_count(void) {
  pthread_once(&once, parse);
  return count;
}

const mr3d_pitfall *mr3d_pitfall_at(int index) {
  pthread_once(&once, parse);
  return &catalogue[index];
}

const mr3d_pitfall *mr3d_pitfall_named(const char *name) {
  for (int i = 0; i < mr3d_pitfall_count(); i++)
    if (strcmp(catalogue[i].slug, name) == 0 || strcasecmp(catalogue[i].id, name) == 0) return &catalogue[i];
  return NULL;
}
